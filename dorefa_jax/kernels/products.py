"""Products of float activations, quantized on the way in, with packed weights."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from dorefa_jax.bits import Bits, levels
from dorefa_jax.kernels import calls
from dorefa_jax.kernels.calls import run
from dorefa_jax.kernels.formats import best_format, fits_tables
from dorefa_jax.kernels.packing import MAX_BITS, MAX_TABLE_BITS, Format, padded_outputs, weight_words
from dorefa_jax.kernels.program import MIDDLE, Kind, Op, encode, field_index

Padding: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
NO_PADDING: Padding = ((0, 0), (0, 0))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedWeights:
  """Weights of a convolution, or of a dot product as one of 1x1, in panels.

  Attributes:
    words: uint32, see `dorefa_jax.kernels.packing`.
    spec: int32 [3], format, bits, and the zero z of the codes.
    scale: float32, a scalar or one for each output channel: code c stands for
      `scale (2 c - z) / n`, `n = 2^W - 1`.
    shape: [height, width, channels of a group, outputs] of the kernel.
    groups: number of feature groups.
  """

  words: jax.Array
  spec: jax.Array
  scale: jax.Array
  shape: tuple[int, int, int, int] = dataclasses.field(metadata={"static": True})
  groups: int = dataclasses.field(metadata={"static": True})


def pack_weights(
  codes: jax.Array,
  scale: jax.Array | float = 1.0,
  *,
  bits: Bits,
  activation_bits: Bits,
  groups: int = 1,
  rows: int | None = None,
  out_width: int | None = None,
  format: Format | None = None,
  zero: jax.Array | int = MIDDLE,
) -> PackedWeights:
  """Packs codes of weights for `conv` and `dot`.

  Args:
    codes: uint8 [height, width, channels of a group, outputs], or [channels, outputs] for `dot`,
      below 2^W.
    scale: float, or [outputs]: code c stands for `scale (2 c - zero) / n`, `n = 2^W - 1`.
    bits: W, 1 to 8; may be traced, and then the words have room for the widest.
    activation_bits: A of the products to come, by which the format is chosen; may be traced. Tables, where they
      are chosen, serve products of 1 to 5 bits alone.
    groups: number of feature groups.
    rows: number of output rows, images times output pixels; None for many.
    out_width: pixels in a row of the result; None where unknown, and then TABLES are not chosen.
    format: BITS, BYTES or TABLES instead of the chosen one.
    zero: twice the code that stands for zero, an integer up to 2 n; by default n. May be traced.

  Returns:
    The packed weights.

  Raises:
    ValueError: codes of another dtype or shape, bits outside 1 to 8, groups that do not divide, or
      TABLES of other weights than of 1 bit, or of sums that reach 2^16.

  Example:
    >>> import jax.numpy as jnp
    >>> codes = jnp.ones((3, 3, 64, 8), jnp.uint8)
    >>> pack_weights(codes, bits=1, activation_bits=2, format=Format.BITS).words.shape
    (288,)
  """
  check_kernel_bits(bits, "bits")
  check_kernel_bits(activation_bits, "activation_bits")
  if codes.dtype != jnp.uint8 or codes.ndim not in (2, 4) or 0 in codes.shape:
    raise ValueError(
      "codes must be uint8 [height, width, channels, outputs] or [channels, outputs] and not empty, "
      f"got {codes.dtype} {codes.shape}"
    )
  height, width = (1, 1) if codes.ndim == 2 else codes.shape[:2]
  shape = height, width, codes.shape[-2], codes.shape[-1]
  if groups < 1 or shape[3] % groups:
    raise ValueError(f"groups must divide the outputs, got {groups} groups and {shape[3]} outputs")
  scale = jnp.asarray(scale, jnp.float32)
  if scale.shape not in ((), (shape[3],)):
    raise ValueError(f"scale must be a scalar or [{shape[3]}], got shape {scale.shape}")
  taps = height * width, shape[2], shape[3]
  codes = codes.reshape(taps)
  if format is None:
    chosen = best_format(bits, activation_bits, shape, groups=groups, rows=rows, width=out_width)
  else:
    chosen = format
  if chosen is Format.TABLES and not fits_tables(bits, activation_bits, shape):
    raise ValueError(
      f"tables need weights of 1 bit, inputs of at most {MAX_TABLE_BITS}, both static, and sums below 2^16; "
      f"got bits {bits}, activation_bits {activation_bits} and a kernel {shape}"
    )
  if isinstance(bits, int) and isinstance(chosen, Format):
    words = weight_words(chosen, bits, taps, groups)
  else:
    words = weight_words(Format.BITS, MAX_BITS, taps, groups)
  spec = jnp.stack([jnp.asarray(part, jnp.int32) for part in (chosen, bits, zero)])
  packed = calls.pack_weights(codes, spec[:2], words=words, groups=groups)
  return PackedWeights(packed, spec, scale, shape, groups)


def conv(
  x: jax.Array,
  weights: PackedWeights,
  *,
  activation_bits: Bits,
  strides: tuple[int, int] = (1, 1),
  padding: Padding = NO_PADDING,
  dilation: tuple[int, int] = (1, 1),
) -> jax.Array:
  """A convolution of quantized activations with packed weights, in integers.

  `y = sum q(x) w` with `q(x) = round(n clip(x, 0, 1)) / n`: one pass quantizes and packs, one
  multiplies; between them nothing is stored but codes.

  Args:
    x: float32 [batch, height, width, channels]; values outside [0, 1] are clipped.
    weights: result of `pack_weights`.
    activation_bits: A, 1 to 8; may be traced.
    strides, dilation: [height, width].
    padding: ((top, bottom), (left, right)), with zeros.

  Returns:
    float32 [batch, height, width, outputs]. An example with a NaN in it gives NaN.

  Raises:
    ValueError: shapes that do not fit, or bits outside 1 to 8.

  Example:
    >>> import jax.numpy as jnp
    >>> weights = pack_weights(jnp.ones((3, 3, 64, 8), jnp.uint8), bits=1, activation_bits=2)
    >>> y = conv(jnp.ones((1, 5, 5, 64)), weights, activation_bits=2)
    >>> y.shape, float(y[0, 0, 0, 0])
    ((1, 3, 3, 8), 576.0)
  """
  check_kernel_bits(activation_bits, "activation_bits")
  kernel_height, kernel_width, group_channels, outputs = weights.shape
  if x.ndim != 4 or x.dtype != jnp.float32 or x.shape[3] != group_channels * weights.groups or 0 in x.shape[1:]:
    raise ValueError(
      f"x must be float32 [batch, height, width, {group_channels * weights.groups}] for weights of shape "
      f"{weights.shape} in {weights.groups} groups, got {x.dtype} {x.shape}"
    )
  op = Op(
    Kind.CONV,
    Format.BITS,
    weight_bits=1,
    activation_bits=1,
    height=x.shape[1],
    width=x.shape[2],
    channels=x.shape[3],
    kernel=(kernel_height, kernel_width),
    strides=strides,
    dilation=dilation,
    padding=padding,
    groups=weights.groups,
    outputs=outputs,
  )
  if min(*strides, *dilation) < 1 or min(op.out_shape) < 1 or min(min(pads) for pads in padding) < 0:
    raise ValueError(
      f"a kernel of {op.kernel} with strides {strides}, dilation {dilation} and padding {padding} "
      f"does not fit x of shape {x.shape}"
    )
  return run(
    x,
    with_bits(encode([op]), weights.spec, activation_bits),
    (weights.words, parameters(weights, activation_bits)),
    op.out_shape,
  )


def dot(x: jax.Array, weights: PackedWeights, *, activation_bits: Bits) -> jax.Array:
  """A product of quantized activations with packed weights, in integers: `conv` of one pixel.

  Args:
    x: float32 [batch, channels].
    weights: result of `pack_weights` of [channels, outputs].
    activation_bits: as in `conv`.

  Returns:
    float32 [batch, outputs].

  Raises:
    ValueError: shapes that do not fit, or bits outside 1 to 8.

  Example:
    >>> import jax.numpy as jnp
    >>> weights = pack_weights(jnp.array([[1], [0], [1]], jnp.uint8), 0.5, bits=1, activation_bits=1)
    >>> dot(jnp.array([[0.9, 0.8, 0.1]]), weights, activation_bits=1).tolist()
    [[0.0]]
  """
  if x.ndim != 2:
    raise ValueError(f"x must be [batch, channels], got shape {x.shape}")
  return conv(x[:, None, None, :], weights, activation_bits=activation_bits)[:, 0, 0, :]


def check_kernel_bits(bits: Bits, name: str) -> None:
  """Raises ValueError where static bits lie outside 1 to 8, which is what kernels compute."""
  if isinstance(bits, int) and not 1 <= bits <= MAX_BITS:
    raise ValueError(f"{name} must be 1 to {MAX_BITS} for integer kernels, got {bits}")


def with_bits(program: np.ndarray, spec: jax.Array, activation_bits: Bits) -> jax.Array:
  """A program of one convolution with the format, bits and zero of packed weights, and A."""
  at = np.array([field_index(name) for name in ("format", "weight_bits", "weight_zero", "activation_bits")])
  values = jnp.concatenate([spec, jnp.asarray(activation_bits, jnp.int32)[None]])
  return jnp.asarray(program).at[at].set(values)


def parameters(weights: PackedWeights, activation_bits: Bits) -> jax.Array:
  """The factors from sums to products, and offsets of zero: float32 [groups, 2, padded outputs]."""
  products = levels(weights.spec[1]) * levels(activation_bits)
  outputs = weights.shape[3]
  factor = jnp.broadcast_to(weights.scale / products, (outputs,)).reshape(weights.groups, 1, -1)
  width = padded_outputs(outputs // weights.groups)
  return jnp.pad(factor, ((0, 0), (0, 1), (0, width - factor.shape[2])))
