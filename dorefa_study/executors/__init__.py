"""Where trials run; a new place is a file here and an entry in `EXECUTORS`."""

from collections.abc import Callable

from dorefa_study.executors.base import LOG as LOG
from dorefa_study.executors.base import Executor as Executor
from dorefa_study.executors.base import Slot as Slot
from dorefa_study.executors.base import SlotLostError as SlotLostError
from dorefa_study.executors.local import LocalExecutor as LocalExecutor
from dorefa_study.executors.ray_cluster import RayExecutor as RayExecutor

EXECUTORS: dict[str, Callable[..., Executor]] = {"local": LocalExecutor, "ray": RayExecutor}
"""{value of --executor: class}."""
