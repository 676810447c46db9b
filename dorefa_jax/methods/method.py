"""What a method is: three quantizers, each its values, its surrogate gradient and, where integers apply, its codes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

from dorefa_jax.bits import FULL_PRECISION, Bits, check_bits, is_full_precision
from dorefa_jax.methods.bounding import BoundKind
from dorefa_jax.methods.grids import wide_dtype

State: TypeAlias = Mapping[str, jax.Array]
"""What a quantizer learns, by name; empty for most."""

NO_STATE: State = MappingProxyType({})

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def quantizer(cls: type[T]) -> type[T]:
  """Makes a class of quantizers a frozen dataclass and a pytree.

  Fields are leaves, which may be traced (schedules), but for those declared with `static`.

  Example:
    >>> @quantizer
    ... class Scaled(Quantizer):
    ...   factor: float = 2.0
    >>> jax.tree.leaves(Scaled())
    [2.0]
  """
  return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


def static(default: Any) -> Any:
  """A field of a quantizer that is structure, not data: it is compared, and never traced."""
  return dataclasses.field(default=default, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Affine:
  """Values on a uniform grid: `scale codes + offset`.

  Attributes:
    codes: uint8 of the values' shape, below 2^k; fewer levels are allowed.
    scale: positive; a scalar or, for weights, [outputs], along their last axis.
    offset: the same. The Python number 0 is known to be zero when a program is traced.
    center: the code that stands for zero, a multiple of 1/2 between 0 and 2^k - 1, where all outputs have the same:
      then `offset = -scale center`. Given, products in integers need no correction for the offset.

  Example:
    >>> import jax.numpy as jnp
    >>> Affine.around(jnp.array([0, 3], jnp.uint8), 2.0, 1.5).values.tolist()
    [-3.0, 3.0]
  """

  codes: jax.Array
  scale: jax.Array | float
  offset: jax.Array | float
  center: jax.Array | float | None = None

  @classmethod
  def around(cls, codes: jax.Array, scale: jax.Array | float, center: jax.Array | float) -> Affine:
    """`scale (codes - center)`.

    Args:
      codes: uint8.
      scale: a scalar, or [outputs].
      center: a multiple of 1/2.
    """
    if isinstance(center, (int, float)) and center == 0:
      return cls(codes, scale, 0.0, center)
    dtype = scale.dtype if isinstance(scale, jax.Array) else jnp.dtype(jnp.float32)
    return cls(codes, scale, -jnp.asarray(scale, dtype) * jnp.asarray(center, dtype), center)

  @property
  def values(self) -> jax.Array:
    """The values, floating."""
    dtype = jnp.result_type(self.scale, jnp.float32) if isinstance(self.scale, jax.Array) else jnp.dtype(jnp.float32)
    codes = self.codes.astype(dtype)
    if self.center is not None:
      return _along_outputs(self.scale, codes) * (codes - jnp.asarray(self.center, dtype))
    return _along_outputs(self.scale, codes) * codes + _along_outputs(self.offset, codes)


def _along_outputs(value: Any, codes: jax.Array) -> jax.Array:
  value = jnp.asarray(value, codes.dtype)
  return value.reshape((1,) * (codes.ndim - 1) + (-1,)) if value.ndim else value


class Quantizer:
  """A quantizer of weights or activations: a frozen dataclass and a pytree (see `quantizer`).

  Subclass requirements:

  - `__call__` (required): the quantized values, whose gradients for `x`, `state` and the leaves are the surrogate's.
    Layers call it with bit widths that `widths` lists, and leave `x` as it is where a width is 32.
  - `codes` (optional): the same values as an `Affine`, to the rounding of a float: where it is given, products run on
    the integer kernels, forward and backward, and models are frozen. None, the default, where values lie on no grid.
  - `unit` (optional, of activations): codes and surrogate in one image, where the surrogate's gradient is 1 or 0 and
    nothing is learned. It spares the kernels a gradient of values.
  - `init` (optional): what is learned, from the first values seen.
  - `code_bits` (optional): bits of a code where it has more than the width says.
  - `widths`, `takes_traced` (optional): the legal bit widths below 32, and whether they may be traced.
  - `bound` (optional, of activations): the bounding function that a `ConvBlock` puts in front of the quantizer.

  What must hold: `codes(x).values == __call__(x)` to an ulp; codes are below `2^bits`, and functions of `x` alone,
  never of its gradient; under `jax.eval_shape` nothing looks at values. `dorefa_jax.testing.check_quantizer` checks it.

  Example:
    >>> @quantizer
    ... class Halves(Quantizer):
    ...   def __call__(self, x, bits, state=NO_STATE):
    ...     return x + jax.lax.stop_gradient(jnp.round(2 * x) / 2 - x)
    >>> Halves()(jnp.array([0.3, 0.9]), 2).tolist()
    [0.5, 1.0]
  """

  widths: ClassVar[tuple[int, ...]] = tuple(range(1, FULL_PRECISION))
  takes_traced: ClassVar[bool] = True
  bound: ClassVar[BoundKind | None] = None

  def init(self, key: jax.Array, x: jax.Array, bits: Bits) -> dict[str, jax.Array]:
    """What the quantizer learns.

    Args:
      key: a PRNG key.
      x: initial weights, or the first batch of activations.
      bits: k; static.

    Returns:
      Arrays by name; their shapes must not depend on `bits`.
    """
    return {}

  def __call__(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> jax.Array:
    """Quantized values.

    Args:
      x: floating; weights have their outputs along the last axis.
      bits: k, of `widths`.
      state: what `init` returned.

    Returns:
      Values of `x`'s shape and dtype.
    """
    raise NotImplementedError(f"{type(self).__name__} defines no __call__(x, bits, state)")

  def codes(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> Affine | None:
    """The values as codes; None where they lie on no grid.

    Args:
      x, bits, state: as in `__call__`; bits of 1 to 8.
    """
    return None

  def masked(self, mask: jax.Array) -> Quantizer:
    """The same quantizer with some weights kept at zero.

    Args:
      mask: array of the weights' shape; 0 where a weight is masked.
    """
    return Masked(self, mask)

  def code_bits(self, bits: Bits) -> Bits:
    """Bits of a code, 1 to 8.

    Args:
      bits: k; may be traced.
    """
    return bits

  def unit(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> jax.Array | None:
    """An image u in which `round(n clip(u, 0, 1))`, n = 2^k - 1, are the codes, and 0 <= u <= 1 where gradients pass.

    Args:
      x, bits, state: as in `__call__`; bits of 1 to 8.
    """
    return None


class GradientQuantizer:
  """A quantizer of gradients: a frozen dataclass and a pytree (see `quantizer`).

  Subclass requirements:

  - `__call__` (required): the identity, whose backward pass quantizes the cotangent. Layers leave `y` as it is where
    the width is 32.
  - `is_on_kernels` (optional): whether the kernels make the same codes of the same keys; DoReFa's alone.
  """

  is_on_kernels: ClassVar[bool] = False

  def __call__(self, y: jax.Array, key: jax.Array | None, bits: Bits) -> jax.Array:
    """The identity, whose cotangent is quantized.

    Args:
      y: the output of a layer, batch on axis 0, floating.
      key: a PRNG key; None where nothing is differentiated.
      bits: G.

    Returns:
      `y`.
    """
    raise NotImplementedError(f"{type(self).__name__} defines no __call__(y, key, bits)")


@quantizer
class FromFunction(Quantizer):
  """A plain function of (x, bits) as a quantizer, without codes."""

  function: Callable[[jax.Array, Bits], jax.Array] = dataclasses.field(metadata={"static": True})

  def __call__(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> jax.Array:
    """What the function returns."""
    return self.function(x, bits)


@quantizer
class Masked(Quantizer):
  """Weights of which some are kept at zero, on a grid of half the step, which has one: codes of a bit more.

  Attributes:
    inner: the quantizer of the others.
    mask: array of the weights' shape; 0 where a weight is masked.
  """

  inner: Quantizer
  mask: jax.Array

  def init(self, key: jax.Array, x: jax.Array, bits: Bits) -> dict[str, jax.Array]:
    """What the inner quantizer learns."""
    return self.inner.init(key, x, bits)

  def __call__(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> jax.Array:
    """The inner quantizer's values, zero where masked."""
    return self.inner(x, bits, state) * jnp.asarray(self.mask, x.dtype)

  def codes(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> Affine | None:
    """Twice the inner quantizer's codes, and twice its center where masked."""
    inner = self.inner.codes(x, bits, state)
    if inner is None or inner.center is None:
      return None
    zero = 2 * inner.center
    codes = jnp.where(jnp.asarray(self.mask, bool), 2 * inner.codes, jnp.asarray(zero).astype(jnp.uint8))
    return Affine.around(codes, inner.scale / 2, zero)

  def code_bits(self, bits: Bits) -> Bits:
    """One more than the inner quantizer's."""
    return self.inner.code_bits(bits) + 1


def quantize(x: jax.Array, bits: Bits, state: State, quantizer: Quantizer, name: str) -> jax.Array:
  """A quantizer's values where it has such a width; `x` where the width is 32, static or traced.

  Args:
    x: values; they are quantized in float32 where they have less.
    bits: k; may be traced.
    state: what the quantizer learned.
    quantizer: a quantizer of weights or activations.
    name: "weights" or "activations", for the message.

  Returns:
    Values of `x`'s shape.

  Raises:
    ValueError: a width that the quantizer does not define, or of a dtype that cannot be quantized.
  """
  if is_full_precision(check_quantizer_bits(bits, quantizer, name)):
    return x
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(f"{name} must be floating to be quantized to {bits} bits, got dtype {x.dtype}")
  values = quantizer(x.astype(wide_dtype(x)), bits, state).astype(x.dtype)
  return values if isinstance(bits, int) else jnp.where(bits == FULL_PRECISION, x, values)


def check_quantizer_bits(bits: Bits, quantizer: Quantizer, name: str) -> Bits:
  """Returns `bits`, or raises ValueError where the quantizer does not define them.

  Example:
    >>> check_quantizer_bits(2, Quantizer(), "weights")
    2
  """
  bits = check_bits(bits, name)
  kind = type(quantizer.inner if isinstance(quantizer, Masked) else quantizer)
  if not isinstance(bits, int):
    if not kind.takes_traced:
      raise ValueError(f"{name}: {kind.__name__} takes static bit widths only: pass a Python int")
    return bits
  if bits != FULL_PRECISION and bits not in kind.widths:
    legal = f"{kind.widths[0]} to {kind.widths[-1]}" if len(kind.widths) > 1 else f"{kind.widths[0]}"
    raise ValueError(f"{name}: {kind.__name__} is defined for {legal} bits, or {FULL_PRECISION} for none; got {bits}")
  return bits
