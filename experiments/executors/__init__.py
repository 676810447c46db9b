"""Where trials run; a new place is a file here and an entry in `EXECUTORS`."""

from collections.abc import Callable

from experiments.executors.base import LOG as LOG
from experiments.executors.base import Executor as Executor
from experiments.executors.base import Slot as Slot
from experiments.executors.local import LocalExecutor as LocalExecutor
from experiments.executors.ray_cluster import RayExecutor as RayExecutor

EXECUTORS: dict[str, Callable[..., Executor]] = {"local": LocalExecutor, "ray": RayExecutor}
"""{value of --executor: class}."""
