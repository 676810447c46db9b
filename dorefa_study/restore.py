"""A trained trial, read back from its directory."""

from __future__ import annotations

import pathlib

import jax

from dorefa_study.checkpoints import Checkpoints
from dorefa_study.config import TrialConfig, read
from dorefa_study.data.dataset import Split
from dorefa_study.errors import UsageError
from dorefa_study.models import image_channels
from dorefa_study.records import read_object
from dorefa_study.steps import Steps, TrainState, build_steps
from dorefa_study.trial import CHECKPOINTS


def restore_trial(directory: pathlib.Path) -> tuple[TrialConfig, Steps, TrainState, int]:
  """Reads a trial's config and newest checkpoint; writes nothing, so that the trial may be running.

  Args:
    directory: a trial's directory, finished or not.

  Returns:
    The config, the functions, the state, and the number of channels of the trial's images.

  Raises:
    UsageError: the directory is no trial's, has no checkpoint yet, or one that cannot be read.
  """
  fields = read_object(directory / "config.json")
  if fields is None or not (directory / CHECKPOINTS).is_dir():
    raise UsageError(
      f"--workdir: {directory} holds no config.json that can be read, with checkpoints; name the directory of a trial"
    )
  config = read(TrialConfig, fields, f"--workdir: {directory / 'config.json'}: config", is_record=True)
  checkpoints = Checkpoints(directory / CHECKPOINTS, read_only=True)
  try:
    saved = checkpoints.read_newest()
    is_empty = checkpoints.latest_step() is None
  finally:
    checkpoints.close()
  if saved is None:
    problem = f"{directory} has no checkpoint yet" if is_empty else f"every checkpoint of {directory} is damaged"
    raise UsageError(f"--workdir: {problem}")
  channels = image_channels(saved.arrays, str(saved.where))
  steps = build_steps(config, channels=channels, total_steps=1)
  state = saved.state(jax.eval_shape(steps.init, jax.random.key(0)))
  return config, steps, state, channels


def require_channels(images: Split, channels: int, where: str) -> None:
  """Raises UsageError where images have other channels than a trial's.

  Args:
    images: images to be read by the trial's model.
    channels: number of channels of the trial's images.
    where: the flag and the file that the images come from.
  """
  found = images.images.shape[-1]
  if found != channels:
    raise UsageError(f"{where}: images of {found} channels, but the trial's have {channels}")
