"""Float layers on images: a first layer that is not quantized decides a network's time on CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dorefa_jax.integer import Convolution, has_sizes
from dorefa_jax.kernels import available, images
from dorefa_jax.kernels.images import image_conv, image_weight_gradient
from dorefa_jax.kernels.platform import choose, on_mesh
from dorefa_jax.kernels.training import Geometry
from dorefa_jax.not_finite import nan_where
from dorefa_jax.pooling import max_pool_windows
from dorefa_jax.quantizers import BOUND_KINDS, BoundKind, bound

MAX_CHANNELS = 4
"""Of images whose convolution is slow in XLA on CPU."""
MIN_OUTPUTS = 4
"""Of a layer that is worth a vector of 16."""


def wins(x: jax.Array, w: jax.Array, convolution: Convolution) -> bool:
  """Whether the kernels are faster than XLA's float convolution, and take the operands."""
  _, _, channels, outputs = convolution.shape
  is_float32 = x.dtype == w.dtype == jnp.float32
  has_images = channels <= MAX_CHANNELS and outputs >= MIN_OUTPUTS and convolution.groups == 1
  is_conv = convolution.shape[:2] != (1, 1)
  return available().is_compiled and is_float32 and has_images and is_conv


def image_product(
  x: jax.Array,
  w: jax.Array,
  convolution: Convolution,
  geometry: Geometry,
  multiply: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
  """A float convolution on the kernels on CPU, by `multiply` elsewhere, and its gradients.

  Args:
    x: images.
    w: weights.
    convolution: how the kernels take the operands.
    geometry: the convolution of the images.
    multiply: the same in XLA; the gradient of the images is always its own.

  Returns:
    The convolution; the results of an image that is not finite are NaN.
  """
  path = available().path

  @jax.custom_vjp
  def run(x: jax.Array, w: jax.Array) -> jax.Array:
    def on_kernels(x: jax.Array, w: jax.Array) -> jax.Array:
      y = image_conv(convolution.to_input(x), convolution.to_weights(w), geometry, path=path)
      return convolution.from_output(y)

    return choose(on_kernels, multiply, x, w)

  def backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = saved

    def on_kernels(x: jax.Array, w: jax.Array, g: jax.Array) -> jax.Array:
      dw = image_weight_gradient(convolution.to_input(x), convolution.to_output(g), geometry, path=path)
      return convolution.from_weights(dw)

    def default(x: jax.Array, w: jax.Array, g: jax.Array) -> jax.Array:
      return jax.vjp(lambda w: multiply(x, w), w)[1](g)[0]

    dw = choose(on_kernels, default, x, w, g)
    return jax.vjp(lambda x: multiply(x, w), x)[1](g)[0], dw

  run.defvjp(lambda x, w: (run(x, w), (x, w)), backward)
  return on_mesh(run, multiply, x, w)


def image_block_fits(x: jax.Array, kernel: tuple[int, int, int, int]) -> bool:
  """Whether `image_block` takes images, and a kernel of a shape, and wins: few channels, and windows that are whole.

  Args:
    x: images.
    kernel: [height, width, channels, outputs].
  """
  sizes = [size - reach + 1 for size, reach in zip(x.shape[1:3], kernel)]
  is_image = x.dtype == jnp.float32 and has_sizes(x) and kernel[2] <= MAX_CHANNELS and kernel[3] >= MIN_OUTPUTS
  return available().is_compiled and is_image and all(size > 0 and size % 2 == 0 for size in sizes)


def image_block(x: jax.Array, w: jax.Array, bias: jax.Array, *, kind: BoundKind = "clip") -> jax.Array:
  """`h(max_pool(conv(x, w) + bias))` in float32, for training: on the kernels on CPU, in XLA elsewhere.

  Between the passes it keeps the images, and 5 bits for each value of the result.

  Args:
    x: float32 [batch, height, width, channels]; its convolution has even sizes.
    w: float32 [height, width, channels, outputs]; strides are 1, nothing is padded.
    bias: float32 [outputs].
    kind: of the bounding function, see `dorefa_jax.bound`.

  Returns:
    float32 [batch, rows / 2, columns / 2, outputs], of the convolution's rows and columns. Equal maxima share the
    gradient; an image that is not finite gives NaN, and so do the gradients of a batch with it.

  Example:
    >>> x, w = jnp.full((1, 6, 6, 3), 0.1), jnp.ones((3, 3, 3, 4))
    >>> image_block(x, w, jnp.full(4, -2.0)).shape
    (1, 2, 2, 4)
  """
  height, width, channels, outputs = w.shape
  geometry = Geometry((x.shape[1], x.shape[2]), (height, width, channels, outputs))
  if not image_block_fits(x, geometry.shape):
    raise ValueError(f"no kernels for a block of images {x.dtype} {x.shape} and a kernel of shape {w.shape}")
  path, number = available().path, BOUND_KINDS.index(kind)

  def in_xla(x: jax.Array, w: jax.Array, bias: jax.Array) -> jax.Array:
    y = lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return bound(max_pool_windows(y + bias.reshape(1, 1, 1, -1), 2), kind)

  def forward(x: jax.Array, w: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    def default(x: jax.Array, w: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
      pooled = in_xla(x, w, bias)
      return pooled, jnp.zeros((pooled.size // outputs, 5, -(-outputs // 32)), jnp.uint32)  # not looked at

    return choose(lambda x, w, bias: images.image_block(x, w, bias, geometry, number, path=path), default, x, w, bias)

  @jax.custom_vjp
  def run(x: jax.Array, w: jax.Array, bias: jax.Array) -> jax.Array:
    return forward(x, w, bias)[0]

  def keep(x: jax.Array, w: jax.Array, bias: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    pooled, winners = forward(x, w, bias)
    return pooled, (x, w, bias, winners)

  def backward(saved: tuple[jax.Array, ...], g: jax.Array) -> tuple[jax.Array, ...]:
    x, w, bias, winners = saved

    def on_kernels(x: jax.Array, w: jax.Array, bias: jax.Array, winners: jax.Array, g: jax.Array) -> Any:
      dw, dbias = images.image_block_gradient(x, winners, g, geometry, path=path)
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
