"""The networks of a study: the one room that knows which there are, what they are called, and what their layers are."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax

from dorefa_jax.bits import BitWidths
from dorefa_jax.kernels import available
from dorefa_jax.kernels.packing import MAX_BITS
from dorefa_jax.methods.quantizers import Quantizers
from dorefa_jax.models import SvhnConvNet
from dorefa_jax.models.svhn import MIN_IMAGE_SIZE, MODEL_WIDTHS, scaled_features
from dorefa_jax.ops import BACKENDS, Backend
from dorefa_study.errors import UsageError, did_you_mean, require
from dorefa_study.groups import convert_scalar
from dorefa_study.methods import runs_on_kernels
from dorefa_study.objects import check_arguments, import_object, is_path, parameters_of

GIVEN = ("num_classes", "bits", "quantizers", "rngs", "dtype")
"""Arguments of a factory that are the study's to give, and none of a config's."""


@dataclasses.dataclass(frozen=True)
class Network:
  """A network of ours.

  Attributes:
    factory: makes it from the arguments of a config.
    check: raises ValueError for arguments that no network can have.
    first, last: names of its first and its last layer, which are exempt unless `quantize_first`, `quantize_last`.
    min_size: side of the smallest images that it takes.
  """

  factory: Callable[..., Any]
  check: Callable[[Mapping[str, Any]], None]
  first: str
  last: str
  min_size: int


def _check_svhn(arguments: Mapping[str, Any]) -> None:
  scaled_features(arguments["width"])
  if not 0 <= arguments["dropout_rate"] < 1:
    raise ValueError(f"dropout_rate must be a number from 0, below 1, got {arguments['dropout_rate']}")
  if arguments["bound"] not in ("method", "clip", "abs_clip"):
    raise ValueError(f"bound must be method, clip or abs_clip, got {arguments['bound']!r}")


NETWORKS: dict[str, Network] = {
  "svhn": Network(SvhnConvNet, _check_svhn, first="conv0", last="fc", min_size=MIN_IMAGE_SIZE),
}
"""{value of config.model.name: network}. A new one is an entry here."""


@dataclasses.dataclass(frozen=True, init=False)
class ModelConfig:
  """Which network a trial trains, and the arguments that its factory gets.

  The arguments are attributes too: `config.width`.

  Attributes:
    name: a network of `NETWORKS`, or `package.module:factory`, a linen or nnx module's class or a function.
    arguments: (name, value) of each argument, sorted.

  Example:
    >>> ModelConfig(width=0.5).width
    0.5
  """

  name: str
  arguments: tuple[tuple[str, Any], ...]

  def __init__(self, name: str = "svhn", **arguments: Any):
    object.__setattr__(self, "name", name)
    object.__setattr__(self, "arguments", tuple(sorted((_defaults(name) | arguments).items())))

  def __getattr__(self, name: str) -> Any:
    if name != "arguments" and not name.startswith("_"):
      found = dict(self.arguments)
      if name in found:
        return found[name]
    raise AttributeError(name)

  def get(self, name: str, default: Any = None) -> Any:
    """An argument's value, or `default` where the network has no such argument."""
    return dict(self.arguments).get(name, default)

  def replaced(self, **arguments: Any) -> ModelConfig:
    """The same network with other arguments."""
    return ModelConfig(self.name, **(dict(self.arguments) | arguments))

  @classmethod
  def from_fields(cls, fields: Mapping[str, Any], where: str, *, is_record: bool) -> ModelConfig:
    """Reads a group of a config, every value checked against the factory's own arguments.

    Args:
      fields: `name` and arguments.
      where: name of the group, for messages.
      is_record: a run has written them.

    Raises:
      UsageError: no such network or argument, or a value of another type.
    """
    name, arguments = fields.get("name", "svhn"), {key: value for key, value in fields.items() if key != "name"}
    if not isinstance(name, str):
      raise UsageError(f"{where}.name must be text, got {name!r}")
    factory, defaults = find_factory(name, f"{where}.name"), _defaults(name)
    known = [key for key in parameters_of(factory) if key not in GIVEN]
    missing = sorted(defaults.keys() - arguments.keys())
    if is_record and missing:
      raise UsageError(f"{where}.{missing[0]} is missing from this record, so that nobody knows what it was")
    check_arguments(factory, arguments, where, given=GIVEN)
    arguments = {key: _typed(value, defaults.get(key), f"{where}.{key}") for key, value in arguments.items()}
    config = cls(name, **arguments)
    if "backend" in known:
      require(config.backend in BACKENDS, f"{where}.backend", "auto, emulated or integer", config.backend)
    if name in NETWORKS:
      try:
        NETWORKS[name].check(dict(config.arguments))
      except ValueError as error:
        raise UsageError(f"{where}.{error}") from None
    return config

  def to_fields(self) -> dict[str, Any]:
    """Name and arguments."""
    return {"name": self.name} | dict(self.arguments)


def _typed(value: Any, default: Any, where: str) -> Any:
  """An argument as its default's type; words are true and false where that is a bool."""
  if isinstance(value, list):
    value = tuple(value)
  if isinstance(default, bool) and isinstance(value, str) and value.lower() in ("true", "false", "yes", "no"):
    return value.lower() in ("true", "yes")
  if isinstance(default, bool) and value in (0, 1):
    return bool(value)
  if isinstance(default, (bool, int, float, str)):
    return convert_scalar(value, type(default), where)
  return value


@functools.cache
def _defaults(name: str) -> dict[str, Any]:
  """The arguments of a factory that have defaults which a record can hold."""
  parameters = parameters_of(find_factory(name, "model.name"))
  return {
    key: parameter.default
    for key, parameter in parameters.items()
    if key not in GIVEN and isinstance(parameter.default, (bool, int, float, str))
  }


def find_factory(name: str, where: str) -> Callable[..., Any]:
  """What makes a network.

  Args:
    name: of `NETWORKS`, or `package.module:factory`.
    where: name of the field, for messages.

  Raises:
    UsageError: there is none of that name.

  Example:
    >>> find_factory("svhn", "config.model.name").__name__
    'SvhnConvNet'
  """
  if name in NETWORKS:
    return NETWORKS[name].factory
  if not is_path(name):
    raise UsageError(
      f"{where} must be package.module:factory or one of ours, got {name!r}{did_you_mean(name, NETWORKS)}"
    )
  factory = import_object(name, where)
  if not callable(factory):
    raise UsageError(f"{where}: {name} is no class or function that makes a network, but {type(factory).__name__}")
  return cast(Callable[..., Any], factory)


def build_model(config: ModelConfig, num_classes: int = 10, **given: Any) -> Any:
  """The module of a trial.

  Args:
    config: which.
    num_classes: number of classes, which a factory gets that takes it.
    **given: `quantizers`, `bits` or `rngs`, likewise.

  Example:
    >>> build_model(ModelConfig(width=0.5)).width
    0.5
  """
  factory = find_factory(config.name, "config.model.name")
  parameters = parameters_of(factory)
  given = {"num_classes": num_classes} | given
  return factory(**dict(config.arguments), **{name: value for name, value in given.items() if name in parameters})


def training_backend(config: ModelConfig, bits: BitWidths, quantizers: Quantizers = Quantizers()) -> Backend:
  """What "auto" means for a trial, whose bit widths are traced: one program serves all that the kernels compute.

  Args:
    config: the network's config.
    bits: the trial's bit widths; of several settings, the largest of each.
    quantizers: the trial's method.

  Returns:
    "integer" on CPU with compiled kernels where W, A and G are 8 bits or fewer and the method is one of
    theirs, else "emulated"; or what the config forces.

  Example:
    >>> training_backend(ModelConfig(), BitWidths())
    'emulated'
  """
  backend = config.get("backend", "auto")
  if backend != "auto":
    return cast(Backend, backend)
  fits = max(dataclasses.astuple(bits)) <= MAX_BITS and runs_on_kernels(quantizers)
  return "integer" if fits and available().is_compiled and jax.default_backend() == "cpu" else "emulated"


def last_kernel(config: ModelConfig, params: Any) -> jax.Array | None:
  """The weights of the last layer, which a recipe may decay; None of a network that is not ours.

  Args:
    config: the network's config.
    params: its parameters.
  """
  return cast(jax.Array, params[NETWORKS[config.name].last]["kernel"]) if config.name in NETWORKS else None


def exempt_layers(config: ModelConfig) -> tuple[str, ...]:
  """The layers that a network of ours does not quantize.

  Example:
    >>> exempt_layers(ModelConfig(quantize_first=True))
    ('fc',)
  """
  if config.name not in NETWORKS:
    return ()
  network = NETWORKS[config.name]
  exempt = ((network.first, config.get("quantize_first")), (network.last, config.get("quantize_last")))
  return tuple(name for name, is_quantized in exempt if not is_quantized)


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
  return (" + first" if model.get("quantize_first") else "") + (" + last" if model.get("quantize_last") else "")
