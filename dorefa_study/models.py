"""The networks of a study: the one room that knows which there are, what they are called, and what their layers are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import jax

from dorefa_jax import BitWidths, summary
from dorefa_jax.kernels import available
from dorefa_jax.kernels.packing import MAX_BITS
from dorefa_jax.models import SvhnConvNet
from dorefa_jax.models.svhn import MODEL_WIDTHS, scaled_features
from dorefa_jax.ops import BACKENDS, Backend
from dorefa_study.errors import UsageError, require

FIRST_LAYER, LAST_LAYER = "conv0", "fc"


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Which network a trial trains.

  Attributes:
    width: factor on the channels of model A.
    bound: h, "clip" or "abs_clip".
    quantize_first: quantize the first convolution too.
    quantize_last: quantize the last layer too.
    dropout_rate: in front of the last convolution.
    backend: "auto", "emulated" or "integer".
  """

  width: float = 1.0
  bound: str = "clip"
  quantize_first: bool = False
  quantize_last: bool = False
  dropout_rate: float = 0.5
  backend: str = "auto"

  def check(self, where: str) -> None:
    """Raises UsageError for a value that no run can use."""
    check_width(self.width, f"{where}.width")
    require(self.bound in ("clip", "abs_clip"), f"{where}.bound", "clip or abs_clip", self.bound)
    require(0 <= self.dropout_rate < 1, f"{where}.dropout_rate", "a number from 0, below 1", self.dropout_rate)
    require(self.backend in BACKENDS, f"{where}.backend", "auto, emulated or integer", self.backend)


def build_model(config: ModelConfig, num_classes: int = 10) -> SvhnConvNet:
  """The network of a trial, not quantized until called with bits.

  Example:
    >>> build_model(ModelConfig(width=0.5)).width
    0.5
  """
  return SvhnConvNet(num_classes=num_classes, **dataclasses.asdict(config))


def training_backend(config: ModelConfig, bits: BitWidths) -> Backend:
  """What "auto" means for a trial, whose bit widths are traced: one program serves all that the kernels compute.

  Args:
    config: the network's config.
    bits: the trial's bit widths.

  Returns:
    "integer" on CPU with compiled kernels where W, A and G are 8 bits or fewer, else "emulated"; or
    what the config forces.

  Example:
    >>> training_backend(ModelConfig(), BitWidths())
    'emulated'
  """
  if config.backend != "auto":
    return cast(Backend, config.backend)
  fits = max(dataclasses.astuple(bits)) <= MAX_BITS
  return "integer" if fits and available().is_compiled and jax.default_backend() == "cpu" else "emulated"


def last_kernel(params: Any) -> jax.Array:
  """The weights of the last layer, which a recipe may decay.

  Args:
    params: the network's parameters.
  """
  return cast(jax.Array, params[LAST_LAYER]["kernel"])


def image_channels(arrays: Mapping[str, Any], where: str) -> int:
  """The channels of the images that parameters were trained on.

  Args:
    arrays: {path: array} of a checkpoint.
    where: the checkpoint, for the message.

  Raises:
    UsageError: the parameters are of a network that is not known here.
  """
  path = f"params/{FIRST_LAYER}/kernel"
  if path not in arrays:
    raise UsageError(f"{where} has no {path}: it is not of a network that this version knows")
  return int(arrays[path].shape[2])


def multiply_adds(config: ModelConfig, image_size: int) -> int:
  """Multiply-accumulates of the forward pass for one image of three channels.

  Example:
    >>> multiply_adds(ModelConfig(width=0.125), 40)
    1162976
  """
  return sum(layer.macs for layer in _layers(config, image_size))


def quantized_multiply_adds(config: ModelConfig, image_size: int) -> int:
  """The same of the layers whose operands are quantized.

  Example:
    >>> quantized_multiply_adds(ModelConfig(width=0.125), 40)
    579136
  """
  exempt = set() if config.quantize_first else {FIRST_LAYER}
  exempt |= set() if config.quantize_last else {LAST_LAYER}
  return sum(layer.macs for layer in _layers(config, image_size) if layer.name not in exempt)


def _layers(config: ModelConfig, image_size: int) -> Any:
  return summary(build_model(config), (1, image_size, image_size, 3)).layers


def model_name(width: float) -> str:
  """The paper's letter of a width, or the width.

  Example:
    >>> model_name(0.25), model_name(0.3)
    ('C', 'width 0.3')
  """
  letters = {value: letter for letter, value in MODEL_WIDTHS.items()}
  return letters.get(width, f"width {width:g}")


def scheme_name(model: ModelConfig) -> str:
  """Which exempt layers a trial quantizes all the same, as table 3 writes it.

  Example:
    >>> scheme_name(ModelConfig(quantize_first=True))
    ' + first'
  """
  return (" + first" if model.quantize_first else "") + (" + last" if model.quantize_last else "")


def check_width(width: float, where: str) -> None:
  """Raises UsageError, which names the field, where a width leaves a layer without channels.

  Example:
    >>> check_width(0.5, "config.model.width")
  """
  try:
    scaled_features(width)
  except ValueError as error:
    raise UsageError(f"{where}: {error}") from None
