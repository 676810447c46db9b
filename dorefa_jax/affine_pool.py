"""What lies between two quantized layers in training, as one operation: normalization, max pooling, h."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dorefa_jax.kernels import available, cpu
from dorefa_jax.quantizers import BOUND_KINDS, BoundKind, bound


def affine_pool_bound(
  y: jax.Array, factor: jax.Array, offset: jax.Array, *, window: int = 1, kind: BoundKind = "clip"
) -> jax.Array:
  """`bound(max_pool(factor y + offset))`: one pass forward and one backward on CPU, XLA's elsewhere.

  Args:
    y: float32 [batch, height, width, channels].
    factor, offset: float32 [channels], as batch norm has them.
    window: 1 for no pooling, or 2 for windows of 2x2 side by side; it divides height and width.
    kind: of the bounding function, see `dorefa_jax.bound`.

  Returns:
    float32 [batch, height / window, width / window, channels]. Equal maxima share the gradient.

  Raises:
    ValueError: another window, or one that does not divide the image.

  Example:
    >>> import jax.numpy as jnp
    >>> y = jnp.array([[0.0, 1.0], [2.0, 3.0]]).reshape(1, 2, 2, 1)
    >>> affine_pool_bound(y, jnp.array([0.5]), jnp.array([-1.0]), window=2).ravel().tolist()
    [0.5]
  """
  if window not in (1, 2) or y.ndim != 4 or y.shape[1] % window or y.shape[2] % window:
    raise ValueError(f"window must be 1 or 2 and divide height and width, got {window} and y of shape {y.shape}")

  def in_xla(y: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
    z = y * factor.reshape(1, 1, 1, -1) + offset.reshape(1, 1, 1, -1)
    batch, height, width, channels = y.shape
    pooled = z.reshape(batch, height // window, window, width // window, window, channels).max((2, 4))
    return bound(pooled, kind)

  if not available().is_compiled or y.dtype != jnp.float32:
    return in_xla(y, factor, offset)
  path = np.int64(cpu.path_index(available().path))
  spec = jnp.array([window, BOUND_KINDS.index(kind)], jnp.int32)
  pooled = y.shape[0], y.shape[1] // window, y.shape[2] // window, y.shape[3]

  @jax.custom_vjp
  def run(y: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
    def on_kernels(y: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
      result = jax.ShapeDtypeStruct(pooled, jnp.float32)
      call = jax.ffi.ffi_call("dorefa_affine_pool", result, vmap_method="sequential")
      return call(y, factor, offset, spec, path=path)

    return lax.platform_dependent(y, factor, offset, cpu=on_kernels, default=in_xla)

  def backward(saved: tuple[jax.Array, ...], g: jax.Array) -> tuple[jax.Array, ...]:
    def on_kernels(y: jax.Array, factor: jax.Array, offset: jax.Array, g: jax.Array) -> tuple[jax.Array, ...]:
      results = [jax.ShapeDtypeStruct(array.shape, jnp.float32) for array in (y, factor, offset)]
      call = jax.ffi.ffi_call("dorefa_affine_pool_gradient", results, vmap_method="sequential")
      return tuple(call(y, factor, offset, spec, g, path=path))

    def default(y: jax.Array, factor: jax.Array, offset: jax.Array, g: jax.Array) -> tuple[jax.Array, ...]:
      return jax.vjp(in_xla, y, factor, offset)[1](g)

    return lax.platform_dependent(*saved, g, cpu=on_kernels, default=default)

  run.defvjp(lambda *args: (run(*args), args), backward)
  return run(y, factor, offset)
