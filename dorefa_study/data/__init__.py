"""Data sets in memory, and their way to the model inside jit."""

from dorefa_study.data.dataset import DataError as DataError
from dorefa_study.data.dataset import Dataset as Dataset
from dorefa_study.data.dataset import Split as Split
