"""From uint8 images to the model's input, inside jit on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def resize(images: jax.Array, size: int | tuple[int, int]) -> jax.Array:
  """Bilinear resize, pixels kept whole numbers.

  Args:
    images: [n, height, width, channels] uint8.
    size: height and width of the result, or the side of a square; 0 leaves images as they are.

  Returns:
    [n, height, width, channels] float32, whole numbers in 0..255.

  Example:
    >>> resize(jnp.full((1, 32, 32, 3), 7, jnp.uint8), 40).shape
    (1, 40, 40, 3)
  """
  height, width = (size, size) if isinstance(size, int) else size
  if not height:
    return images.astype(jnp.float32)
  shape = (images.shape[0], height, width, images.shape[3])
  return jnp.round(jax.image.resize(images.astype(jnp.float32), shape, "linear", antialias=False))


def jitter(images: jax.Array, key: jax.Array, brightness: float, contrast: tuple[float, ...]) -> jax.Array:
  """The paper's brightness and contrast jitter, drawn for each image.

  Adds `U(-brightness, brightness)` to all pixels, then stretches each channel about its mean
  by `U(contrast)`, clips to 0..255 and rounds.

  Args:
    images: [n, height, width, channels] float32 in 0..255.
    key: PRNG key.
    brightness: largest shift, of 255.
    contrast: smallest and largest factor.

  Returns:
    Images of the same shape, whole numbers in 0..255.

  Example:
    >>> out = jitter(jnp.full((2, 4, 4, 3), 100.0), jax.random.key(0), 0.0, (0.5, 1.5))
    >>> bool((out == 100).all())
    True
  """
  shift_key, factor_key = jax.random.split(key)
  shape = (images.shape[0], 1, 1, 1)
  images = images + jax.random.uniform(shift_key, shape, images.dtype, -brightness, brightness)
  factor = jax.random.uniform(factor_key, shape, images.dtype, contrast[0], contrast[1])
  mean = images.mean((1, 2), keepdims=True)
  return jnp.round(jnp.clip((images - mean) * factor + mean, 0, 255))


def to_unit(images: jax.Array) -> jax.Array:
  """Pixels 0..255 as values in [0, 1), divided by 256 as the paper does.

  Example:
    >>> float(to_unit(jnp.array(255.0)))
    0.99609375
  """
  return images / 256
