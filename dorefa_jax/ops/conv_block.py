"""A block of a network in training as one operation: convolution, gradient quantizer, batch norm, shortcut, pooling, h.

Between the passes it keeps the codes of its activations, A + 1 bits each, and nothing else of their size but a
shortcut: the backward pass computes the convolution anew, in integers, and so gets the same values.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dorefa_jax.bits import BitWidths, apart_from_arrays, levels
from dorefa_jax.kernels import pack_weights
from dorefa_jax.kernels.activation_planes import pack_in_xla, unpack_activations
from dorefa_jax.kernels.conv_block import BlockSpec, block, block_gradient
from dorefa_jax.kernels.geometry import Geometry
from dorefa_jax.kernels.products import PackedWeights
from dorefa_jax.kernels.program import Bound
from dorefa_jax.methods.bounding import BoundKind, bound
from dorefa_jax.methods.grids import quantize_k
from dorefa_jax.methods.stochastic_rounding import quantize_gradients
from dorefa_jax.not_finite import nan_where
from dorefa_jax.ops.backends import KEY_KIND, can_differentiate, choose_with, on_mesh, once, refuse_second_derivative
from dorefa_jax.ops.codes import activation_line, along_outputs, weight_codes
from dorefa_jax.ops.integer_product import Codes, gradients_of_codes, ones_product
from dorefa_jax.ops.layouts import NotInteger, as_convolution, has_sizes
from dorefa_jax.ops.pooling import max_pool_windows
from dorefa_jax.ops.quantization import Quantization

NUMBERS = ("NHWC", "HWIO", "NHWC")


@dataclasses.dataclass(frozen=True)
class BlockShape:
  """What a block computes, but for its operands and their bits.

  Attributes:
    strides, padding, dilation, groups: the convolution's, as `lax` takes them.
    window: max-pooling window size, 1 or 2 in both directions, side by side.
    kind: bounding function; None for the identity.
    epsilon: batch norm's epsilon.
    gain: scalar applied to the convolution's output.
    gives_sum: the sum of normalized convolution and shortcut, before pooling and h, is a result too.
  """

  strides: tuple[int, int] = (1, 1)
  padding: str | tuple[tuple[int, int], ...] = "VALID"
  dilation: tuple[int, int] = (1, 1)
  groups: int = 1
  window: int = 1
  kind: BoundKind | None = "clip"
  epsilon: float = 1e-5
  gain: float = 1.0
  gives_sum: bool = False

  def convolve(self, x: jax.Array, w: jax.Array) -> jax.Array:
    """The convolution of floats."""
    return lax.conv_general_dilated(
      x, w, self.strides, self.padding, rhs_dilation=self.dilation, feature_group_count=self.groups,
      dimension_numbers=NUMBERS,
    )  # fmt: skip

  def geometry(self, x: Any, w: Any) -> Geometry:
    """The convolution of images; raises NotInteger where the kernels do not compute it."""
    options = {"rhs_dilation": self.dilation, "feature_group_count": self.groups}
    return as_convolution(x, w, self.strides, self.padding, NUMBERS, options).geometry(x.shape)

  def finish(
    self, y: jax.Array, norm: jax.Array, shortcut: jax.Array | None
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array | None]]:
    """Statistics, and results, of the convolution's output, in floats."""
    y = y * self.gain
    mean = y.mean((0, 1, 2))
    var = jnp.maximum(jnp.square(y).mean((0, 1, 2)) - jnp.square(mean), 0)
    factor = norm[0] * lax.rsqrt(var + self.epsilon)
    z = y * factor.reshape(1, 1, 1, -1) + (norm[1] - mean * factor).reshape(1, 1, 1, -1)
    z = z if shortcut is None else z + shortcut
    pooled = max_pool_windows(z, self.window)
    out = pooled if self.kind is None else bound(pooled, self.kind)
    return jnp.stack([mean, var]), (out, z if self.gives_sum else None)


@dataclasses.dataclass(frozen=True)
class _Block:
  """A block on operands of a shape, on the kernels and in the emulation."""

  shape: BlockShape
  geometry: Geometry

  @property
  def spec(self) -> BlockSpec:
    return BlockSpec(self.geometry, self.shape.window, Bound.of(self.shape.kind), True, self.shape.gives_sum)

  def operands(self, codes: Codes, norm: jax.Array, bits: BitWidths, images: int) -> tuple[PackedWeights, Any, Any]:
    """Weights, parameters of batch norm, and offsets of pixels, as the kernels take them.

    A scale for each output leaves the convolution: batch norm takes it back in its epsilon, over its square.
    """
    weights, channel_scale = codes.weights.directions(), codes.weights.channel_scale
    height, width = self.geometry.out_size
    packed = pack_weights(
      weights.codes, weights.scale * codes.line.span * self.shape.gain, bits=bits.weights,
      activation_bits=bits.activations, groups=self.geometry.groups, rows=images * height * width, out_width=width,
      zero=weights.zero,
    )  # fmt: skip
    epsilon = jnp.full(norm.shape[1:], self.shape.epsilon, jnp.float32)
    if channel_scale is not None:
      epsilon = epsilon / jnp.square(codes.weights.scale)
    norm = jnp.concatenate([norm, epsilon[None]])
    low = codes.line.low
    offsets = None if low is None else low * self.shape.gain * ones_product(weights, bits, self.geometry)[0]
    return packed, norm, offsets

  def forward(
    self, u: jax.Array, w: jax.Array, codes: Codes, norm: jax.Array, shortcut: jax.Array | None, bits: BitWidths
  ) -> tuple[Any, ...]:
    """Planes, statistics and results on the kernels."""
    packed, norm, offsets = self.operands(codes, norm, bits, u.shape[0])
    planes, statistics, out, total = block(
      u, packed, norm, self.spec, activation_bits=bits.activations, offsets=offsets, shortcut=shortcut
    )
    return planes, statistics, (out, total if self.shape.gives_sum else None)

  def backward(
    self, planes: jax.Array, statistics: jax.Array, g: Any, w: jax.Array, codes: Codes, norm: jax.Array,
    shortcut: jax.Array | None, key: jax.Array, bits: BitWidths,
  ) -> tuple[Any, ...]:  # fmt: skip
    """Gradients of activations, weights, batch norm and shortcut on the kernels."""
    out, total = g
    packed, parameters, offsets = self.operands(codes, norm, bits, out.shape[0])
    gradients, scales, dnorm, dshortcut = block_gradient(
      planes, packed, parameters, statistics, out, key, self.spec, activation_bits=bits.activations,
      gradient_bits=bits.gradients, offsets=offsets, shortcut=shortcut, gsum=total,
    )  # fmt: skip
    directions = dataclasses.replace(codes, weights=codes.weights.directions())
    dx, dw = gradients_of_codes(planes, gradients, scales * self.shape.gain, directions, bits, self.geometry)
    if codes.weights.channel_scale is not None:
      dw = dw / along_outputs(codes.weights.channel_scale)
    # A maximum that is NaN has no pixel that takes its gradient: the kernel's sums lose it.
    is_lost = jnp.any(jnp.isnan(statistics), 0) | jnp.isnan(norm[1]) | ~jnp.isfinite(norm[0])
    dnorm = nan_where(is_lost.reshape(1, -1), dnorm)
    return dx, dw, dnorm, None if shortcut is None else dshortcut

  def emulated(
    self, x: jax.Array, w: jax.Array, codes: Codes, norm: jax.Array, shortcut: jax.Array | None, key: jax.Array,
    bits: BitWidths,
  ) -> tuple[jax.Array, Any]:  # fmt: skip
    """Statistics and results, to be differentiated by JAX."""
    channel_scale = codes.weights.channel_scale
    y = self.shape.convolve(x, w if channel_scale is None else w / along_outputs(channel_scale))
    y = quantize_gradients(y, jax.random.wrap_key_data(key, impl=KEY_KIND), bits.gradients)
    if channel_scale is not None:
      y = y * along_outputs(codes.weights.scale)
    return self.shape.finish(y, norm, shortcut)

  def emulated_forward(
    self, u: jax.Array, w: jax.Array, codes: Codes, norm: jax.Array, shortcut: jax.Array | None, bits: BitWidths
  ) -> tuple[Any, ...]:
    """`forward` on platforms without kernels."""
    x = codes.line.values(quantize_k(bound(u), bits.activations))
    statistics, results = self.emulated(x, w, codes, norm, shortcut, jnp.zeros(2, jnp.uint32), bits)
    if codes.weights.channel_scale is not None:
      scale = codes.weights.channel_scale
      statistics = statistics / jnp.stack([scale, jnp.square(scale)])
    return pack_in_xla(u, bits.activations), statistics, results

  def emulated_backward(
    self, planes: jax.Array, statistics: jax.Array, g: Any, w: jax.Array, codes: Codes, norm: jax.Array,
    shortcut: jax.Array | None, key: jax.Array, bits: BitWidths,
  ) -> tuple[Any, ...]:  # fmt: skip
    """`backward` on platforms without kernels."""
    shape = g[0].shape[0], *self.geometry.size, self.geometry.shape[2] * self.geometry.groups
    quantized, is_inside = (part.reshape(shape) for part in unpack_activations(planes, shape[3]))
    x = codes.line.values(quantized.astype(jnp.float32) / levels(bits.activations))
    # Planes cannot tell a NaN, which all statistics have then.
    x = nan_where(jnp.any(jnp.isnan(statistics)), x)

    def results(x: jax.Array, w: jax.Array, norm: jax.Array, shortcut: jax.Array | None) -> Any:
      return self.emulated(x, w, codes, norm, shortcut, key, bits)[1]

    _, vjp = jax.vjp(results, x, w, norm, shortcut)
    dx, dw, dnorm, dshortcut = vjp(g)
    return jnp.where(is_inside, dx, jnp.zeros((), dx.dtype)), dw, dnorm, dshortcut


def conv_block(
  x: jax.Array,
  w: jax.Array,
  norm: jax.Array,
  shape: BlockShape,
  *,
  quantization: Quantization,
  key: jax.Array,
  shortcut: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array | None, jax.Array]:
  """`h(max_pool(batch_norm(gain conv(x, w)) + shortcut))` in training, the convolution's gradient quantized.

  On CPU on the integer kernels, elsewhere emulated; differentiated once.

  Args:
    x: float32 [batch, height, width, channels].
    w: float32 [height, width, channels of a group, outputs].
    norm: float32 [2, outputs], scale and bias of batch norm.
    shape: what is computed.
    quantization: how x and w are quantized, in codes of 1 to 8 bits; bits may be traced.
    key: PRNG key of the gradient quantizer.
    shortcut: float32, of the convolution's shape.

  Returns:
    The result; the sum before pooling and h, where it is asked for; and mean and variance of the convolution's
    channels, [2, outputs], which are not differentiated.

  Raises:
    ValueError: operands that `fits` refuses.

  Example:
    >>> from dorefa_jax.methods.quantizers import Quantizers
    >>> x, w, norm = jnp.full((2, 4, 4, 3), 0.5), jnp.ones((3, 3, 3, 8)), jnp.ones((2, 8))
    >>> quantization = Quantization(Quantizers(), {}, BitWidths(1, 2, 4))
    >>> z, _, _ = conv_block(x, w, norm, BlockShape(window=2), quantization=quantization, key=jax.random.key(0))
    >>> z.shape
    (2, 1, 1, 8)

  References:
    arXiv 1606.06160, algorithm 1.
  """
  if not fits(x, w, shape, quantization=quantization, key=key):
    raise ValueError(
      f"no kernels for a block of x {x.dtype} {x.shape} and w {w.dtype} {w.shape}, bits {quantization.bits}, window "
      f"{shape.window}, or for this key; see `dorefa_jax.ops.conv_block.fits`"
    )
  made, bits = _Block(shape, shape.geometry(x, w)), quantization.kernel_bits
  options = {"rhs_dilation": shape.dilation, "feature_group_count": shape.groups}
  convolution = as_convolution(x, w, shape.strides, shape.padding, NUMBERS, options)
  grid = quantization.activation_grid(x)
  assert grid is not None
  codes = Codes(weight_codes(w, quantization, convolution), activation_line(grid, bits.activations))
  unit, differentiated = quantization.unit(x, grid)
  # What JAX keeps of the functions below must not hold traced bits, which are operands.
  restore, traced = apart_from_arrays(bits)

  @jax.custom_vjp
  def run(x: Any, w: Any, norm: Any, shortcut: Any, u: Any, codes: Codes, key: Any, *traced: jax.Array) -> Any:
    return forward(x, w, norm, shortcut, u, codes, key, *traced)[0]

  def forward(
    x: Any, w: Any, norm: Any, shortcut: Any, u: Any, codes: Codes, key: Any, *traced: jax.Array
  ) -> tuple[Any, tuple[Any, ...]]:
    bits = restore(traced)
    planes, statistics, results = choose_with(bits, made.forward, made.emulated_forward, u, w, codes, norm, shortcut)
    results, statistics = once((results, statistics), (x, w, norm, shortcut))
    return (results, statistics), (planes, statistics, w, codes, norm, shortcut, key, traced)

  def backward(saved: tuple[Any, ...], g: Any) -> tuple[Any, ...]:
    planes, statistics, w, codes, norm, shortcut, key, traced = saved
    gradients = differentiated_once(planes, statistics, g[0], w, codes, norm, shortcut, key, traced)
    return (*gradients, None, None, None, *(None for _ in traced))

  @jax.custom_vjp
  def differentiated_once(*args: Any) -> tuple[Any, ...]:
    *operands, traced = args
    return choose_with(restore(traced), made.backward, made.emulated_backward, *operands)

  differentiated_once.defvjp(refuse_second_derivative, refuse_second_derivative)
  run.defvjp(forward, backward)

  def emulation(x: Any, w: Any, norm: Any, shortcut: Any, u: Any, codes: Codes, key: Any, *traced: jax.Array) -> Any:
    statistics, results = made.emulated(x, w, codes, norm, shortcut, key, restore(traced))
    return results, statistics

  (out, total), statistics = on_mesh(
    run, emulation, differentiated, quantization.weights(w), norm, shortcut, lax.stop_gradient(unit), codes,
    jax.random.key_data(key), *traced,
  )  # fmt: skip
  statistics = lax.stop_gradient(statistics)
  if codes.weights.channel_scale is not None:
    scale = codes.weights.scale
    statistics = statistics * jnp.stack([scale, jnp.square(scale)])
  return out, total, statistics


def fits(
  x: jax.Array | jax.ShapeDtypeStruct,
  w: jax.Array | jax.ShapeDtypeStruct,
  shape: BlockShape,
  *,
  quantization: Quantization,
  key: jax.Array | None,
) -> bool:
  """Whether `conv_block` takes such operands: float32, codes of up to 8 bits, compiled kernels, whole windows.

  Args:
    x, w, shape, quantization, key: as in `conv_block`; only shape and dtype of x and w are read.
  """
  if not (x.dtype == w.dtype == jnp.float32) or x.ndim != 4 or not has_sizes(x) or 0 in x.shape:
    return False
  if quantization.missing_codes(x, w):
    return False
  try:
    geometry = shape.geometry(x, w)
  except NotInteger:
    return False
  sizes = geometry.out_size
  if shape.window not in (1, 2) or any(size % shape.window for size in sizes) or math.prod(sizes) == 0:
    return False
  like = quantization.weight_grid_like(w)
  has_rest = like is None or like.center is None
  return not has_rest and can_differentiate(geometry, quantization, key)
