"""A trained trial, read back from its directory."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from dorefa_jax.bits import BitWidths
from dorefa_study.checkpoints import Checkpoints
from dorefa_study.config import TrialConfig, phase, read
from dorefa_study.data.dataset import Split
from dorefa_study.errors import UsageError
from dorefa_study.methods import build_method
from dorefa_study.models import NETWORKS
from dorefa_study.networks import Network, Setting, Variables, build_network
from dorefa_study.records import read_object
from dorefa_study.results import CHECKPOINTS, DATA
from dorefa_study.schedules import parse_schedule, with_numbers
from dorefa_study.steps import Steps, build_steps


@dataclasses.dataclass(frozen=True)
class Restored:
  """A trial as it stands.

  Attributes:
    config: its config, with the bit widths that it has reached.
    steps: its functions.
    step: number of steps that it has trained.
    variables: its network's, as they are tested.
    shape: [height, width, channels] of its images, as they are in the data set.
    num_classes: number of classes.
    class_names: what they are called, () where nobody knows.
  """

  config: TrialConfig
  steps: Steps
  step: int
  variables: Variables
  shape: tuple[int, int, int]
  num_classes: int
  class_names: tuple[str, ...]

  def network_at(self, backend: str) -> Network:
    """The network with a backend of its own.

    Args:
      backend: "emulated" or "integer".
    """
    return build_network(self.config.model, self.num_classes, self.setting, backend, is_forced=True)

  def at_bits(self, bits: BitWidths) -> Steps:
    """The functions at other bit widths, of all layers.

    Args:
      bits: W, A and G.
    """
    config = dataclasses.replace(self.config, bits=str(bits), rules="", schedule="")
    return build_steps(config, channels=self.shape[2], num_classes=self.num_classes, size=self.shape[:2])

  @property
  def setting(self) -> Setting:
    """Bit widths and method, as they are at the end of the training."""
    numbers = parse_schedule(self.config.schedule, "config.schedule").numbers_at(1.0)
    return Setting(self.steps.setting.bits, with_numbers(build_method(self.config.method), dict(numbers)))

  @property
  def input_shape(self) -> tuple[int, int, int]:
    """[height, width, channels] of the network's own images."""
    side = self.config.data.image_size
    return (side, side, self.shape[2]) if side else self.shape


def restore_trial(directory: pathlib.Path, where: str = "--workdir") -> Restored:
  """Reads a trial's config and newest checkpoint; writes nothing, so that the trial may be running.

  Args:
    directory: a trial's directory, finished or not.
    where: the flag or field that names it, for messages.

  Returns:
    The trial.

  Raises:
    UsageError: the directory is no trial's, has no checkpoint yet, or one that cannot be read.
  """
  fields = read_object(directory / "config.json")
  if fields is None or not (directory / CHECKPOINTS).is_dir():
    raise UsageError(
      f"{where}: {directory} holds no config.json that can be read, with checkpoints; name the directory of a trial"
    )
  config = read(TrialConfig, fields, f"{where}: {directory / 'config.json'}: config", is_record=True)
  checkpoints = Checkpoints(directory / CHECKPOINTS, read_only=True)
  try:
    saved = checkpoints.read_newest()
    is_empty = checkpoints.latest_step() is None
  finally:
    checkpoints.close()
  if saved is None:
    problem = f"{directory} has no checkpoint yet" if is_empty else f"every checkpoint of {directory} is damaged"
    raise UsageError(f"{where}: {problem}")
  data = read_object(directory / DATA) or {}
  shape, classes = _images(config, data, saved.arrays, saved.where)
  config = phase(config, 1.0)
  steps = build_steps(config, channels=shape[2], num_classes=classes, size=shape[:2])
  like = jax.eval_shape(steps.init, jax.random.key(0))
  names = data.get("class_names")
  known = tuple(map(str, names)) if isinstance(names, list) else ()
  return Restored(config, steps, int(saved.arrays["step"]), saved.variables(like), shape, classes, known)


def _images(
  config: TrialConfig, data: Mapping[str, Any], arrays: Mapping[str, Any], where: str
) -> tuple[tuple[int, int, int], int]:
  """Shape and number of classes of a trial's images; of records of earlier versions, from its parameters."""
  shape, classes = data.get("shape"), data.get("classes")
  if isinstance(shape, list) and len(shape) == 3 and isinstance(classes, int):
    return (int(shape[0]), int(shape[1]), int(shape[2])), classes
  network = NETWORKS.get(config.model.name)
  paths = () if network is None else (f"params/{network.first}/kernel", f"params/{network.last}/kernel")
  if not paths or any(path not in arrays for path in paths):
    missing = next((path for path in paths if path not in arrays), f"{DATA} with the images' shape")
    raise UsageError(f"{where} has no {missing}: it is not of a network that this version knows")
  first, last = (arrays[path] for path in paths)
  return (config.data.image_size, config.data.image_size, int(first.shape[2])), int(last.shape[-1])


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
