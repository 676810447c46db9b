"""Max pooling in windows side by side, as a maximum over a reshaped array."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from dorefa_jax.meshes import has_explicit_axes
from dorefa_jax.ops.backends import by_platform


def max_pool_windows(x: jax.Array, side: int) -> jax.Array:
  """The largest of each window; equal maxima share the gradient, and NaN is larger than all.

  Args:
    x: [batch, height, width, channels].
    side: side of a square window; divides height and width.

  Returns:
    [batch, height / side, width / side, channels].

  Example:
    >>> import jax.numpy as jnp
    >>> max_pool_windows(jnp.arange(16.0).reshape(1, 4, 4, 1), 2).ravel().tolist()
    [5.0, 7.0, 13.0, 15.0]
  """
  batch, height, width, channels = x.shape
  sharding = None
  if has_explicit_axes(x):  # JAX asks for the sharding of a reshape that splits several axes
    along = jax.typeof(x).sharding
    sharding = NamedSharding(along.mesh, PartitionSpec(along.spec[0], None, None, None, None, along.spec[3]))
  shape = batch, height // side, side, width // side, side, channels
  # XLA's reductions on CPU drop NaN from large arrays, at least in jaxlib 0.10 to 0.12; its elementwise maxima do not.
  return by_platform(_largest_of_windows, lambda x: x.max((2, 4)), lax.reshape(x, shape, out_sharding=sharding))


@jax.custom_jvp
def _largest_of_windows(x: jax.Array) -> jax.Array:
  """The maximum over axes 2 and 4."""
  pixels = [x[:, :, v, :, u] for v in range(x.shape[2]) for u in range(x.shape[4])]
  return functools.reduce(jnp.maximum, pixels)


@_largest_of_windows.defjvp
def _jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
  """As JAX's own for a maximum over axes."""
  (x,), (dx,) = primals, tangents
  y = _largest_of_windows(x)
  is_largest = (x == jnp.expand_dims(y, (2, 4))).astype(dx.dtype)
  return y, (dx * is_largest).sum((2, 4)) / is_largest.sum((2, 4))


def max_pool_2x2(x: jax.Array) -> jax.Array:
  """Max pooling by 2 in both directions, borders padded as "SAME".

  A maximum over a reshaped array, whose gradient (shared by equal maxima) XLA computes on CPUs faster than that of a
  pooling window, and which keeps NaN, as that window does not.

  Example:
    >>> import jax.numpy as jnp
    >>> max_pool_2x2(jnp.arange(16.0).reshape(1, 4, 4, 1)).ravel().tolist()
    [5.0, 7.0, 13.0, 15.0]
  """
  height, width = x.shape[1:3]
  if height % 2 == width % 2 == 0:
    return max_pool_windows(x, 2)
  pads = (0, 0), (0, height % 2), (0, width % 2), (0, 0)
  return by_platform(
    lambda x: max_pool_windows(jnp.pad(x, pads, constant_values=-jnp.inf), 2),
    lambda x: nn.max_pool(x, (2, 2), (2, 2), "SAME"),
    x,
  )


def max_pool(x: jax.Array, pool: int | tuple[int, int] | None) -> jax.Array:
  """Max pooling, borders padded as "SAME"; equal maxima share the gradient, and NaN is larger than all.

  Args:
    x: [batch, height, width, channels].
    pool: None for none; 2 for 2x2 windows side by side; (window, stride) for others.

  Returns:
    [batch, rows, columns, channels].

  Raises:
    ValueError: another `pool`.

  Example:
    >>> x = jnp.arange(25.0).reshape(1, 5, 5, 1)
    >>> max_pool(x, (3, 2)).ravel().tolist()
    [6.0, 8.0, 9.0, 16.0, 18.0, 19.0, 21.0, 23.0, 24.0]
  """
  if pool is None:
    return x
  window, stride = (pool, pool) if isinstance(pool, int) else pool
  if not (isinstance(window, int) and isinstance(stride, int) and 1 <= stride <= window):
    raise ValueError(f"pool must be None, a window size, or (window, stride) with stride up to window, got {pool!r}")
  if window == stride == 2:
    return max_pool_2x2(x)
  return _largest(x, window, stride)


def _pixels(x: jax.Array, window: int, stride: int, fill: float) -> list[jax.Array]:
  """For each pixel of a window, those of all windows; `fill` beyond the borders."""
  sizes = [-(-size // stride) for size in x.shape[1:3]]
  pads = [max((count - 1) * stride + window - size, 0) for count, size in zip(sizes, x.shape[1:3])]
  x = jnp.pad(x, ((0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)), constant_values=fill)
  ends = [(count - 1) * stride + 1 for count in sizes]
  return [x[:, v : v + ends[0] : stride, u : u + ends[1] : stride] for v in range(window) for u in range(window)]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _largest(x: jax.Array, window: int, stride: int) -> jax.Array:
  return functools.reduce(jnp.maximum, _pixels(x, window, stride, -jnp.inf))


@_largest.defjvp
def _largest_jvp(window: int, stride: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> Any:
  (x,), (dx,) = primals, tangents
  y = _largest(x, window, stride)
  is_largest = [(pixel == y).astype(dx.dtype) for pixel in _pixels(x, window, stride, -jnp.inf)]
  given = [pixel * mask for pixel, mask in zip(_pixels(dx, window, stride, 0.0), is_largest)]
  return y, sum(given[1:], given[0]) / sum(is_largest[1:], is_largest[0])
