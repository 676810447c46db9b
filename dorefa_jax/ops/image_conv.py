"""Float layers on images: a first layer that is not quantized decides a network's time on CPU."""

from __future__ import annotations

from collections.abc import Callable

import jax

from dorefa_jax.kernels.image_conv import image_conv, image_weight_gradient
from dorefa_jax.ops.backends import choose, on_mesh
from dorefa_jax.ops.layouts import Convolution


def image_product(
  x: jax.Array,
  w: jax.Array,
  convolution: Convolution,
  multiply: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
  """A float convolution on the kernels on CPU, by `multiply` elsewhere, and its gradients.

  Args:
    x: images.
    w: weights.
    convolution: how the kernels take the operands.
    multiply: the same in XLA; the gradient of the images is always its own.

  Returns:
    The convolution; the results of an image that is not finite are NaN.
  """
  geometry = convolution.geometry(jax.eval_shape(convolution.to_input, x).shape)

  @jax.custom_vjp
  def run(x: jax.Array, w: jax.Array) -> jax.Array:
    def on_kernels(x: jax.Array, w: jax.Array) -> jax.Array:
      y = image_conv(convolution.to_input(x), convolution.to_weights(w), geometry)
      return convolution.from_output(y)

    return choose(on_kernels, multiply, x, w)

  def backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = saved

    def on_kernels(x: jax.Array, w: jax.Array, g: jax.Array) -> jax.Array:
      dw = image_weight_gradient(convolution.to_input(x), convolution.to_output(g), geometry)
      return convolution.from_weights(dw)

    def default(x: jax.Array, w: jax.Array, g: jax.Array) -> jax.Array:
      return jax.vjp(lambda w: multiply(x, w), w)[1](g)[0]

    dw = choose(on_kernels, default, x, w, g)
    return jax.vjp(lambda x: multiply(x, w), x)[1](g)[0], dw

  run.defvjp(lambda x, w: (run(x, w), (x, w)), backward)
  return on_mesh(run, multiply, x, w)
