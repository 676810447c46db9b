"""Anybody's network as two functions, whatever it is made of: the trainer asks nothing of it but logits."""

from __future__ import annotations

import dataclasses
import inspect
import zlib
from collections.abc import Mapping
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from dorefa_jax.bits import BitWidths
from dorefa_jax.layer_bits import LayerBits
from dorefa_jax.methods.quantizers import Quantizers
from dorefa_jax.nnx import Conv, Linear, QuantizerParam, assign_bits
from dorefa_study.errors import UsageError
from dorefa_study.models import ModelConfig, build_model, find_factory
from dorefa_study.objects import parameters_of

Variables = dict[str, Any]
"""Collections by name: "params", "quantizers" where a method learns, and what else a network keeps."""

LEARNED = ("params", "quantizers")
"""The collections that an optimizer changes."""


@dataclasses.dataclass(frozen=True)
class Setting:
  """What a call may change about a network.

  Attributes:
    bits: widths of all layers, or by layer; may be traced.
    quantizers: the method; arrays among its leaves may be traced.
  """

  bits: BitWidths | LayerBits
  quantizers: Quantizers


class Network(Protocol):
  """A network: its variables, and how to call it.

  Attributes:
    takes_bits: whether bit widths are an argument of its call, so that one program serves all.
    takes_quantizers: whether a method is, so that its numbers may change while it trains.
    uses_bits, uses_quantizers: whether they reach the network at all.
  """

  @property
  def takes_bits(self) -> bool:
    """See above."""
    ...

  @property
  def takes_quantizers(self) -> bool:
    """See above."""
    ...

  @property
  def uses_bits(self) -> bool:
    """See above."""
    ...

  @property
  def uses_quantizers(self) -> bool:
    """See above."""
    ...

  def init(self, key: jax.Array, images: jax.Array, setting: Setting) -> Variables:
    """Fresh variables."""
    ...

  def apply(
    self, variables: Variables, images: jax.Array, setting: Setting, keys: Mapping[str, jax.Array] | None = None
  ) -> tuple[jax.Array, Variables]:
    """Logits, and the collections that the call changed; `keys` by stream for training, None for evaluation."""
    ...


def build_network(
  config: ModelConfig, num_classes: int, setting: Setting, backend: str, *, is_forced: bool = False
) -> Network:
  """The network of a trial.

  Args:
    config: which.
    num_classes: number of classes.
    setting: static bit widths and method, which a factory gets that takes them.
    backend: what "auto" means in this trial, for networks that have a backend.
    is_forced: whether `backend` goes before the config's own.

  Raises:
    UsageError: the factory makes no linen or nnx module.
  """
  if config.get("backend") == "auto" or (is_forced and config.get("backend") is not None):
    config = config.replaced(backend=backend)
  factory = find_factory(config.name, "config.model.name")
  given: dict[str, Any] = {"quantizers": setting.quantizers}
  if "bits" in parameters_of(factory) and not _calls_with_bits(factory):
    given["bits"] = setting.bits
  if "rngs" in parameters_of(factory):
    return NnxNetwork(config, num_classes, given)
  module = build_model(config, num_classes, **given)
  if isinstance(module, nn.Module):
    return LinenNetwork(module, "bits" in given, "quantizers" in parameters_of(factory))
  kind = type(module).__name__
  needs = "an nnx module, whose factory must take rngs" if isinstance(module, nnx.Module) else f"{kind}"
  raise UsageError(f"config.model.name: {config.name} must make a flax.linen or flax.nnx module, got {needs}")


def _calls_with_bits(factory: Any) -> bool:
  return inspect.isclass(factory) and "bits" in parameters_of(factory.__call__)


@dataclasses.dataclass(frozen=True)
class LinenNetwork:
  """A `flax.linen` module.

  Attributes:
    module: the module.
    was_given_bits, was_given_quantizers: whether its factory took them.
  """

  module: nn.Module
  was_given_bits: bool = False
  was_given_quantizers: bool = False

  @property
  def _takes(self) -> set[str]:
    return set(parameters_of(type(self.module).__call__))

  @property
  def takes_bits(self) -> bool:
    """Whether its call has an argument `bits`."""
    return "bits" in self._takes

  @property
  def takes_quantizers(self) -> bool:
    """Whether its call has an argument `quantizers`."""
    return "quantizers" in self._takes

  @property
  def uses_bits(self) -> bool:
    """Whether bit widths reach it."""
    return self.takes_bits or self.was_given_bits

  @property
  def uses_quantizers(self) -> bool:
    """Whether a method reaches it."""
    return self.takes_quantizers or self.was_given_quantizers

  def init(self, key: jax.Array, images: jax.Array, setting: Setting) -> Variables:
    """Fresh variables."""
    return dict(self.module.init(key, images, **self._options(setting, train=False)))

  def apply(
    self, variables: Variables, images: jax.Array, setting: Setting, keys: Mapping[str, jax.Array] | None = None
  ) -> tuple[jax.Array, Variables]:
    """Logits, and the collections that the call changed."""
    options = self._options(setting, train=keys is not None)
    if keys is None:
      return self.module.apply(variables, images, **options), {}
    mutable = [name for name in variables if name not in LEARNED]
    logits, updates = self.module.apply(variables, images, mutable=mutable, rngs=dict(keys), **options)
    return logits, dict(updates)

  def _options(self, setting: Setting, *, train: bool) -> dict[str, Any]:
    options = {
      "bits": setting.bits,
      "quantizers": setting.quantizers,
      "train": train,
      "training": train,
      "is_training": train,
      "deterministic": not train,
    }
    return {name: value for name, value in options.items() if name in self._takes}


@dataclasses.dataclass(frozen=True)
class NnxNetwork:
  """A `flax.nnx` module, made anew where its variables are, so that it is two pure functions.

  Attributes:
    config: the network.
    num_classes: number of classes.
    given: further arguments of its factory.
  """

  config: ModelConfig
  num_classes: int
  given: Mapping[str, Any]

  @property
  def takes_bits(self) -> bool:
    """Whether its call has an argument `bits`."""
    return "bits" in self._takes()

  @property
  def takes_quantizers(self) -> bool:
    """Whether its call has an argument `quantizers`."""
    return "quantizers" in self._takes()

  @property
  def uses_bits(self) -> bool:
    """Whether bit widths reach it: layers of `dorefa_jax.nnx` are assigned theirs."""
    model = nnx.eval_shape(lambda: build_model(self.config, self.num_classes, **self.given, rngs=nnx.Rngs(0)))
    return (
      self.takes_bits
      or "bits" in self.given
      or any(isinstance(node, Conv | Linear) for _, node in nnx.iter_graph(model))
    )

  @property
  def uses_quantizers(self) -> bool:
    """Whether a method reaches it."""
    factory = find_factory(self.config.name, "config.model.name")
    return self.takes_quantizers or "quantizers" in parameters_of(factory)

  def init(self, key: jax.Array, images: jax.Array, setting: Setting) -> Variables:
    """Fresh variables."""
    _, learned, quantizers, _, rest = self._split(self._make(key, setting))
    parts = {"params": learned, "quantizers": quantizers, "state": rest}
    pure = {name: nnx.to_pure_dict(part) for name, part in parts.items()}
    return {name: part for name, part in pure.items() if part or name == "params"}

  def apply(
    self, variables: Variables, images: jax.Array, setting: Setting, keys: Mapping[str, jax.Array] | None = None
  ) -> tuple[jax.Array, Variables]:
    """Logits, and the collections that the call changed."""
    abstract = nnx.eval_shape(lambda: self._make(jax.random.key(0), setting))
    graph, learned, quantizers, rngs, rest = self._split(abstract)
    for name, part in (("params", learned), ("quantizers", quantizers), ("state", rest)):
      if name in variables:
        nnx.replace_by_pure_dict(part, variables[name])
    source = jax.random.key(0) if keys is None else keys["default"]
    model = nnx.merge(graph, learned, quantizers, _fresh_streams(rngs, source), rest)
    model.eval() if keys is None else model.train()
    options = {"bits": setting.bits, "quantizers": setting.quantizers, "train": keys is not None}
    logits = model(images, **{name: value for name, value in options.items() if name in self._takes()})
    if keys is None:
      return logits, {}
    state = nnx.to_pure_dict(self._split(model)[-1])
    return logits, {"state": state} if state else {}

  def module(self, variables: Variables, setting: Setting) -> nnx.Module:
    """The module with its variables, in evaluation."""
    model = self._make(jax.random.key(0), setting)
    graph, learned, quantizers, rngs, rest = self._split(model)
    for name, part in (("params", learned), ("quantizers", quantizers), ("state", rest)):
      if name in variables:
        nnx.replace_by_pure_dict(part, variables[name])
    merged = nnx.merge(graph, learned, quantizers, rngs, rest)
    merged.eval()
    return merged

  def _make(self, key: jax.Array, setting: Setting) -> Any:
    rngs = nnx.Rngs(key)
    model = build_model(self.config, self.num_classes, **self.given, rngs=rngs)
    if not isinstance(model, nnx.Module):
      raise UsageError(f"config.model.name: {self.config.name} takes rngs and makes no nnx module, but {type(model)}")
    if not self.takes_bits and all(isinstance(width, int) for width in jax.tree.leaves(setting.bits)):
      assign_bits(model, setting.bits)
    return model

  def _takes(self) -> set[str]:
    factory = find_factory(self.config.name, "config.model.name")
    if not inspect.isclass(factory):
      factory = type(nnx.eval_shape(lambda: build_model(self.config, self.num_classes, **self.given, rngs=nnx.Rngs(0))))
    return set(parameters_of(factory.__call__))

  def _split(self, model: Any) -> Any:
    return nnx.split(model, nnx.Param, QuantizerParam, nnx.RngState, ...)


def _fresh_streams(rngs: Any, key: jax.Array) -> Any:
  """The state of a model's PRNG streams, each with a key of its own and nothing drawn: a function of the key alone."""

  def fresh(path: Any, leaf: Any) -> Any:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return jax.random.fold_in(key, zlib.crc32(repr([str(part) for part in path]).encode()))
    return jnp.zeros(leaf.shape, leaf.dtype)

  pure = jax.tree_util.tree_map_with_path(fresh, nnx.to_pure_dict(rngs))
  nnx.replace_by_pure_dict(rngs, pure)
  return rngs
