"""From a model with quantized layers to a packed one."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from flax import nnx
from flax.errors import FlaxError

from dorefa_jax.bits import BitWidths, check_bit_widths
from dorefa_jax.inference.compiler.compile import compile_graph
from dorefa_jax.inference.compiler.trace import FreezeError, flatten
from dorefa_jax.inference.graph import Segment
from dorefa_jax.inference.packed_model import PackedModel
from dorefa_jax.inference.validate import check_graph
from dorefa_jax.kernels.packing import MAX_BITS
from dorefa_jax.layer_bits import LayerBits

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
EVALUATION_FLAGS = {
  "deterministic": True, "is_training": False, "train": False, "training": False, "use_running_average": True,
}  # fmt: skip
"""Arguments of a model's call that choose evaluation, and their values there."""


def freeze(
  model: nn.Module | nnx.Module | Callable[[jax.Array], jax.Array],
  variables: Any = None,
  *,
  bits: BitWidths | LayerBits | None = None,
  input_shape: Sequence[int] | None = None,
) -> PackedModel:
  """Packs a model for inference: weights as bits, activations as codes, thresholds between them.

  The model's evaluation is traced. Each product of quantized operands becomes an integer layer;
  what lies between two of them (batch norm, bounding function, quantizer: any elementwise
  operations with constants for each channel, and one max pooling) becomes thresholds of integer
  sums, found on the operations themselves: `code(s) = #{i: s >= T_i}`. The first layer, where it
  is not quantized, is a float convolution with thresholds of its own. The rest stays float.

  Args:
    model: a linen or nnx module, or a function of images.
    variables: variables of a linen model; None for the others.
    bits: W and A, 1 to 8, for models that take them in a call; static.
    input_shape: shape of one image without a batch axis, [height, width, channels] or [features];
      A model with a method `input_shape(params)` needs none, as a `SvhnConvNet` for 40x40 images.

  Returns:
    The packed model, whose predictions are the model's in evaluation.

  Raises:
    ValueError: the model cannot be packed, and the message names the operation and the layer; or the
      variables, the input shape or the call's arguments do not fit it.

  Example:
    >>> import jax, jax.numpy as jnp, dorefa_jax as dorefa
    >>> layer = dorefa.linen.Dense(4, bits=BitWidths(1, 2, 32))
    >>> variables = layer.init(jax.random.key(0), jnp.zeros((1, 8)))
    >>> packed = freeze(layer, variables, input_shape=(8,))
    >>> packed(jnp.full((3, 8), 0.5)).shape
    (3, 4)

  References:
    arXiv 1606.06160, section 2.8 and equation 15.
  """
  if bits is not None:
    if not isinstance(bits, LayerBits):
      check_bit_widths(bits)
    if not all(isinstance(value, int) for value in jax.tree.leaves(bits)):
      raise ValueError("a frozen model has static bit widths: pass Python integers")
    if isinstance(bits, BitWidths) and max(bits.weights, bits.activations) > MAX_BITS:
      raise ValueError(f"packed models have weights and activations of 1 to {MAX_BITS} bits, got {bits}")
  if isinstance(model, nn.Module):
    _check_variables(variables)
  elif variables is not None:
    raise ValueError("only linen models have variables apart from themselves: pass None")
  if input_shape is None:
    shape_of = getattr(model, "input_shape", None)  # of models that can tell it from their parameters
    if not callable(shape_of):
      raise ValueError("freeze needs input_shape, the shape of an image without a batch axis, such as (32, 32, 3)")
    input_shape = shape_of(variables["params"])
  input_shape = _sizes(input_shape)
  graph = compile_graph(flatten(_evaluation(model, variables, bits), input_shape))
  check_graph(graph)
  if not any(isinstance(node, Segment) for node in graph.nodes):
    reasons = "".join(f"; {layer}: {reason}" for layer, reason in graph.notes.items())
    raise FreezeError(
      f"nothing to pack: no layer of the model quantizes weights and activations to 8 bits or fewer{reasons}"
    )
  return PackedModel(graph)


def _sizes(input_shape: Any) -> tuple[int, ...]:
  """A shape as Python integers."""
  try:
    sizes = tuple(operator.index(size) for size in input_shape if not isinstance(size, bool))
    is_right = 0 < len(sizes) == len(tuple(input_shape)) and min(sizes) > 0
  except TypeError:
    is_right = False
  if not is_right:
    raise ValueError(f"input_shape must be positive integers, such as (32, 32, 3), got {input_shape!r}")
  return sizes


def _check_variables(variables: Any) -> None:
  if variables is None:
    raise ValueError("freeze needs the variables of a linen model: what model.init returns, or training leaves")
  if not isinstance(variables, Mapping) or "params" not in variables:
    got = (
      f"the keys {', '.join(map(str, list(variables)[:8]))}" if isinstance(variables, Mapping) else repr(variables)[:80]
    )
    raise ValueError(f"variables must be a dict with the key 'params', as model.init returns, got {got}")


def _evaluation(model: Any, variables: Any, bits: BitWidths | LayerBits | None) -> Callable[[jax.Array], jax.Array]:
  """The model in evaluation as a function of images."""
  options: dict[str, Any] = {} if bits is None else {"bits": bits}
  if bits is not None and not _takes_bits(model):
    raise ValueError("the call of the model takes no argument 'bits': leave bits out, and set them in its layers")
  if not isinstance(model, nn.Module | nnx.Module):
    return lambda images: model(images, **options)
  options |= _evaluation_flags(model)
  if isinstance(model, nnx.Module):
    model = nnx.merge(*nnx.split(model))  # a copy: the user's own stays in training
    model.eval()
    return lambda images: model(images, **options)

  def evaluate(images: jax.Array) -> jax.Array:
    try:
      return model.apply(variables, images, **options)
    except FlaxError as error:
      reason = " ".join(str(error).partition(" (https:")[0].split())
      raise ValueError(
        f"the model does not run in evaluation with variables of {', '.join(map(str, variables))} and images of shape "
        f"{images.shape[1:]}: {reason} If it needs to be told that it is not in training, {WAY_OUT}"
      ) from error

  return evaluate


WAY_OUT = (
  "freeze a function: freeze(lambda images: model.apply(variables, images, training=False), input_shape=...), "
  "with the model's own arguments"
)
"""For models whose call takes more than images, bit widths and a known flag."""


def _takes_bits(model: Any) -> bool:
  call = model.__call__ if isinstance(model, nn.Module | nnx.Module) else model
  try:
    parameters = inspect.signature(call).parameters
  except (TypeError, ValueError):  # of a function that tells nothing of itself
    return True
  return "bits" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _evaluation_flags(model: Any) -> dict[str, bool]:
  """The arguments of a model's call that put it in evaluation.

  Raises:
    ValueError: the call needs another argument.
  """
  flags: dict[str, bool] = {}
  for parameter in list(inspect.signature(model.__call__).parameters.values())[1:]:
    if parameter.name in EVALUATION_FLAGS:
      if vars(model).get(parameter.name) is None:  # flax refuses a flag that the module has already
        flags[parameter.name] = EVALUATION_FLAGS[parameter.name]
      continue
    is_needed = parameter.default is parameter.empty and parameter.kind not in VARIADIC
    if is_needed and parameter.name != "bits":
      raise ValueError(f"the model's call needs the argument {parameter.name!r}, which freeze does not know; {WAY_OUT}")
  return flags


__all__ = ["FreezeError", "freeze"]
