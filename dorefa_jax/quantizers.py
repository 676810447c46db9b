"""The paper's quantizers: pure functions with the paper's surrogate gradients."""

from __future__ import annotations

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from dorefa_jax.bits import FULL_PRECISION, Bits, check_bits, is_full_precision
from dorefa_jax.not_finite import example_magnitude, max_magnitude, nan_unless_finite

BoundKind: TypeAlias = Literal["clip", "abs_clip", "relu"]
BOUND_KINDS: tuple[BoundKind, ...] = ("clip", "abs_clip", "relu")


def quantize_k(x: jax.Array, bits: Bits) -> jax.Array:
  """Rounds to the k-bit grid on [0, 1]; the gradient passes straight through.

  Forward `round(n x) / n` with `n = 2^k - 1`, halves to even; backward the identity.

  Args:
    x: values in [0, 1], any shape, floating. Values outside are rounded to the
      grid's continuation; see `bound`.
    bits: k, 1 to 32; 32 returns `x` unchanged. A Python int or an integer scalar array.

  Returns:
    The rounded values, of `x`'s shape and dtype.

  Raises:
    ValueError: `bits` is not a bit width, or `x` is not floating.

  Example:
    >>> import jax.numpy as jnp
    >>> quantize_k(jnp.array([0.0, 0.2, 0.4, 1.0]), 2).tolist()
    [0.0, 0.3333333432674408, 0.3333333432674408, 1.0]

  References:
    arXiv 1606.06160, equations 5 and 6.
  """
  bits = check_bits(bits)
  x = _floating(x, "x")
  if is_full_precision(bits):
    return x
  return _select(bits, x, _round_to_grid(x, _steps(bits, x)))


def quantize_weights(w: jax.Array, bits: Bits, *, stop_max_gradient: bool = False) -> jax.Array:
  """Quantizes a layer's weights to k bits.

  One bit: `sign(w) E(|w|)`, with one scalar E for the layer and `sign(0) = +1`;
  backward the identity. More bits: `2 quantize_k(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1`;
  backward by the chain rule, straight through at `quantize_k` alone.

  Args:
    w: one layer's weights, any shape, floating.
    bits: k, 1 to 32; 32 returns `w` unchanged. A Python int or an integer scalar array.
    stop_max_gradient: treat the maximum as a constant in the backward pass. The paper
      does not, so that the largest weight receives a very large gradient.

  Returns:
    The quantized weights, of `w`'s shape and dtype: +-E for one bit, else 2^k levels
    from -1 to 1.

  Raises:
    ValueError: `bits` is not a bit width, or `w` is not floating.

  Example:
    >>> import jax.numpy as jnp
    >>> quantize_weights(jnp.array([0.5, -1.5, 0.0, 2.0]), 1).tolist()
    [1.0, -1.0, 1.0, 1.0]

  References:
    arXiv 1606.06160, equations 7 to 10.
  """
  bits = check_bits(bits)
  w = _floating(w, "w")
  if is_full_precision(bits):
    return w
  if isinstance(bits, int):
    return _binarize(w) if bits == 1 else _quantize_tanh(w, bits, stop_max_gradient)
  is_tanh_form = (bits != 1) & (bits != FULL_PRECISION)
  many = _quantize_tanh(w, bits, stop_max_gradient)
  return jnp.where(is_tanh_form, many, jnp.where(bits == 1, _binarize(w), w))


def weight_codes(w: jax.Array, bits: Bits) -> tuple[jax.Array, jax.Array]:
  """The integers and the scale that `quantize_weights` rounds to.

  `quantize_weights(w, k) = scale (2 codes - n) / n` with `n = 2^k - 1`: one bit has the codes
  0 and 1 and the scale E(|w|), more bits have the scale 1. Where the quantized weights are NaN, the scale is.

  Args:
    w: one layer's weights, any shape, floating.
    bits: k, 1 to 8. A Python int or an integer scalar array.

  Returns:
    codes: uint8, of `w`'s shape.
    scale: a scalar of `w`'s dtype.

  Raises:
    ValueError: `bits` is not a bit width or, where static, above 8; or `w` is not floating.

  Example:
    >>> import jax.numpy as jnp
    >>> codes, scale = weight_codes(jnp.array([0.5, -1.5, 0.0, 2.0]), 1)
    >>> codes.tolist(), float(scale)
    ([1, 0, 1, 1], 1.0)

  References:
    arXiv 1606.06160, equations 1 to 4 and 7 to 10.
  """
  bits = check_bits(bits)
  w = _floating(w, "w")
  if isinstance(bits, int) and bits > 8:
    raise ValueError(f"codes have 1 to 8 bits, got {bits}")
  if isinstance(bits, int) and bits == 1:
    return (w >= 0).astype(jnp.uint8), _mean_magnitude(w)
  unit = _tanh_to_unit(w, False)
  codes = jnp.round(unit * _steps(bits, unit)).astype(jnp.uint8)
  scale = (1 + 0 * jnp.sum(unit)).astype(w.dtype)  # codes cannot tell a NaN, the scale can
  if isinstance(bits, int):
    return codes, scale
  return jnp.where(bits == 1, (w >= 0).astype(jnp.uint8), codes), jnp.where(bits == 1, _mean_magnitude(w), scale)


def quantize_activations(x: jax.Array, bits: Bits) -> jax.Array:
  """Quantizes activations in [0, 1] to k bits: `quantize_k` under the paper's name.

  Args:
    x: activations in [0, 1] (see `bound`), any shape, floating.
    bits: k, 1 to 32; 32 returns `x` unchanged. A Python int or an integer scalar array.

  Returns:
    The quantized activations, of `x`'s shape and dtype.

  Raises:
    ValueError: `bits` is not a bit width, or `x` is not floating.

  Example:
    >>> import jax.numpy as jnp
    >>> quantize_activations(jnp.array([0.1, 0.6]), 1).tolist()
    [0.0, 1.0]

  References:
    arXiv 1606.06160, equation 11.
  """
  return quantize_k(x, bits)


def quantize_gradients(x: jax.Array, key: jax.Array | None, bits: Bits) -> jax.Array:
  """The identity, whose backward pass quantizes the cotangent stochastically to k bits.

  For a cotangent g with the batch on axis 0, `m = max|g|` per example, and
  `u = g / (2 m) + 1/2` in steps of `1/n`, rounded up with the probability of its
  fraction: the grid is `m {-n, 2 - n, ..., n} / n`, and the expectation over the noise is g.
  An example whose cotangent is all zero stays zero; one with a value that is not finite has
  no finite value left. Forward-mode differentiation (`jax.jvp`) is not defined.

  Args:
    x: the output of a layer, batch on axis 0, floating.
    key: a PRNG key. None is legal as long as nothing is differentiated.
    bits: k, 1 to 32; 32 returns `x` unchanged, with no key needed.

  Returns:
    `x`.

  Raises:
    ValueError: `bits` is not a bit width; `x` is not floating or has no axis;
      the function is differentiated with bits below 32 and no key.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> _, vjp = jax.vjp(lambda x: quantize_gradients(x, jax.random.key(0), 1), jnp.zeros((1, 4)))
    >>> sorted(set(jnp.abs(vjp(jnp.array([[0.1, -0.2, 0.3, 0.0]]))[0]).ravel().tolist()))
    [0.30000001192092896]

  References:
    arXiv 1606.06160, equations 12 to 14.
  """
  bits = check_bits(bits)
  x = _floating(x, "x")
  if is_full_precision(bits):
    return x
  if x.ndim == 0:
    raise ValueError("quantize_gradients needs the batch on axis 0 of x, got a scalar")
  if key is None:
    return _identity_without_key(x)
  return _identity_with_quantized_gradient(x, key, jnp.asarray(bits, jnp.int32))


def bound(x: jax.Array, kind: BoundKind = "clip") -> jax.Array:
  """The bounding function h, which brings a layer's output to [0, 1].

  "clip": `min(max(x, 0), 1)`, gradient 1 on [0, 1], both ends included, else 0.
  "abs_clip": `min(|x|, 1)`, gradient `sign(x)` where `|x| <= 1`, else 0.
  "relu": `max(x, 0)`, for activations that are not quantized; gradient 0 at 0.

  Args:
    x: any shape, floating.
    kind: "clip", "abs_clip" or "relu".

  Returns:
    The bounded values, of `x`'s shape and dtype. NaN stays NaN.

  Raises:
    ValueError: `kind` is none of the three, or `x` is not floating.

  Example:
    >>> import jax.numpy as jnp
    >>> bound(jnp.array([-0.5, 0.25, 3.0])).tolist()
    [0.0, 0.25, 1.0]

  References:
    arXiv 1606.06160, section 2.4.
  """
  x = _floating(x, "x")
  if kind == "relu":
    return jax.nn.relu(x)
  if kind not in BOUND_KINDS:
    raise ValueError(f"kind must be one of {', '.join(map(repr, BOUND_KINDS))}, got {kind!r}")
  zero, one = jnp.zeros((), x.dtype), jnp.ones((), x.dtype)
  # The zero is set apart since JAX's own gradient of |x| is 1 there, where sign(x) is 0.
  x = jnp.where(x == zero, zero, jnp.abs(x)) if kind == "abs_clip" else jnp.where(x < zero, zero, x)
  return jnp.where(x > one, one, x)


def quantize_cotangent(g: jax.Array, key: jax.Array, bits: Bits) -> jax.Array:
  """What the backward pass of `quantize_gradients` does to a cotangent.

  Args:
    g: a cotangent, batch on axis 0, floating.
    key: a PRNG key; one draw of 23 bits per element.
    bits: k, 1 to 32; 32 returns `g`.

  Returns:
    The quantized cotangent, of `g`'s shape and dtype.

  Raises:
    ValueError: `bits` is not a bit width, or `g` is not floating.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> quantize_cotangent(jnp.array([[1.0, -1.0], [0.0, 0.0]]), jax.random.key(0), 2).tolist()
    [[1.0, -1.0], [0.0, 0.0]]

  References:
    arXiv 1606.06160, equations 12 and 13.
  """
  bits = check_bits(bits)
  g = _floating(g, "g")
  if is_full_precision(bits):
    return g
  # 23 bits plus a half are exact in float32 and never 0 or 1: what lies on the grid stays there.
  noise = jax.random.bits(key, g.shape, jnp.uint32) >> 9
  threshold = (noise.astype(jnp.float32) + 0.5) * 2.0**-23
  return _select(bits, g, round_cotangent(g, threshold, bits))


def round_cotangent(g: jax.Array, threshold: jax.Array, bits: Bits) -> jax.Array:
  """Rounds up where the fraction is at least `threshold`: `quantize_cotangent` with given noise.

  The same as `round(n u + s)` with `s = 1/2 - threshold`, in a form in which no rounding
  error of a sum can leave the two neighbouring levels.

  Args:
    g: a cotangent, batch on axis 0, floating.
    threshold: values in (0, 1), uniform, of `g`'s shape.
    bits: k, 1 to 31.

  Returns:
    The rounded cotangent, of `g`'s shape and dtype.

  Raises:
    ValueError: `bits` is not a bit width.

  Example:
    >>> import jax.numpy as jnp
    >>> g = jnp.array([[0.5, 1.0]])
    >>> round_cotangent(g, jnp.array([[0.7, 0.7]]), 1).tolist()
    [[1.0, 1.0]]
    >>> round_cotangent(g, jnp.array([[0.8, 0.8]]), 1).tolist()
    [[-1.0, 1.0]]

  References:
    arXiv 1606.06160, equation 12.
  """
  bits = check_bits(bits)
  wide = g.astype(_wide(g))
  n = _steps(bits, wide)
  largest = example_magnitude(wide)
  position = (wide / jnp.where(largest == 0, 1, largest) + 1) * (n / 2)
  code = jnp.floor(position)
  code = code + (position - code >= threshold.astype(wide.dtype)).astype(wide.dtype)
  return (largest * _divide(2 * code - n, n)).astype(g.dtype)


def _steps(bits: Bits, x: jax.Array) -> jax.Array:
  """n = 2^k - 1 in the precision that `x` is quantized in."""
  shift = jnp.minimum(jnp.asarray(bits, jnp.int32), FULL_PRECISION - 1).astype(jnp.uint32)
  return ((jnp.uint32(1) << shift) - jnp.uint32(1)).astype(_wide(x))


def _divide(x: jax.Array, divisor: jax.Array) -> jax.Array:
  """`x / divisor`, rounded correctly, for a scalar divisor.

  XLA turns the division by a scalar into a multiplication by its reciprocal, in some programs
  and not in others: levels would be off by an ulp, and static bits would differ from traced
  ones. It does not see through this select, whose other side NaN alone takes, and stays NaN.
  """
  return x / jnp.where(x == x, divisor, 1)


def _wide(x: jax.Array) -> jnp.dtype:
  """The precision that `x` is quantized in: float32 where `x` has less."""
  return x.dtype if x.dtype.itemsize > 4 else jnp.dtype(jnp.float32)


def _select(bits: Bits, full: jax.Array, quantized: jax.Array) -> jax.Array:
  return quantized if isinstance(bits, int) else jnp.where(bits == FULL_PRECISION, full, quantized)


def _floating(x: jax.Array, name: str) -> jax.Array:
  x = jnp.asarray(x)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(f"{name} must be a floating-point array, got dtype {x.dtype}")
  return x


@jax.custom_vjp
def _round_to_grid(x: jax.Array, n: jax.Array) -> jax.Array:
  return _divide(jnp.round(x.astype(n.dtype) * n), n).astype(x.dtype)


_round_to_grid.defvjp(lambda x, n: (_round_to_grid(x, n), None), lambda _, g: (g, None))


@jax.custom_vjp
def _binarize(w: jax.Array) -> jax.Array:
  scale = _mean_magnitude(w)
  return jnp.where(w >= 0, scale, -scale)


_binarize.defvjp(lambda w: (_binarize(w), None), lambda _, g: (g,))


def _mean_magnitude(w: jax.Array) -> jax.Array:
  return nan_unless_finite(jnp.mean(jnp.abs(w.astype(_wide(w))))).astype(w.dtype)


def _quantize_tanh(w: jax.Array, bits: Bits, stop_max_gradient: bool) -> jax.Array:
  unit = _tanh_to_unit(w, stop_max_gradient)
  return (2 * _round_to_grid(unit, _steps(bits, unit)) - 1).astype(w.dtype)


def _tanh_to_unit(w: jax.Array, stop_max_gradient: bool) -> jax.Array:
  """`tanh(w) / (2 max|tanh(w)|) + 1/2`."""
  squashed = jnp.tanh(w.astype(_wide(w)))
  largest = max_magnitude(squashed)
  # Below this its square, in the derivative of the quotient, underflows: such weights count as zeros.
  largest = jnp.where(largest < 1e-18, 1, largest)
  if stop_max_gradient:
    largest = lax.stop_gradient(largest)
  return _divide(squashed, 2 * largest) + 0.5


@jax.custom_vjp
def _identity_with_quantized_gradient(x: jax.Array, key: jax.Array, bits: jax.Array) -> jax.Array:
  return x


_identity_with_quantized_gradient.defvjp(
  lambda x, key, bits: (x, (key, bits)),
  lambda residuals, g: (quantize_cotangent(g, *residuals), None, None),
)


@jax.custom_vjp
def _identity_without_key(x: jax.Array) -> jax.Array:
  return x


def _raise_missing_key(x: jax.Array) -> tuple[jax.Array, None]:
  raise ValueError(
    "quantize_gradients is differentiated with gradient bits below 32 and no PRNG key: pass a key "
    "(linen: rngs={'gradients': key}; nnx: rngs=nnx.Rngs(gradients=seed)), or set gradients=32"
  )


_identity_without_key.defvjp(_raise_missing_key, lambda _, g: (g,))
