"""The float operations that a packed model may have between and after its integer layers.

A table from a primitive's name to a function of JAX's public API, and what of the primitive's
parameters that function needs: files hold these names and parameters, nothing executable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dorefa_jax.not_finite import nan_where

_UNARY: dict[str, Callable[..., jax.Array]] = {
  "abs": jnp.abs, "cbrt": jnp.cbrt, "ceil": jnp.ceil, "cos": jnp.cos, "erf": lax.erf, "erfc": lax.erfc, "exp": jnp.exp,
  "exp2": jnp.exp2, "expm1": jnp.expm1, "floor": jnp.floor, "is_finite": jnp.isfinite, "log": jnp.log,
  "log1p": jnp.log1p, "logistic": lax.logistic, "neg": jnp.negative, "not": jnp.logical_not, "rsqrt": lax.rsqrt,
  "sign": jnp.sign, "sin": jnp.sin, "sqrt": jnp.sqrt, "square": jnp.square, "tanh": jnp.tanh,
}  # fmt: skip
_BINARY: dict[str, Callable[..., jax.Array]] = {
  "add": lax.add, "and": lax.bitwise_and, "div": lax.div, "eq": lax.eq, "ge": lax.ge, "gt": lax.gt, "le": lax.le,
  "lt": lax.lt, "max": lax.max, "min": lax.min, "mul": lax.mul, "ne": lax.ne, "or": lax.bitwise_or, "pow": lax.pow,
  "sub": lax.sub,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FloatOp:
  """A float operation: what it computes, and the parameters that it needs of a primitive's.

  Attributes:
    apply: operands and parameters to the result.
    parameters: names of parameters, made of integers, tuples and None, and names of dtypes.
  """

  apply: Callable[..., jax.Array]
  parameters: tuple[str, ...] = ()


def _convert(x: jax.Array, *, new_dtype: str) -> jax.Array:
  return lax.convert_element_type(x, jnp.dtype(new_dtype))


def _conv(
  x: jax.Array, w: jax.Array, *, dimension_numbers: Any, preferred_element_type: str | None, **options: Any
) -> jax.Array:
  numbers = lax.ConvDimensionNumbers(*dimension_numbers)
  return lax.conv_general_dilated(
    x, w, dimension_numbers=numbers, preferred_element_type=_dtype(preferred_element_type), **options
  )


def _dot(x: jax.Array, w: jax.Array, *, dimension_numbers: Any, preferred_element_type: str | None) -> jax.Array:
  return lax.dot_general(x, w, dimension_numbers, preferred_element_type=_dtype(preferred_element_type))


def _dtype(name: str | None) -> Any:
  return None if name is None else jnp.dtype(name)


def _window(start: float, combine: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  def apply(x: jax.Array, **options: Any) -> jax.Array:
    return lax.reduce_window(x, np.asarray(start, x.dtype), combine, **options)

  return apply


def _keeping_nan(reduce: Callable[..., jax.Array], largest: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """A maximum or minimum that NaN wins, whatever XLA's own on CPU makes of it in large arrays."""

  def apply(x: jax.Array, **options: Any) -> jax.Array:
    y = reduce(x, **options)
    if not jnp.issubdtype(x.dtype, jnp.floating):
      return y
    return nan_where(largest(jnp.isnan(x).astype(x.dtype), **options) > 0, y)

  return apply


_WINDOW = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
_REDUCTIONS: dict[str, Callable[..., jax.Array]] = {
  "reduce_and": jnp.all, "reduce_max": _keeping_nan(jnp.max, jnp.max), "reduce_min": _keeping_nan(jnp.min, jnp.max),
  "reduce_or": jnp.any, "reduce_prod": jnp.prod, "reduce_sum": jnp.sum,
}  # fmt: skip

FLOAT_OPS: Mapping[str, FloatOp] = {
  **{name: FloatOp(lambda x, f=function: f(x)) for name, function in _UNARY.items()},
  **{name: FloatOp(lambda x, y, f=function: f(x, y)) for name, function in _BINARY.items()},
  **{
    name: FloatOp(lambda x, f=function, *, axes: f(x, axis=axes), ("axes",)) for name, function in _REDUCTIONS.items()
  },
  "argmax": FloatOp(
    lambda x, *, axes, index_dtype: lax.argmax(x, axes[0], jnp.dtype(index_dtype)), ("axes", "index_dtype")
  ),
  "argmin": FloatOp(
    lambda x, *, axes, index_dtype: lax.argmin(x, axes[0], jnp.dtype(index_dtype)), ("axes", "index_dtype")
  ),
  "broadcast_in_dim": FloatOp(lax.broadcast_in_dim, ("shape", "broadcast_dimensions")),
  "clamp": FloatOp(lax.clamp),
  "concatenate": FloatOp(lambda *xs, dimension: lax.concatenate(xs, dimension), ("dimension",)),
  "conv_general_dilated": FloatOp(
    _conv,
    (
      "window_strides",
      "padding",
      "lhs_dilation",
      "rhs_dilation",
      "dimension_numbers",
      "feature_group_count",
      "preferred_element_type",
    ),
  ),
  "convert_element_type": FloatOp(_convert, ("new_dtype",)),
  "copy": FloatOp(lambda x: x),
  "dorefa_codes": FloatOp(lambda x: x),
  "dot_general": FloatOp(_dot, ("dimension_numbers", "preferred_element_type")),
  "integer_pow": FloatOp(lambda x, *, y: lax.integer_pow(x, y), ("y",)),
  "pad": FloatOp(lax.pad, ("padding_config",)),
  "reduce_window_max": FloatOp(_keeping_nan(_window(-np.inf, lax.max), _window(-np.inf, lax.max)), _WINDOW),
  "reduce_window_min": FloatOp(_keeping_nan(_window(np.inf, lax.min), _window(-np.inf, lax.max)), _WINDOW),
  "reduce_window_sum": FloatOp(_window(0, lax.add), _WINDOW),
  "reshape": FloatOp(lambda x, *, new_sizes: lax.reshape(x, new_sizes), ("new_sizes",)),
  "rev": FloatOp(lax.rev, ("dimensions",)),
  "round": FloatOp(
    lambda x, *, rounding_method: lax.round(x, lax.RoundingMethod(rounding_method)), ("rounding_method",)
  ),
  "select_n": FloatOp(lax.select_n),
  "slice": FloatOp(lax.slice, ("start_indices", "limit_indices", "strides")),
  "stop_gradient": FloatOp(lambda x: x),
  "squeeze": FloatOp(lax.squeeze, ("dimensions",)),
  "transpose": FloatOp(lax.transpose, ("permutation",)),
}


IGNORED = {
  "accuracy", "bits", "out_dtype", "out_sharding", "precision", "role", "sharding", "weak_type",
}  # fmt: skip
"""Parameters of primitives that change no result of these operations on a CPU."""


VALUE_DTYPES = {
  "bfloat16", "bool", "float16", "float32", "int16", "int32", "int8", "uint16", "uint32", "uint8",
}  # fmt: skip
"""Dtypes of values between operations, at most 4 bytes each."""
SAVED_DTYPES = {"float32", "float16", "int32", "int8", "uint8", "uint32", "bool"}
"""Dtypes of constants that a file holds."""


def is_dtype_parameter(name: str) -> bool:
  """Whether a parameter is the name of a dtype, or None; all others are made of integers.

  Example:
    >>> is_dtype_parameter("preferred_element_type"), is_dtype_parameter("axes")
    (True, False)
  """
  return name.endswith(("dtype", "element_type"))


def check_windows(name: str, parameters: Mapping[str, Any], rank: int) -> None:
  """Raises ValueError unless windows have one entry for each axis, which JAX leaves to XLA to find.

  Args:
    name, parameters: the operation's.
    rank: rank of its first operand.

  Example:
    >>> check_windows("tanh", {}, 2)
  """
  lists = [key for key in parameters if key.startswith("window_") or key.endswith("_dilation")]
  axes = rank
  if name == "conv_general_dilated":
    axes = rank - 2
    if any(sorted(numbers) != list(range(rank)) for numbers in parameters["dimension_numbers"]):
      raise ValueError(f"its dimension numbers are not three orders of {rank} axes")
  if any(len(parameters[key]) != axes or min(parameters[key], default=1) < 1 for key in lists):
    raise ValueError(f"its {', '.join(lists)} are not {axes} positive integers each")
  if lists and [len(pads) for pads in parameters["padding"]] != [2] * axes:
    raise ValueError(f"its padding is not {axes} pairs")


def has_other_meaning(name: str, parameter: str, value: Any) -> bool:
  """Whether a primitive's parameter, which the table leaves out, asks for something else.

  Example:
    >>> has_other_meaning("reshape", "dimensions", None), has_other_meaning("reshape", "dimensions", (1, 0))
    (False, True)
  """
  if parameter in IGNORED or parameter in FLOAT_OPS[name].parameters:
    return False
  return not (value is None or value is False or value == () or (parameter == "batch_group_count" and value == 1))


def plain(value: Any) -> Any:
  """A primitive's parameter as numbers, strings, None and tuples.

  Raises:
    TypeError: it is made of something else.

  Example:
    >>> plain(((1, 2), np.dtype("float32"), None))
    ((1, 2), 'float32', None)
  """
  if value is None or isinstance(value, (bool, str)):
    return value
  if isinstance(value, (tuple, list)):
    return tuple(plain(item) for item in value)
  if isinstance(value, (int, np.integer, lax.RoundingMethod)):
    return int(value.value if isinstance(value, lax.RoundingMethod) else value)
  if isinstance(value, (float, np.floating)):
    return float(value)
  if isinstance(value, (np.dtype, type)):
    return np.dtype(value).name
  raise TypeError(f"a parameter of type {type(value).__name__}")


ELEMENTWISE = {
  "abs", "add", "and", "cbrt", "ceil", "clamp", "convert_element_type", "copy", "div", "dorefa_codes", "eq", "erf",
  "erfc", "exp", "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le", "log", "log1p", "logistic", "lt",
  "max", "min", "mul", "ne", "neg", "not", "or", "pow", "round", "rsqrt", "select_n", "sign", "sqrt", "square",
  "stop_gradient", "sub", "tanh",
}  # fmt: skip
