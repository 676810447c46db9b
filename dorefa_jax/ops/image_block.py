"""A first layer on images in training as one operation: convolution, max pooling, h."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from dorefa_jax.kernels import image_block as image_block_kernels
from dorefa_jax.kernels.geometry import Geometry
from dorefa_jax.kernels.program import Bound
from dorefa_jax.methods.bounding import BoundKind, bound
from dorefa_jax.not_finite import nan_where
from dorefa_jax.ops.backends import choose, images_win, on_mesh
from dorefa_jax.ops.layouts import has_sizes
from dorefa_jax.ops.pooling import max_pool_windows

Padding: TypeAlias = str | Sequence[tuple[int, int]]


def image_geometry(
  x: jax.Array, kernel: tuple[int, int, int, int], strides: tuple[int, int] = (1, 1), padding: Padding = "VALID"
) -> Geometry | None:
  """The convolution of images that `image_block` computes; None where it takes no such images, or does not win.

  Args:
    x: images, of which shape and dtype are looked at.
    kernel: [height, width, channels, outputs].
    strides: [height, width].
    padding: as `lax.conv_general_dilated` takes it.
  """
  if not has_sizes(x) or not images_win(x, x, kernel):
    return None
  pads = lax.padtype_to_pads(x.shape[1:3], kernel[:2], strides, padding) if isinstance(padding, str) else padding
  if min(min(pair) for pair in pads) < 0:
    return None
  (top, bottom), (left, right) = pads
  geometry = Geometry((x.shape[1], x.shape[2]), kernel, strides, padding=((top, bottom), (left, right)))
  return geometry if min(geometry.out_size) >= 2 else None


def image_block(
  x: jax.Array,
  w: jax.Array,
  bias: jax.Array,
  *,
  kind: BoundKind | None = "clip",
  strides: tuple[int, int] = (1, 1),
  padding: Padding = "VALID",
) -> jax.Array:
  """`h(max_pool(conv(x, w) + bias))` in float32, for training: on the kernels on CPU, in XLA elsewhere.

  Between the passes it keeps the images, and 5 bits for each value of the result.

  Args:
    x: float32 [batch, height, width, channels].
    w: float32 [height, width, channels, outputs].
    bias: float32 [outputs].
    kind: bounding function, see `dorefa_jax.bound`; None for the identity.
    strides: [height, width] of the convolution.
    padding: the convolution's, as `lax.conv_general_dilated` takes it.

  Returns:
    float32 [batch, rows // 2, columns // 2, outputs], of the convolution's rows and columns. Equal maxima share the
    gradient; an image that is not finite gives NaN, and so do the gradients of a batch with it.

  Example:
    >>> x, w = jnp.full((1, 6, 6, 3), 0.1), jnp.ones((3, 3, 3, 4))
    >>> image_block(x, w, jnp.full(4, -2.0)).shape
    (1, 2, 2, 4)
  """
  height, width, channels, outputs = w.shape
  found = image_geometry(x, (height, width, channels, outputs), strides, padding)
  if found is None:
    raise ValueError(
      f"no kernels for a block of images {x.dtype} {x.shape} and a kernel of shape {w.shape}, strides {strides} and "
      f"padding {padding}"
    )
  geometry = found
  number = Bound.of(kind)

  def in_xla(x: jax.Array, w: jax.Array, bias: jax.Array) -> jax.Array:
    y = lax.conv_general_dilated(x, w, strides, geometry.padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    rows, columns = (size // 2 * 2 for size in y.shape[1:3])
    pooled = max_pool_windows(y[:, :rows, :columns] + bias.reshape(1, 1, 1, -1), 2)
    return pooled if kind is None else bound(pooled, kind)

  def forward(x: jax.Array, w: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    def default(x: jax.Array, w: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
      pooled = in_xla(x, w, bias)
      return pooled, jnp.zeros((pooled.size // outputs, 5, -(-outputs // 32)), jnp.uint32)  # not looked at

    return choose(lambda x, w, bias: image_block_kernels.image_block(x, w, bias, geometry, number), default, x, w, bias)

  @jax.custom_vjp
  def run(x: jax.Array, w: jax.Array, bias: jax.Array) -> jax.Array:
    return forward(x, w, bias)[0]

  def keep(x: jax.Array, w: jax.Array, bias: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    pooled, winners = forward(x, w, bias)
    return pooled, (x, w, bias, winners)

  def backward(saved: tuple[jax.Array, ...], g: jax.Array) -> tuple[jax.Array, ...]:
    x, w, bias, winners = saved

    def on_kernels(x: jax.Array, w: jax.Array, bias: jax.Array, winners: jax.Array, g: jax.Array) -> Any:
      dw, dbias = image_block_kernels.image_block_gradient(x, winners, g, geometry)
      # A maximum that is NaN has no pixel that takes its gradient: the kernel's sums lose it.
      is_lost = jnp.isnan(bias) | ~jnp.all(jnp.isfinite(w), (0, 1, 2))
      return nan_where(is_lost.reshape(1, 1, 1, -1), dw), nan_where(is_lost, dbias)

    def default(x: jax.Array, w: jax.Array, bias: jax.Array, winners: jax.Array, g: jax.Array) -> Any:
      return jax.vjp(lambda w, bias: in_xla(x, w, bias), w, bias)[1](g)

    dw, dbias = choose(on_kernels, default, x, w, bias, winners, g)
    # Pixels are seldom differentiated, and what is not asked for is not compiled.
    return jax.vjp(lambda x: in_xla(x, w, bias), x)[1](g)[0], dw, dbias

  run.defvjp(keep, backward)
  return on_mesh(run, in_xla, x, w, bias)
