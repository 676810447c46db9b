"""Data sets in memory, and their way to the model inside jit."""

from experiments.data.dataset import DataError as DataError
from experiments.data.dataset import Dataset as Dataset
from experiments.data.dataset import Split as Split
