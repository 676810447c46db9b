"""Atomic checkpoints of a trial, kept by Orbax."""

from __future__ import annotations

import hashlib
import logging
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.steps import TrainState


class Checkpoints:
  """The newest checkpoints of a directory; a process killed while it saves leaves the older one."""

  def __init__(self, directory: pathlib.Path):
    logging.getLogger("absl").setLevel(logging.ERROR)
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False, create=True)
    self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

  def latest_step(self) -> int | None:
    """Number of steps done in the newest checkpoint, None where there is none."""
    return self._manager.latest_step()

  def save(self, state: TrainState) -> None:
    """Saves a state under its step, once."""
    step = int(state.step)
    if self.latest_step() != step:
      self._manager.save(step, args=ocp.args.StandardSave(vars(state)))

  def restore(self, like: TrainState) -> TrainState | None:
    """The newest checkpoint that can be read; newer ones, which cannot, are deleted.

    Args:
      like: a state of the same shapes; `jax.ShapeDtypeStruct` leaves will do.

    Returns:
      The state, None where there is none.
    """
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        return TrainState(**self._manager.restore(step, args=ocp.args.StandardRestore(vars(like))))
      except Exception as error:  # Orbax and tensorstore raise many types for damaged files
        print(f"checkpoint {step} cannot be read ({type(error).__name__}), going on from an older one", flush=True)
        self._manager.delete(step)
    return None

  def close(self) -> None:
    """Releases Orbax's threads."""
    self._manager.close()


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
