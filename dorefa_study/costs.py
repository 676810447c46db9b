"""What a network costs: multiply-accumulates of its layers, bits at work, and bytes."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn

from dorefa_jax import summary
from dorefa_jax.bits import FULL_PRECISION, BitWidths
from dorefa_jax.methods.quantizers import Quantizers
from dorefa_study.config import TrialConfig, parse_bits, parse_rules
from dorefa_study.models import ModelConfig, build_model, exempt_layers
from dorefa_study.objects import parameters_of


@dataclasses.dataclass(frozen=True)
class Costs:
  """What one image costs, of the layers that a study quantizes: the exempt ones are the same in every setting.

  Attributes:
    macs: multiply-accumulates of all layers.
    inference: multiply-accumulates times W times A.
    training: multiply-accumulates times W A + W G, forward and backward-input pass.
    bytes: bytes of all weights, packed at W bits.
  """

  macs: int
  inference: int
  training: int
  bytes: int


@dataclasses.dataclass(frozen=True)
class Layer:
  """A layer of a network, whatever its bits.

  Attributes:
    name: path of its module.
    macs: multiply-accumulates for one image.
    weights: number of weights.
    is_exempt: whether the network does not quantize it.
  """

  name: str
  macs: int
  weights: int
  is_exempt: bool


def costs_of(config: TrialConfig, shape: tuple[int, int, int], num_classes: int) -> Costs | None:
  """The costs of a trial's network, None where its layers cannot be listed (nnx modules, say).

  Args:
    config: the trial.
    shape: [height, width, channels] of its images.
    num_classes: number of classes.

  Example:
    >>> costs_of(TrialConfig("1,2,4"), (40, 40, 3), 10).inference == 2 * 37_064_704
    True
  """
  side = config.data.image_size
  return _costs(config.model, config.bits, config.rules, (side, side, shape[2]) if side else shape, num_classes)


@functools.lru_cache(maxsize=65536)
def _costs(model: ModelConfig, bits: str, rule: str, shape: tuple[int, int, int], num_classes: int) -> Costs | None:
  layers = list_layers(model, shape, num_classes)
  if layers is None:
    return None
  rules = parse_rules(rule, "config.rules", parse_bits(bits, "config.bits"))
  macs = inference = training = stored = 0
  for layer in layers:
    named = rules.rule_of(layer.name)
    widths = named or (BitWidths() if layer.is_exempt else rules.default)
    w, a, g = (int(getattr(widths, part)) for part in ("weights", "activations", "gradients"))
    macs += layer.macs
    stored += -(-layer.weights * w // 8)
    if named or not layer.is_exempt:
      inference += layer.macs * w * a
      training += layer.macs * (w * a + w * g)
  return Costs(macs, inference, training, stored)


@functools.lru_cache(maxsize=256)
def list_layers(model: ModelConfig, shape: tuple[int, int, int], num_classes: int) -> tuple[Layer, ...] | None:
  """The convolution and dense layers of a network, None where they cannot be listed.

  Args:
    model: the network.
    shape: [height, width, channels] of its images.
    num_classes: number of classes.

  Example:
    >>> sum(layer.macs for layer in list_layers(ModelConfig(width=0.125), (40, 40, 3), 10))
    1162976
  """
  try:
    module = build_model(model, num_classes, quantizers=Quantizers(), bits=BitWidths())
    if not isinstance(module, nn.Module):
      return None
    options: dict[str, Any] = {}
    if "bits" in parameters_of(type(module).__call__):
      options["bits"] = BitWidths(FULL_PRECISION, FULL_PRECISION, FULL_PRECISION)
    found = summary(module, (1, *shape), **options).layers
  except Exception:  # somebody's network may refuse in any way what a study can do without
    return None
  exempt = exempt_layers(model)
  return tuple(Layer(layer.name, layer.macs, layer.weights, layer.name in exempt) for layer in found)


def multiply_adds(model: ModelConfig, shape: tuple[int, int, int], num_classes: int) -> int:
  """Multiply-accumulates of the forward pass for one image, 0 where they are not known.

  Example:
    >>> multiply_adds(ModelConfig(width=0.125), (40, 40, 3), 10)
    1162976
  """
  return sum(layer.macs for layer in list_layers(model, shape, num_classes) or ())
