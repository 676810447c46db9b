"""A block of a network in training as one operation: convolution, gradient quantizer, batch norm, pooling, h.

Between the passes it keeps the codes of its activations, A bits each, and nothing else of their size: the backward
pass computes the convolution anew, in integers, and so gets the same values.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dorefa_jax.bits import BitWidths, levels
from dorefa_jax.kernels import pack_weights
from dorefa_jax.kernels.activation_planes import pack_in_xla, unpack_codes
from dorefa_jax.kernels.conv_block import BlockSpec, block, block_gradient
from dorefa_jax.kernels.products import PackedWeights
from dorefa_jax.methods.bounding import BOUND_KINDS, BoundKind, bound
from dorefa_jax.methods.dorefa import quantize_activations, quantize_weights, weight_codes
from dorefa_jax.methods.stochastic_rounding import quantize_gradients
from dorefa_jax.not_finite import nan_where
from dorefa_jax.ops import backends, integer_product, layouts
from dorefa_jax.ops.backends import on_mesh
from dorefa_jax.ops.integer_product import KEY_KIND, Product, choose_with
from dorefa_jax.ops.pooling import max_pool_windows

NUMBERS = ("NHWC", "HWIO", "NHWC")


@dataclasses.dataclass(frozen=True)
class ConvBlock:
  """What a block computes, but for its operands.

  Attributes:
    product: the convolution.
    window: of the max pooling.
    kind: of the bounding function.
    epsilon: of batch norm.
    gain: a factor behind the convolution.
  """

  product: Product
  window: int
  kind: BoundKind
  epsilon: float
  gain: float

  @property
  def spec(self) -> BlockSpec:
    """The same, for the kernels."""
    return BlockSpec(self.product.geometry, self.window, BOUND_KINDS.index(self.kind), self.epsilon)

  def packed(self, w: jax.Array, bits: BitWidths) -> PackedWeights:
    """The weights, the gain in their scale."""
    codes, scale = layouts.kernel_weights(w, bits.weights, self.product.convolution, self.product.codes)
    batch, _, width, _ = self.product.shape
    height, out_width = self.product.geometry.out_size
    return pack_weights(
      codes, scale * self.gain, bits=bits.weights, activation_bits=bits.activations,
      rows=batch * height * out_width, out_width=out_width,
    )  # fmt: skip

  def forward(
    self, x: jax.Array, w: jax.Array, quantized: jax.Array, norm: jax.Array, bits: BitWidths
  ) -> tuple[jax.Array, ...]:
    """Planes, statistics and result on the kernels."""
    return block(x, self.packed(w, bits), norm, self.spec, activation_bits=bits.activations)

  def backward(
    self, planes: jax.Array, statistics: jax.Array, g: jax.Array, w: jax.Array, quantized: jax.Array, norm: jax.Array,
    key: jax.Array, bits: BitWidths,
  ) -> tuple[jax.Array, ...]:  # fmt: skip
    """Gradients of activations, quantized weights and `norm` on the kernels."""
    codes, scales, dnorm = block_gradient(
      planes, self.packed(w, bits), norm, statistics, g, key, self.spec,
      activation_bits=bits.activations, gradient_bits=bits.gradients,
    )  # fmt: skip
    dx, dw = self.product.gradients_of_codes(planes, codes, scales * self.gain, w, bits)
    # A maximum that is NaN has no pixel that takes its gradient: the kernel's sums lose it.
    is_lost = jnp.any(jnp.isnan(statistics), 0) | jnp.isnan(norm[1]) | ~jnp.isfinite(norm[0])
    return dx, dw, nan_where(is_lost.reshape(1, -1), dnorm)

  def emulated(
    self, x: jax.Array, quantized: jax.Array, norm: jax.Array, key: jax.Array, bits: BitWidths
  ) -> tuple[jax.Array, jax.Array]:
    """Statistics and result, to be differentiated by JAX."""
    y = self.product.multiply(x, quantized, bits)
    y = quantize_gradients(y, jax.random.wrap_key_data(key, impl=KEY_KIND), bits.gradients) * self.gain
    mean = y.mean((0, 1, 2))
    var = jnp.maximum(jnp.square(y).mean((0, 1, 2)) - jnp.square(mean), 0)
    factor = norm[0] * lax.rsqrt(var + self.epsilon)
    z = y * factor.reshape(1, 1, 1, -1) + (norm[1] - mean * factor).reshape(1, 1, 1, -1)
    return jnp.stack([mean, var]), bound(max_pool_windows(z, self.window), self.kind)

  def emulated_forward(
    self, x: jax.Array, w: jax.Array, quantized: jax.Array, norm: jax.Array, bits: BitWidths
  ) -> tuple[jax.Array, ...]:
    """`forward` on platforms without kernels."""
    return pack_in_xla(x, bits.activations)[:, :-1], *self.emulated(x, quantized, norm, jnp.zeros(2, jnp.uint32), bits)

  def emulated_backward(
    self, planes: jax.Array, statistics: jax.Array, g: jax.Array, w: jax.Array, quantized: jax.Array, norm: jax.Array,
    key: jax.Array, bits: BitWidths,
  ) -> tuple[jax.Array, ...]:  # fmt: skip
    """`backward` on platforms without kernels."""
    shape = self.product.shape
    x = unpack_codes(planes, shape[3]).reshape(shape).astype(jnp.float32) / levels(bits.activations)
    # Planes cannot tell a NaN, which all statistics have then.
    x = nan_where(jnp.any(jnp.isnan(statistics)), x)
    _, vjp = jax.vjp(lambda x, w, norm: self.emulated(x, w, norm, key, bits)[1], x, quantized, norm)
    return vjp(g)


def conv_block(
  x: jax.Array,
  w: jax.Array,
  norm: jax.Array,
  *,
  bits: BitWidths,
  key: jax.Array,
  padding: str = "VALID",
  window: int = 1,
  kind: BoundKind = "clip",
  epsilon: float = 1e-5,
  gain: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """`h(max_pool(batch_norm(gain conv(quantize(x), quantize(w)))))` in training, the convolution's gradient quantized.

  On CPU on the integer kernels, elsewhere emulated; differentiated once.

  Args:
    x: float32 [batch, height, width, channels] in [0, 1], as a bounding function leaves it: gradients pass everywhere.
    w: float32 [height, width, channels, outputs].
    norm: float32 [2, outputs], scale and bias of batch norm.
    bits: W, A and G, 1 to 8; may be traced.
    key: PRNG key of the gradient quantizer.
    padding: "SAME" or "VALID".
    window: of the max pooling, 1 or 2 in both directions, side by side; it divides height and width.
    kind: of the bounding function, see `dorefa_jax.bound`.
    epsilon: of batch norm.
    gain: a factor behind the convolution.

  Returns:
    The result, and mean and variance of the convolution's channels, [2, outputs], which are not differentiated.

  Raises:
    ValueError: operands that `fits` refuses.

  Example:
    >>> x, w, norm = jnp.full((2, 4, 4, 3), 0.5), jnp.ones((3, 3, 3, 8)), jnp.ones((2, 8))
    >>> z, _ = conv_block(x, w, norm, bits=BitWidths(1, 2, 4), key=jax.random.key(0), window=2)
    >>> z.shape
    (2, 1, 1, 8)

  References:
    arXiv 1606.06160, algorithm 1.
  """
  made = _make(x, w, bits, padding, window, kind, epsilon, gain)
  if made is None or not integer_product.can_differentiate(made.product, bits, key):
    raise ValueError(
      f"no kernels for a block of x {x.dtype} {x.shape} and w {w.dtype} {w.shape}, bits {bits}, window {window}, "
      "or for this key; see `dorefa_jax.ops.conv_block.fits`"
    )
  is_static = all(isinstance(value, int) for value in (bits.weights, bits.activations, bits.gradients))
  # What JAX keeps of the functions below must not hold traced bits, which are operands.
  static = bits if is_static else BitWidths()

  @jax.custom_vjp
  def run(
    x: jax.Array, quantized: jax.Array, norm: jax.Array, w: jax.Array, key: jax.Array, *traced: BitWidths
  ) -> tuple[jax.Array, jax.Array]:
    return forward(x, quantized, norm, w, key, *traced)[0]

  def forward(
    x: jax.Array, quantized: jax.Array, norm: jax.Array, w: jax.Array, key: jax.Array, *traced: BitWidths
  ) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, ...]]:
    here = traced[0] if traced else static
    planes, statistics, out = choose_with(here, made.forward, made.emulated_forward, x, w, quantized, norm)
    return (out, statistics), (planes, statistics, w, quantized, norm, key, traced)

  def backward(saved: tuple[Any, ...], g: tuple[jax.Array, jax.Array]) -> tuple[Any, ...]:
    planes, statistics, w, quantized, norm, key, traced = saved
    gradients = differentiated_once(planes, statistics, g[0], w, quantized, norm, key, traced)
    return (*gradients, None, None, *(None for _ in traced))

  @jax.custom_vjp
  def differentiated_once(*args: Any) -> tuple[jax.Array, ...]:
    *operands, traced = args
    return choose_with(traced[0] if traced else static, made.backward, made.emulated_backward, *operands)

  differentiated_once.defvjp(integer_product.refuse_second_derivative, integer_product.refuse_second_derivative)
  run.defvjp(forward, backward)
  quantized = quantize_weights(w, bits.weights)

  def emulation(
    x: jax.Array, quantized: jax.Array, norm: jax.Array, w: jax.Array, key: jax.Array, *traced: BitWidths
  ) -> tuple[jax.Array, jax.Array]:
    statistics, out = made.emulated(x, quantized, norm, key, traced[0] if traced else static)
    return out, statistics

  traced = () if is_static else (bits,)
  out, statistics = on_mesh(run, emulation, x, quantized, norm, lax.stop_gradient(w), jax.random.key_data(key), *traced)
  return out, lax.stop_gradient(statistics)


def fits(
  x: jax.Array | jax.ShapeDtypeStruct,
  w: jax.Array | jax.ShapeDtypeStruct,
  *,
  bits: BitWidths,
  key: jax.Array | None,
  padding: str = "VALID",
  window: int = 1,
) -> bool:
  """Whether `conv_block` takes such operands: float32, compiled kernels, W, A and G up to 8, whole windows.

  Args:
    x, w, bits, key, padding, window: as there; of x and w, shape and dtype.
  """
  made = _make(x, w, bits, padding, window, "clip", 0.0, 1.0)
  return made is not None and integer_product.can_differentiate(made.product, bits, key)


def _make(
  x: Any, w: Any, bits: BitWidths, padding: str, window: int, kind: BoundKind, epsilon: float, gain: float
) -> ConvBlock | None:
  def multiply(x: jax.Array, quantized: jax.Array, bits: BitWidths) -> jax.Array:
    x = quantize_activations(bound(x), bits.activations)
    return lax.conv_general_dilated(x, quantized, (1, 1), padding, dimension_numbers=NUMBERS)

  if not (x.dtype == w.dtype == jnp.float32) or x.ndim != 4 or not layouts.has_sizes(x) or 0 in x.shape:
    return None
  try:
    backends.check_bits(bits)
    convolution = layouts.as_convolution(x, w, (1, 1), padding, NUMBERS, {})
  except layouts.NotInteger:
    return None
  product = integer_product.make_product(x, w, bits, convolution, weight_codes, multiply, 0)
  sizes = product.geometry.out_size
  if window not in (1, 2) or any(size % window for size in sizes) or math.prod(sizes) == 0:
    return None
  return ConvBlock(product, window, kind, epsilon, gain)
