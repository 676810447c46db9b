"""Compiled programs: what they are functions of, and which trials share them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any

from dorefa_jax.bits import BitWidths
from dorefa_jax.kernels.packing import MAX_BITS
from dorefa_jax.layer_bits import LayerBits
from dorefa_study.config import DataConfig, TrainConfig, TrialConfig, parse_bits
from dorefa_study.probe import Probe

ARGUMENTS = (
  "epochs", "learning_rate", "halve_at", "checkpoint_every", "seed", "schedule", "warmup", "init_from", "init_except",
  "probe",
)  # fmt: skip
"""Fields of a recipe that no compiled function depends on: they are arguments, or none of its business."""


@dataclasses.dataclass(frozen=True)
class Program:
  """What compiled functions are functions of: trials that have the same one share them.

  Attributes:
    config: the trial, without what is an argument of the functions or not theirs.
    shape: [height, width, channels] of the network's images.
    num_classes: number of classes.
    backend: what "auto" means.
    bits: bit widths, where they are no argument.
    teacher: config of the network that is distilled from.
  """

  config: TrialConfig
  shape: tuple[int, int, int]
  num_classes: int
  backend: str
  bits: BitWidths | LayerBits | None
  teacher: TrialConfig | None = None


class Programs:
  """The functions that the trials of a process have built."""

  def __init__(self) -> None:
    self._functions: dict[Program, dict[str, Any]] = {}
    self._probes: dict[Program, Probe | None] = {}

  def functions(self, program: Program, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The functions of a program, built once."""
    if program not in self._functions:
      self._functions[program] = make()
    return self._functions[program]

  def probe(self, program: Program, make: Callable[[], Probe | None]) -> Probe | None:
    """The function that looks at a program's layers, built once."""
    if program not in self._probes:
      self._probes[program] = make()
    return self._probes[program]


@functools.lru_cache(maxsize=4096)
def program_config(config: TrialConfig) -> TrialConfig:
  """A config without what no compiled function depends on.

  Args:
    config: a trial.

  Example:
    >>> program_config(TrialConfig("1,2,4")) == program_config(TrialConfig("8,8,8"))
    True
  """
  recipe, data = TrainConfig(), DataConfig(image_size=config.data.image_size)
  train = dataclasses.replace(config.train, **{name: getattr(recipe, name) for name in ARGUMENTS})
  return dataclasses.replace(config, bits="32,32,32", rules="", data=data, train=train)


def program_key(config: TrialConfig) -> Hashable:
  """What two trials have equal that share a compiled program, as far as a plan can know.

  Args:
    config: a trial.

  Example:
    >>> program_key(TrialConfig("1,2,4")) == program_key(TrialConfig("32,32,32"))
    False
  """
  bits = parse_bits(config.bits, "config.bits")
  return program_config(config), max(dataclasses.astuple(bits)) <= MAX_BITS
