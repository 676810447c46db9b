"""From a model with quantized layers to a packed one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from dorefa_jax.bits import BitWidths, check_bit_widths
from dorefa_jax.inference.check import check_graph
from dorefa_jax.inference.compile import compile_graph
from dorefa_jax.inference.flatten import FreezeError, flatten
from dorefa_jax.inference.graph import Segment
from dorefa_jax.inference.packed import PackedModel
from dorefa_jax.kernels.packing import MAX_BITS
from dorefa_jax.models.svhn import MIN_IMAGE_SIZE, SvhnConvNet


def freeze(
  model: nn.Module | nnx.Module | Callable[[jax.Array], jax.Array],
  variables: Any = None,
  *,
  bits: BitWidths | None = None,
  input_shape: Sequence[int] | None = None,
) -> PackedModel:
  """Packs a model for inference: weights as bits, activations as codes, thresholds between them.

  The model's evaluation is traced. Each product of quantized operands becomes an integer layer;
  what lies between two of them (batch norm, bounding function, quantizer: any elementwise
  operations with constants for each channel, and one max pooling) becomes thresholds of integer
  sums, found on the operations themselves: `code(s) = #{i: s >= T_i}`. The first layer, where it
  is not quantized, is a float convolution with thresholds of its own. The rest stays float.

  Args:
    model: of linen or nnx, or a function of images.
    variables: of a linen model; None for the others.
    bits: W and A, 1 to 8, for models that take them in a call; static.
    input_shape: of an image, [height, width, channels] or [features]; `SvhnConvNet` needs none.

  Returns:
    The packed model, whose predictions are the model's in evaluation.

  Raises:
    ValueError: the model cannot be packed; the message names the operation and the layer.

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
    check_bit_widths(bits)
    if not all(isinstance(value, int) for value in (bits.weights, bits.activations)):
      raise ValueError("a frozen model has static bit widths: pass Python integers")
    if max(bits.weights, bits.activations) > MAX_BITS:
      raise ValueError(f"packed models have weights and activations of 1 to {MAX_BITS} bits, got {bits}")
  if input_shape is None:
    if not isinstance(model, SvhnConvNet):
      raise ValueError("freeze needs input_shape, the shape of an image without a batch axis, such as (32, 32, 3)")
    channels = variables["params"]["conv0"]["kernel"].shape[2]
    input_shape = (MIN_IMAGE_SIZE, MIN_IMAGE_SIZE, channels)
  input_shape = tuple(input_shape)
  if not input_shape or not all(isinstance(size, int) and size > 0 for size in input_shape):
    raise ValueError(f"input_shape must be positive integers, such as (32, 32, 3), got {input_shape}")
  graph = compile_graph(flatten(_evaluation(model, variables, bits), input_shape))
  check_graph(graph)
  if not any(isinstance(node, Segment) for node in graph.nodes):
    raise FreezeError("nothing to pack: no layer of the model quantizes weights and activations to 8 bits or fewer")
  return PackedModel(graph)


def _evaluation(model: Any, variables: Any, bits: BitWidths | None) -> Callable[[jax.Array], jax.Array]:
  """The model in evaluation as a function of images."""
  call = model.__call__ if isinstance(model, nn.Module | nnx.Module) else model
  options: dict[str, Any] = {} if bits is None else {"bits": bits}
  if isinstance(model, nn.Module):
    if variables is None:
      raise ValueError("freeze needs the variables of a linen model")
    if "train" in inspect.signature(call).parameters:
      options["train"] = False
    return lambda images: model.apply(variables, images, **options)
  if variables is not None:
    raise ValueError("only linen models have variables apart from themselves: pass None")
  if isinstance(model, nnx.Module):
    model = nnx.merge(*nnx.split(model))  # a copy: the user's own stays in training
    model.eval()
  return lambda images: model(images, **options)


__all__ = ["FreezeError", "freeze"]
