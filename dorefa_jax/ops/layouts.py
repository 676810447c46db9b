"""From the arguments of `lax` to the layout of the kernels, NHWC times HWIO, and back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dorefa_jax.kernels.geometry import Geometry


@dataclasses.dataclass(frozen=True)
class Convolution:
  """A product as the kernels take it: NHWC times HWIO.

  Attributes:
    to_input, to_weights, from_output: transposes and reshapes around it.
    from_input, from_weights, to_output: the same backwards, for gradients.
    shape: kernel shape, [height, width, channels of a group, outputs].
    strides, dilation, padding, groups: the convolution's.
  """

  to_input: Callable[[jax.Array], jax.Array]
  to_weights: Callable[[jax.Array], jax.Array]
  from_output: Callable[[jax.Array], jax.Array]
  from_input: Callable[[jax.Array], jax.Array]
  from_weights: Callable[[jax.Array], jax.Array]
  to_output: Callable[[jax.Array], jax.Array]
  shape: tuple[int, ...]
  strides: tuple[int, int] = (1, 1)
  dilation: tuple[int, int] = (1, 1)
  padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
  groups: int = 1

  def geometry(self, shape: tuple[int, ...]) -> Geometry:
    """The convolution of images of a shape, [batch, height, width, channels]."""
    height, width, channels, outputs = self.shape
    return Geometry(
      (shape[1], shape[2]), (height, width, channels, outputs), self.strides, self.dilation, self.padding, self.groups
    )


class NotInteger(ValueError):
  """A product that the integer kernels do not compute; the message says why."""


def has_sizes(x: jax.Array | jax.ShapeDtypeStruct) -> bool:
  """Whether the sizes of an array are known, as they are but in `jax.export` with symbolic shapes.

  Example:
    >>> has_sizes(jnp.ones(2))
    True
  """
  return all(isinstance(size, int) for size in x.shape)


def as_convolution(
  x: jax.Array,
  w: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  dimension_numbers: Any,
  options: dict[str, Any],
) -> Convolution:
  """`lax.conv_general_dilated`'s arguments as the kernels take them.

  Raises:
    NotInteger: another rank than 1-D or 2-D, dilated input, grouped batch, negative padding, float64.
  """
  spatial = x.ndim - 2
  _check_dtypes(x, w)
  if spatial not in (1, 2):
    raise NotInteger(f"convolutions have 1 or 2 spatial axes, got {spatial}")
  _check_options(options, {"rhs_dilation", "feature_group_count", "lhs_dilation", "batch_group_count"})
  if any(step != 1 for step in options.get("lhs_dilation") or ()):
    raise NotInteger("the input cannot be dilated (lhs_dilation)")
  if options.get("batch_group_count", 1) != 1:
    raise NotInteger("the batch cannot be grouped (batch_group_count)")
  dilation = tuple(options.get("rhs_dilation") or (1,) * spatial)
  numbers = lax.conv_dimension_numbers(x.shape, w.shape, dimension_numbers)
  lhs, rhs, out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
  window = [w.shape[axis] for axis in rhs[2:]]
  if isinstance(padding, str):
    reach = [(size - 1) * step + 1 for size, step in zip(window, dilation)]
    padding = lax.padtype_to_pads([x.shape[axis] for axis in lhs[2:]], reach, window_strides, padding)
  pads = tuple((int(low), int(high)) for low, high in padding)
  if min(min(pair) for pair in pads) < 0:
    raise NotInteger(f"padding must not be negative, got {pads}")
  sizes = [x.shape[axis] + sum(pair) for axis, pair in zip(lhs[2:], pads)]
  if any(size <= (taps - 1) * step for size, taps, step in zip(sizes, window, dilation)):
    raise NotInteger(f"x of shape {x.shape} is smaller than the kernel, {tuple(window)}: the result is empty")
  is_line = spatial == 1  # which becomes an image of height 1

  to_input, from_input = _transposes((lhs[0], *lhs[2:], lhs[1]), axis=1 if is_line else None)
  to_weights, from_weights = _transposes((*rhs[2:], rhs[1], rhs[0]), axis=0 if is_line else None)
  to_output, from_output = _transposes((out[0], *out[2:], out[1]), axis=1 if is_line else None)
  return Convolution(
    to_input,
    to_weights,
    from_output,
    from_input,
    from_weights,
    to_output,
    shape=((1,) if is_line else ()) + (*window, w.shape[rhs[1]], w.shape[rhs[0]]),
    strides=_pair(window_strides, 1),
    dilation=_pair(dilation, 1),
    padding=_pair(pads, (0, 0)),
    groups=options.get("feature_group_count", 1),
  )


def as_dot(x: jax.Array, w: jax.Array, dimension_numbers: Any, options: dict[str, Any]) -> Convolution:
  """`lax.dot_general`'s arguments as a convolution of one pixel.

  Raises:
    NotInteger: batch axes, or float64.
  """
  _check_dtypes(x, w)
  _check_options(options, set())
  (x_axes, w_axes), (x_batch, w_batch) = dimension_numbers
  if x_batch or w_batch:
    raise NotInteger("dot products have no batch axes in dimension_numbers")
  x_free = [axis for axis in range(x.ndim) if axis not in x_axes]
  w_free = [axis for axis in range(w.ndim) if axis not in w_axes]
  rows, columns = [x.shape[axis] for axis in x_free], [w.shape[axis] for axis in w_free]
  length = math.prod(x.shape[axis] for axis in x_axes)
  outputs = math.prod(columns)
  inner = [x.shape[axis] for axis in x_axes]
  return Convolution(
    lambda x: jnp.transpose(x, (*x_free, *x_axes)).reshape(-1, 1, 1, length),
    lambda w: jnp.transpose(w, (*w_axes, *w_free)).reshape(1, 1, length, outputs),
    lambda y: y.reshape(*rows, *columns),
    lambda x: jnp.transpose(x.reshape(*rows, *inner), np.argsort((*x_free, *x_axes)).tolist()),
    lambda w: jnp.transpose(w.reshape(*inner, *columns), np.argsort((*w_axes, *w_free)).tolist()),
    lambda y: y.reshape(-1, 1, 1, outputs),
    shape=(1, 1, length, outputs),
  )


Layout: TypeAlias = Callable[[jax.Array], jax.Array]


def _transposes(axes: Sequence[int], *, axis: int | None) -> tuple[Layout, Layout]:
  """A transpose, with a new axis of 1 where `axis` is given, and the way back."""

  def there(x: jax.Array) -> jax.Array:
    x = jnp.transpose(x, axes)
    return x if axis is None else jnp.expand_dims(x, axis)

  def back(x: jax.Array) -> jax.Array:
    x = x if axis is None else jnp.squeeze(x, axis)
    return jnp.transpose(x, np.argsort(axes).tolist())

  return there, back


def _check_dtypes(x: jax.Array, w: jax.Array) -> None:
  for name, operand in (("x", x), ("w", w)):
    if not jnp.issubdtype(operand.dtype, jnp.floating) or operand.dtype.itemsize > 4:
      raise NotInteger(f"{name} must be floating with 32 bits or less, got {operand.dtype}")
    if 0 in operand.shape:
      raise NotInteger(f"{name} must not be empty, got shape {operand.shape}")


def _check_options(options: dict[str, Any], known: set[str]) -> None:
  harmless = {"precision", "preferred_element_type"}
  for name, value in options.items():
    if name not in known | harmless and value is not None:
      raise NotInteger(f"the option {name}={value!r} is not supported")


def _pair(values: Any, one: Any) -> Any:
  values = tuple(values)
  return values if len(values) == 2 else (one, *values)
