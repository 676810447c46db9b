"""A trained trial, read back from its directory."""

from __future__ import annotations

import pathlib

import jax

from experiments.checkpoints import Checkpoints
from experiments.config import TrialConfig, read
from experiments.errors import UsageError
from experiments.records import read_json
from experiments.steps import Steps, TrainState, build_steps
from experiments.trial import CHECKPOINTS


def restore_trial(directory: pathlib.Path, *, channels: int | None = None) -> tuple[TrialConfig, Steps, TrainState]:
  """Reads a trial's config and newest checkpoint.

  Args:
    directory: of a trial, finished or not.
    channels: of its images; None for the 3 that all data sets but fashion_mnist have.

  Returns:
    The config, the functions and the state.

  Raises:
    UsageError: the directory is no trial's, or has no checkpoint yet.
  """
  saved = read_json(directory / "config.json")
  if saved is None or not (directory / CHECKPOINTS).is_dir():
    raise UsageError(f"--workdir: {directory} holds no config.json with checkpoints; name the directory of a trial")
  config = read(TrialConfig, saved)
  if channels is None:
    channels = 1 if config.data.name == "fashion_mnist" else 3
  steps = build_steps(config, channels=channels, total_steps=1)
  checkpoints = Checkpoints(directory / CHECKPOINTS)
  try:
    state = checkpoints.restore(jax.eval_shape(steps.init, jax.random.key(0)))
  finally:
    checkpoints.close()
  if state is None:
    raise UsageError(f"--workdir: {directory} has no checkpoint yet")
  return config, steps, state
