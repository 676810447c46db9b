"""Max pooling in windows side by side, as a maximum over a reshaped array."""

from __future__ import annotations

import functools

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
    side: of a square window; it divides height and width.

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
