"""A quantized convolution with batch norm, shortcut, max pooling and h, as one call forward and one backward."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dorefa_jax.bits import Bits
from dorefa_jax.kernels.calls import call_kernel
from dorefa_jax.kernels.geometry import Geometry
from dorefa_jax.kernels.packing import MAX_BITS
from dorefa_jax.kernels.products import PackedWeights, parameters, with_bits
from dorefa_jax.kernels.program import Bound, encode


@dataclasses.dataclass(frozen=True)
class BlockSpec:
  """What follows a convolution.

  Attributes:
    geometry: the convolution.
    window: max-pooling window size, 1 or 2 in both directions; divides the convolution's image.
    bound: the bounding function.
    keeps_inside: an activation outside [0, 1] passes no gradient; one more plane tells which do.
    gives_sum: the sum of what is normalized and the shortcut, before the pooling, is a result too.
  """

  geometry: Geometry
  window: int
  bound: Bound
  keeps_inside: bool = False
  gives_sum: bool = False

  @property
  def out_shape(self) -> tuple[int, int, int]:
    """[height, width, channels] of an image of the result."""
    height, width = self.geometry.out_size
    return height // self.window, width // self.window, self.geometry.shape[3]

  @property
  def sum_shape(self) -> tuple[int, int, int]:
    """[height, width, channels] of an image of the convolution."""
    return *self.geometry.out_size, self.geometry.shape[3]

  def operands(
    self,
    weights: PackedWeights,
    activation_bits: Bits,
    norm: jax.Array,
    offsets: jax.Array | None,
    shortcut: jax.Array | None,
  ) -> tuple[jax.Array, ...]:
    """What both calls take: the program, weights, factors, batch norm's parameters, window and bound, the rest."""
    words = with_bits(encode([self.geometry.op()]), weights.spec, activation_bits)
    spec = jnp.array([self.window, self.bound, self.keeps_inside], jnp.int32)
    return words, weights.words, parameters(weights, activation_bits), norm, spec, *map(_optional, (offsets, shortcut))


def block(
  x: jax.Array,
  weights: PackedWeights,
  norm: jax.Array,
  spec: BlockSpec,
  *,
  activation_bits: Bits,
  offsets: jax.Array | None = None,
  shortcut: jax.Array | None = None,
) -> tuple[jax.Array, ...]:
  """The forward pass.

  Args:
    x: float32 [batch, height, width, channels].
    weights: packed weights.
    norm: float32 [3, outputs], scale, bias and epsilon of batch norm.
    spec: what is computed.
    activation_bits: A, 1 to 8; may be traced.
    offsets: float32 [height, width, outputs], added to the convolution of each image.
    shortcut: float32 of the convolution's shape, added to what is normalized.

  Returns:
    The activations' bit planes, uint32 [pixels, A, words of 32 channels], 8 of them where A is traced, and one more
    where `spec.keeps_inside`; mean and variance of the convolution's channels, float32 [2, outputs]; the result,
    float32 [batch, *spec.out_shape]; and the sum, without elements unless `spec.gives_sum`.
  """
  pixels, channels = int(np.prod(x.shape[:3])), x.shape[3]
  planes = (activation_bits if isinstance(activation_bits, int) else MAX_BITS) + spec.keeps_inside
  results = (
    jax.ShapeDtypeStruct((pixels, planes, -(-channels // 32)), jnp.uint32),
    jax.ShapeDtypeStruct((2, norm.shape[1]), jnp.float32),
    jax.ShapeDtypeStruct((x.shape[0], *spec.out_shape), jnp.float32),
    jax.ShapeDtypeStruct((x.shape[0] if spec.gives_sum else 0, *spec.sum_shape), jnp.float32),
  )
  operands = spec.operands(weights, activation_bits, norm, offsets, shortcut)
  return tuple(call_kernel("dorefa_block", results, x, *operands))


def block_gradient(
  planes: jax.Array,
  weights: PackedWeights,
  norm: jax.Array,
  statistics: jax.Array,
  g: jax.Array,
  key: jax.Array,
  spec: BlockSpec,
  *,
  activation_bits: Bits,
  gradient_bits: Bits,
  offsets: jax.Array | None = None,
  shortcut: jax.Array | None = None,
  gsum: jax.Array | None = None,
) -> tuple[jax.Array, ...]:
  """The backward pass to the convolution's quantized gradient; the convolution is computed anew.

  Args:
    planes, statistics: results of the forward pass.
    weights, norm, spec, activation_bits, offsets, shortcut: as there.
    g: float32 [batch, *spec.out_shape], the result's gradient.
    key: uint32 [2], the data of a threefry key.
    gradient_bits: G, 1 to 8; may be traced.
    gsum: float32, the sum's gradient.

  Returns:
    uint8 [batch, height, width, outputs] codes, float32 [batch] scales, the gradient of scale and bias, and that of the
    shortcut, without elements where there is none.
  """
  results = (
    jax.ShapeDtypeStruct((g.shape[0], *spec.geometry.out_size, spec.geometry.shape[3]), jnp.uint8),
    jax.ShapeDtypeStruct(g.shape[:1], jnp.float32),
    jax.ShapeDtypeStruct((2, norm.shape[1]), jnp.float32),
    jax.ShapeDtypeStruct((0, *spec.sum_shape) if shortcut is None else shortcut.shape, jnp.float32),
  )
  bits = jnp.asarray(gradient_bits, jnp.int32).reshape(1)
  operands = spec.operands(weights, activation_bits, norm, offsets, shortcut)
  operands = planes, *operands, statistics, g, _optional(gsum), key, bits
  return tuple(call_kernel("dorefa_block_gradient", results, *operands))


def _optional(x: jax.Array | None) -> jax.Array:
  return jnp.zeros(0, jnp.float32) if x is None else x
