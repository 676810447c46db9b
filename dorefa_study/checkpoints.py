"""Atomic checkpoints of a trial, kept by Orbax, with digests by which damage is noticed."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import logging
import os
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from dorefa_study.checkpoint_files import ITEM, find_damage, saved_digest, saved_steps, write_hashes
from dorefa_study.errors import UsageError
from dorefa_study.steps import TrainState

KEPT = 2


class CheckpointError(UsageError):
  """A checkpoint that cannot be used here although its files are not known to be damaged; nothing was touched."""


class _Damaged(Exception):
  """A checkpoint whose files are not what was written."""


@dataclasses.dataclass(frozen=True)
class Saved:
  """What a checkpoint holds, whatever state this version of the code makes.

  Attributes:
    where: directory and step, for messages.
    arrays: {path: array}, with paths such as "params/fc/kernel".
  """

  where: str
  arrays: dict[str, jax.Array]

  def state(self, like: TrainState) -> TrainState:
    """The arrays in the structure of a state.

    Args:
      like: a state of the same shapes; `jax.ShapeDtypeStruct` leaves will do.

    Returns:
      The state.

    Raises:
      CheckpointError: the structure, a shape or a dtype differs.
    """
    self._require_same(by_path(vars(like)), self.arrays)
    return TrainState(**jax.tree_util.tree_map_with_path(lambda path, _: self.arrays[_name(path)], vars(like)))

  def variables(self, like: TrainState) -> dict[str, Any]:
    """The network's variables as they are tested; what else a state holds may be of another version.

    Args:
      like: a state of the same shapes; `jax.ShapeDtypeStruct` leaves will do.

    Returns:
      Collections by name.

    Raises:
      CheckpointError: a name, a shape or a dtype differs.
    """
    names = ("params", "batch_stats", "quantizers", "others", "average")
    parts = {name: getattr(like, name) for name in names}
    self._require_same(by_path(parts), {p: a for p, a in self.arrays.items() if p.partition("/")[0] in names})
    restored = jax.tree_util.tree_map_with_path(lambda path, _: self.arrays[_name(path)], parts)
    return dataclasses.replace(like, **restored).tested_variables

  def _require_same(self, wanted: dict[str, Any], found: dict[str, Any]) -> None:
    def describe(leaf: Any) -> str:
      return "missing" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"

    differing = [
      f"{path} is {describe(found.get(path))} there, {describe(wanted.get(path))} here"
      for path in sorted(found.keys() | wanted.keys())
      if describe(found.get(path)) != describe(wanted.get(path))
    ]
    if differing:
      more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
      raise CheckpointError(
        f"{self.where} holds another state than this config makes with this version of the code and its libraries "
        f"({differing[0]}{more}); nothing was touched"
      )


class Checkpoints:
  """The newest checkpoints of a directory; a process killed while it saves leaves the older one.

  Orbax's manager writes them. It looks into all checkpoints at once, so that one damaged file would hide the others:
  they are read one by one.

  Args:
    directory: directory of the checkpoints.
    read_only: create, rename and delete nothing, not even what a killed process left half written.
  """

  def __init__(self, directory: pathlib.Path, *, read_only: bool = False):
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # what it says of a damaged file is said below, in one line
    self._directory = directory.absolute()
    self._read_only = read_only
    self._manager: ocp.CheckpointManager | None = None
    if not read_only:
      self._manager = self._open_manager()

  def latest_step(self) -> int | None:
    """Number of steps done in the newest checkpoint, None where there is none."""
    return max(saved_steps(self._directory), default=None)

  def save(self, state: TrainState) -> None:
    """Saves a state under its step, once, and only after those that are there: epochs trained again are saved already.

    Raises:
      OSError: the disk is full or cannot be written.
    """
    assert self._manager is not None, "these checkpoints are read only"
    step, latest = int(state.step), self.latest_step()
    if latest is not None and step <= latest:
      return
    tree = vars(state)
    try:
      self._manager.save(step, args=ocp.args.StandardSave(tree), custom_metadata={"digest": digest(by_path(tree))})
    except Exception as error:
      if _mentions(error, errno.ENOSPC) or _mentions(error, errno.EDQUOT):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._directory)) from error
      raise
    write_hashes(self._directory, step, self._manager.all_steps())

  def restore(self, like: TrainState, *, at_most: int | None = None) -> TrainState | None:
    """The newest undamaged checkpoint as a state: `read_newest` and `Saved.state`.

    Args:
      like: a state of the same shapes; `jax.ShapeDtypeStruct` leaves will do.
      at_most: as in `read_newest`.

    Returns:
      The state, None where there is no undamaged checkpoint.

    Raises:
      CheckpointError: as there.
    """
    saved = self.read_newest(at_most=at_most)
    return None if saved is None else saved.state(like)

  def read_newest(self, *, at_most: int | None = None) -> Saved | None:
    """Reads the newest undamaged checkpoint onto the devices that are here.

    A checkpoint that is proven damaged gives way to the one before; unless this is read-only it is
    renamed to `damaged_STEP`. Nothing is ever deleted.

    Args:
      at_most: the largest step to read; None for no limit.

    Returns:
      The arrays as they were saved, None where there is no undamaged checkpoint.

    Raises:
      CheckpointError: a checkpoint cannot be read for a reason other than damage, such as a lack of
        memory or permission.
    """
    steps = sorted(saved_steps(self._directory), reverse=True)
    for step in steps:
      if at_most is not None and step > at_most:
        continue
      try:
        return Saved(f"{self._directory}: checkpoint {step}", self._read(step))
      except _Damaged as damage:
        if self._read_only and (self.latest_step() or 0) > steps[0]:
          return self.read_newest(at_most=at_most)  # a trainer went on meanwhile, and deleted what was being read
        rest = "passed over" if self._read_only else f"set aside as {self._set_aside(step)}"
        print(f"checkpoint {step} is damaged ({damage}); {rest}", flush=True)
    return None

  def close(self) -> None:
    """Releases Orbax's threads."""
    if self._manager is not None:
      self._manager.close()

  def _open_manager(self) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
      max_to_keep=KEPT, enable_async_checkpointing=False, cleanup_tmp_directories=True
    )  # fmt: skip
    try:
      return ocp.CheckpointManager(self._directory, options=options, item_handlers=ocp.StandardCheckpointHandler())
    except (OSError, MemoryError):
      raise
    except Exception as error:  # it reads the metadata of all checkpoints
      damages = {step: self._damage(step) for step in saved_steps(self._directory)}
      for step, damage in damages.items():
        if damage:
          print(f"checkpoint {step} is damaged ({damage}); set aside as {self._set_aside(step)}", flush=True)
      if not any(damages.values()):
        raise CheckpointError(f"{self._directory} cannot be read ({_line(error)}); nothing was touched") from error
      return self._open_manager()

  def _read(self, step: int) -> dict[str, jax.Array]:
    """The arrays of a checkpoint as they were saved, whatever state this version of the code makes."""
    try:
      folder = self._directory / str(step)
      saved = by_path(read_tree(folder / ITEM))
      wanted = saved_digest(folder)
    except MemoryError as error:
      raise CheckpointError(f"{self._directory}: no memory to read checkpoint {step}; nothing was touched") from error
    except Exception as error:  # Orbax and tensorstore raise many types, for damaged files and for others
      damage = self._damage(step)
      if damage:
        raise _Damaged(damage) from error
      raise CheckpointError(
        f"{self._directory}: checkpoint {step} cannot be read ({_line(error)}), although its files are not known "
        "to be damaged; nothing was touched. Try again, or move it elsewhere to go on from an older one"
      ) from error
    if not saved:
      raise _Damaged("it holds no arrays")
    damage = self._damage(step) if wanted is None else ""
    if damage:
      raise _Damaged(damage)
    if wanted is not None and digest(saved) != wanted:
      raise _Damaged("its arrays differ from those that were saved")
    return saved

  def _damage(self, step: int) -> str:
    """What is wrong with a checkpoint's files, "" where nothing is known to be."""
    try:
      return find_damage(self._directory, step)
    except OSError as error:
      raise CheckpointError(
        f"{self._directory / str(step)} cannot be read ({error.strerror}); nothing was touched"
      ) from error

  def _set_aside(self, step: int) -> str:
    name, number = f"damaged_{step}", 1
    while (self._directory / name).exists():
      number += 1
      name = f"damaged_{step}_{number}"
    (self._directory / str(step)).rename(self._directory / name)
    if self._manager is not None:
      self._manager.reload()
    return name


def read_tree(folder: pathlib.Path) -> Any:
  """The arrays that Orbax has saved in a folder, on the devices that are here, whatever devices they were saved on.

  Args:
    folder: holds Orbax's _METADATA.

  Returns:
    Nested lists and dicts of arrays.
  """
  handler = ocp.StandardCheckpointHandler()
  metadata = handler.metadata(folder)
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # the saved one names the devices of another machine
  tree = getattr(metadata, "tree", metadata)
  template = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), tree)
  return handler.restore(folder, args=ocp.args.StandardRestore(template))


def by_path(tree: Any) -> dict[str, Any]:
  """The leaves of a tree by path, which is the same for the lists and dicts that Orbax makes of all containers.

  Example:
    >>> by_path({"params": {"fc": [1, 2]}})
    {'params/fc/0': 1, 'params/fc/1': 2}
  """
  return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _mentions(error: BaseException, number: int) -> bool:
  """Whether an error is, or carries in its text as tensorstore's do, an error number of the system."""
  return getattr(error, "errno", None) == number or os.strerror(number) in str(error)


def _line(error: BaseException) -> str:
  return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def digest(tree: Any) -> str:
  """A hash of all arrays of a tree: equal digests, equal bits.

  Example:
    >>> digest({"a": np.zeros(2)}) == digest({"a": np.zeros(2)})
    True
  """
  sha = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    array = np.asarray(leaf)
    sha.update(repr((jax.tree_util.keystr(path), array.shape, str(array.dtype))).encode())
    sha.update(np.ascontiguousarray(array).data)
  return sha.hexdigest()[:16]
