"""The backward pass in integers: gradients to codes, and their products with weights and activations.

With activations `a / n_a`, weights `E (2 c - n_w) / n_w` and the gradients `m_b (2 q - n_g) / n_g` of example b,

- the gradient of the input is `m_b E / (n_w n_g)` times `2 sum q (2 c - n_w) - n_g sum (2 c - n_w)`: a convolution
  of codes q, and sums of weights over the taps that lie on gradients (the grid has no zero to pad with);
- the gradient of the weights is the sum over b of `m_b / (n_a n_g)` times `sum a (2 q - n_g)` over the positions
  of the example: integers for each example, added in float32.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dorefa_jax.bits import Bits
from dorefa_jax.kernels import cpu
from dorefa_jax.kernels.formats import best_format
from dorefa_jax.kernels.packing import MAX_BITS, Format, padded_outputs, weight_words
from dorefa_jax.kernels.platform import call
from dorefa_jax.kernels.program import Kind, Op, Output, encode, field_index


@dataclasses.dataclass(frozen=True)
class Geometry:
  """A convolution, NHWC times HWIO.

  Attributes:
    size: of an image, [height, width].
    shape: of the kernel, [height, width, channels of a group, outputs].
    strides, dilation: [height, width].
    padding: ((top, bottom), (left, right)).
    groups: of channels.
  """

  size: tuple[int, int]
  shape: tuple[int, int, int, int]
  strides: tuple[int, int] = (1, 1)
  dilation: tuple[int, int] = (1, 1)
  padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
  groups: int = 1

  def op(self) -> Op:
    """The convolution in bytes; bit widths are to be set."""
    height, width, channels, outputs = self.shape
    return Op(
      Kind.CONV, Format.BYTES, 1, 1, *self.size, channels * self.groups, (height, width), self.strides, self.dilation,
      self.padding, self.groups, outputs,
    )  # fmt: skip

  @property
  def out_size(self) -> tuple[int, int]:
    """[height, width] of an image of the result."""
    return self.op().out_shape[:2]

  @property
  def is_one_window(self) -> bool:
    """Whether the kernel covers an image once: a dot product of all its values."""
    is_plain = self.padding == ((0, 0), (0, 0)) and self.dilation == (1, 1) and self.groups == 1
    return is_plain and self.shape[:2] == self.size

  def input_gradient_op(self) -> Op:
    """The convolution of a result's gradients that gives those of the input.

    Raises:
      ValueError: more padding than the kernel reaches: such an input is never looked at.
    """
    pads = []
    for size, out, kernel, stride, dilation, (low, _) in zip(
      self.size, self.out_size, self.shape[:2], self.strides, self.dilation, self.padding
    ):
      reach = (kernel - 1) * dilation
      before = reach - low
      pads.append((before, size + reach - ((out - 1) * stride + 1) - before))
    if min(min(pair) for pair in pads) < 0:
      raise ValueError(f"padding {self.padding} exceeds what a kernel {self.shape[:2]} reaches")
    channels, outputs = self.shape[2:]
    return Op(
      Kind.CONV, Format.BYTES, 1, 1, *self.out_size, outputs, self.shape[:2], (1, 1), self.dilation,
      (pads[0], pads[1]), self.groups, channels * self.groups, Output.GRADIENT, self.strides,
    )  # fmt: skip


def quantize_gradients(g: jax.Array, key: jax.Array, bits: Bits, *, path: str) -> tuple[jax.Array, jax.Array]:
  """The codes of a cotangent: `dorefa_jax.quantizers.quantize_cotangent` with the same noise, bit for bit.

  Args:
    g: float32 [batch, ...].
    key: uint32 [2], the data of a threefry key.
    bits: G, 1 to 8; may be traced.
    path: a compiled path.

  Returns:
    uint8 codes of `g`'s shape, and float32 [batch] scales: code q stands for `m (2 q - n) / n`.
    The scale of an example with a value that is not finite is NaN.
  """
  results = jax.ShapeDtypeStruct(g.shape, jnp.uint8), jax.ShapeDtypeStruct(g.shape[:1], jnp.float32)
  codes, scales = call("dorefa_quantize_gradients", results, g, key, _one(bits), path=_index(path))
  return codes, scales


def pack_activations(x: jax.Array, bits: Bits, *, path: str) -> jax.Array:
  """The codes of activations as bit planes, to keep for the backward pass: A + 1 bits for each.

  Args:
    x: float32 [..., channels].
    bits: A, 1 to 8; may be traced, and then there are 8 planes.
    path: a compiled path.

  Returns:
    uint32 [pixels, planes, words of 32 channels]; the last plane tells which values lie in [0, 1].
  """
  planes = (bits if isinstance(bits, int) else MAX_BITS) + 1
  flat = x.reshape(-1, x.shape[-1])
  shape = flat.shape[0], planes, -(-flat.shape[1] // 32)
  result = jax.ShapeDtypeStruct(shape, jnp.uint32)
  return call("dorefa_pack_activations", result, flat, _one(bits), path=_index(path))


def pack_in_xla(x: jax.Array, bits: Bits) -> jax.Array:
  """`pack_activations` for platforms without compiled kernels.

  Example:
    >>> import jax.numpy as jnp
    >>> pack_in_xla(jnp.array([[0.4, 2.0]]), 2).tolist()
    [[[3], [2], [1]]]
  """
  flat = x.reshape(-1, x.shape[-1])
  count = bits if isinstance(bits, int) else MAX_BITS
  codes = jnp.round(jnp.clip(flat, 0, 1) * levels(bits)).astype(jnp.uint32)
  inside = ((flat >= 0) & (flat <= 1)).astype(jnp.uint32)
  planes = jnp.stack([*((codes >> bit) & 1 for bit in range(count)), inside], axis=1)
  planes = jnp.pad(planes, ((0, 0), (0, 0), (0, -flat.shape[1] % 32))).reshape(*planes.shape[:2], -1, 32)
  return jnp.sum(planes << jnp.arange(32, dtype=jnp.uint32)[None, None, None], axis=-1, dtype=jnp.uint32)


def unpack_activations(planes: jax.Array, channels: int) -> tuple[jax.Array, jax.Array]:
  """What `pack_activations` packed.

  Args:
    planes: uint32 [pixels, planes, words].
    channels: of a pixel.

  Returns:
    int32 codes and bool, whether a value lies in [0, 1]; [pixels, channels] both.

  Example:
    >>> import jax.numpy as jnp
    >>> codes, is_inside = unpack_activations(jnp.array([[[1], [3], [2]]], jnp.uint32), 2)
    >>> codes.tolist(), is_inside.tolist()
    ([[3, 2]], [[False, True]])
  """
  return unpack_codes(planes[:, :-1], channels), unpack_codes(planes[:, -1:], channels) == 1


def unpack_codes(planes: jax.Array, channels: int) -> jax.Array:
  """Codes from their bit planes.

  Args:
    planes: uint32 [pixels, planes, words].
    channels: of a pixel.

  Returns:
    int32 [pixels, channels].

  Example:
    >>> unpack_codes(jnp.array([[[1], [3]]], jnp.uint32), 2).tolist()
    [[3, 2]]
  """
  bits = (planes[..., None] >> jnp.arange(32, dtype=jnp.uint32)[None, None, None]) & 1
  bits = bits.reshape(*planes.shape[:2], -1)[..., :channels].astype(jnp.int32)
  return jnp.einsum("npc,p->nc", bits, jnp.asarray(2 ** np.arange(planes.shape[1]), jnp.int32))


def input_gradient(
  codes: jax.Array,
  scales: jax.Array,
  weights: jax.Array,
  weight_scale: jax.Array,
  geometry: Geometry,
  *,
  weight_bits: Bits,
  gradient_bits: Bits,
  path: str,
) -> jax.Array:
  """The gradient of a convolution's input.

  Args:
    codes: uint8 [batch, *geometry.out_size, outputs], of the result's gradient.
    scales: float32 [batch].
    weights: uint8 codes of `geometry.shape`.
    weight_scale: float32, a scalar.
    geometry: of the convolution.
    weight_bits, gradient_bits: W and G, 1 to 8; may be traced.
    path: a compiled path.

  Returns:
    float32 [batch, *geometry.size, channels].
  """
  height, width, channels, outputs = geometry.shape
  if geometry.is_one_window and geometry.size != (1, 1):  # else mostly padding would be multiplied
    dense = Geometry((1, 1), (1, 1, height * width * channels, outputs))
    dx = input_gradient(
      codes, scales, weights.reshape(dense.shape), weight_scale, dense,
      weight_bits=weight_bits, gradient_bits=gradient_bits, path=path,
    )  # fmt: skip
    return dx.reshape(-1, *geometry.size, channels)
  op = geometry.input_gradient_op()
  groups = geometry.groups
  # HWIO of the convolution of gradients: its inputs are outputs, its outputs channels, group by group.
  turned, sums = cpu.turn_weights(weights.reshape(height * width, channels, outputs), groups=groups)
  window = height, width, outputs // groups, groups * channels
  chosen = best_format(weight_bits, gradient_bits, window, groups=groups, width=op.out_shape[1], path=path)
  taps = height * width, outputs // groups, groups * channels
  if isinstance(weight_bits, int) and isinstance(chosen, Format):
    words = weight_words(chosen, weight_bits, taps, groups)
  else:
    words = weight_words(Format.BITS, MAX_BITS, taps, groups)
  spec = jnp.stack([jnp.asarray(chosen, jnp.int32), jnp.asarray(weight_bits, jnp.int32)])
  packed = cpu.pack_weights(turned, spec, words=words, groups=groups)
  n = levels(weight_bits)
  lanes = padded_outputs(channels)
  is_channel = jnp.arange(lanes)[None, None] < channels
  sums = jnp.where(is_channel, 2 * sums - (outputs // groups) * n.astype(jnp.int32), 0)
  factor = weight_scale.astype(jnp.float32) / (n * levels(gradient_bits))
  result = jax.ShapeDtypeStruct((codes.shape[0], *op.out_shape), jnp.float32)
  return call(
    "dorefa_input_gradient",
    result,
    codes,
    scales,
    _with_bits(op, format=chosen, weight_bits=weight_bits, activation_bits=gradient_bits),
    packed,
    jnp.broadcast_to(factor, (groups * lanes,)),
    sums,
    path=_index(path),
  )


def weight_gradient(
  planes: jax.Array,
  codes: jax.Array,
  scales: jax.Array,
  geometry: Geometry,
  *,
  activation_bits: Bits,
  gradient_bits: Bits,
  path: str,
) -> jax.Array:
  """The gradient of a convolution's quantized weights.

  Args:
    planes: of the input, from `pack_activations`.
    codes: uint8 [batch, *geometry.out_size, outputs], of the result's gradient.
    scales: float32 [batch].
    geometry: of the convolution.
    activation_bits, gradient_bits: A and G, 1 to 8; may be traced.
    path: a compiled path.

  Returns:
    float32 of `geometry.shape`.
  """
  height, width, channels, outputs = geometry.shape
  groups = geometry.groups
  lanes = padded_outputs(outputs // groups)
  result = jax.ShapeDtypeStruct((groups, height * width * channels, lanes), jnp.float32)
  sums = call(
    "dorefa_weight_gradient",
    result,
    planes,
    codes,
    scales,
    _with_bits(geometry.op(), activation_bits=activation_bits),
    _one(gradient_bits),
    path=_index(path),
  )
  factor = 1 / (levels(activation_bits) * levels(gradient_bits))
  return (sums[:, :, : outputs // groups] * factor).transpose(1, 0, 2).reshape(geometry.shape)


def _with_bits(op: Op, **values: Bits) -> jax.Array:
  at = np.array([field_index(name) for name in values])
  return jnp.asarray(encode([op])).at[at].set(jnp.stack([jnp.asarray(value, jnp.int32) for value in values.values()]))


def _one(bits: Bits) -> jax.Array:
  return jnp.asarray(bits, jnp.int32).reshape(1)


def _index(path: str) -> np.int64:
  return np.int64(cpu.path_index(path))


def levels(bits: Bits) -> jax.Array:
  """n = 2^k - 1, float32."""
  return ((1 << jnp.asarray(bits, jnp.int32)) - 1).astype(jnp.float32)
