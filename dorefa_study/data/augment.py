"""Random changes of training images, inside the compiled step: crops, flips, and the paper's jitter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from dorefa_study.data.images import jitter, resize

if TYPE_CHECKING:
  from dorefa_study.config import TrainConfig

ASPECT = (3 / 4, 4 / 3)
"""Ratios of width to height that random crops have before they are resized."""


def augment(images: jax.Array, key: jax.Array, size: tuple[int, int], train: TrainConfig) -> jax.Array:
  """Training images as a recipe wants them, different in every step.

  Args:
    images: [n, height, width, channels] uint8.
    key: PRNG key.
    size: height and width of the result.
    train: the recipe.

  Returns:
    [n, *size, channels] float32, whole numbers in 0..255.

  Example:
    >>> from dorefa_study.config import TrainConfig
    >>> augment(jnp.zeros((2, 32, 32, 3), jnp.uint8), jax.random.key(0), (40, 40), TrainConfig(flip=True)).shape
    (2, 40, 40, 3)
  """
  crop_key, flip_key = (jax.random.fold_in(key, index) for index in (1, 2))
  area = train.resized_crop
  batch = resized_crop(images, crop_key, size, area) if area else resize(images, size)
  if train.pad_crop:
    batch = pad_crop(batch, crop_key, train.pad_crop)
  if train.flip:
    batch = flip(batch, flip_key)
  return jitter(batch, key, train.brightness, train.contrast)


def pad_crop(images: jax.Array, key: jax.Array, padding: int) -> jax.Array:
  """Random crops of images with black around them, of the images' own size.

  Args:
    images: [n, height, width, channels].
    key: PRNG key.
    padding: pixels on each side.

  Example:
    >>> pad_crop(jnp.ones((2, 8, 8, 3)), jax.random.key(0), 2).shape
    (2, 8, 8, 3)
  """
  padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  offsets = jax.random.randint(key, (images.shape[0], 2), 0, 2 * padding + 1)

  def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice(image, (offset[0], offset[1], jnp.zeros((), offset.dtype)), images.shape[1:])

  return jax.vmap(crop)(padded, offsets)


def flip(images: jax.Array, key: jax.Array) -> jax.Array:
  """Images of which half are mirrored left to right.

  Args:
    images: [n, height, width, channels].
    key: PRNG key.

  Example:
    >>> flip(jnp.ones((2, 8, 8, 3)), jax.random.key(0)).shape
    (2, 8, 8, 3)
  """
  mirrored = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
  return jnp.where(mirrored, images[:, :, ::-1], images)


def resized_crop(images: jax.Array, key: jax.Array, size: tuple[int, int], area: tuple[float, ...]) -> jax.Array:
  """Random parts of images, resized: of a random area and a ratio of sides between 3/4 and 4/3.

  Args:
    images: [n, height, width, channels].
    key: PRNG key.
    size: height and width of the result.
    area: smallest and largest share of an image that is seen.

  Returns:
    [n, *size, channels] float32, whole numbers in 0..255.

  Example:
    >>> resized_crop(jnp.ones((2, 64, 48, 3), jnp.uint8), jax.random.key(0), (32, 32), (0.08, 1.0)).shape
    (2, 32, 32, 3)
  """
  count, height, width, channels = images.shape
  area_key, ratio_key, place_key = jax.random.split(key, 3)
  share = jax.random.uniform(area_key, (count,), jnp.float32, area[0], area[1])
  low, high = (jnp.log(jnp.float32(ratio)) for ratio in ASPECT)
  ratio = jnp.exp(jax.random.uniform(ratio_key, (count,), jnp.float32, low, high))
  pixels = share * (height * width)
  sides = jnp.stack([jnp.sqrt(pixels / ratio), jnp.sqrt(pixels * ratio)], 1)
  sides = jnp.minimum(sides, jnp.array([height, width], jnp.float32))
  free = jnp.array([height, width], jnp.float32) - sides
  start = jax.random.uniform(place_key, (count, 2)) * free
  scale = jnp.array(size, jnp.float32) / sides

  def crop(image: jax.Array, scale: jax.Array, start: jax.Array) -> jax.Array:
    shape = (*size, channels)
    return jax.image.scale_and_translate(image, shape, (0, 1), scale, -start * scale, "linear", antialias=True)

  return jnp.round(jnp.clip(jax.vmap(crop)(images.astype(jnp.float32), scale, start), 0, 255))
