"""Which trials share a compiled program."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable

from dorefa_jax.kernels.packing import MAX_BITS
from dorefa_study.config import DataConfig, TrainConfig, TrialConfig, parse_bits

ARGUMENTS = (
  "epochs", "learning_rate", "halve_at", "checkpoint_every", "seed", "schedule", "warmup", "init_from", "init_except",
  "probe",
)  # fmt: skip
"""Fields of a recipe that no compiled function depends on: they are arguments, or none of its business."""


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
