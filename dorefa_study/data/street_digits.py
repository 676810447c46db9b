"""street_digits: house numbers that look like SVHN's, generated from a seed; no download."""

from __future__ import annotations

import dataclasses

import numpy as np

from dorefa_study.data.dataset import Dataset, Split
from dorefa_study.data.glyphs import BODY, CELL, glyph_atlas

SIZE = 32
CHUNK = 1000
"""Images drawn from one random generator: image i depends on (seed, split, i // CHUNK) alone."""


@dataclasses.dataclass(frozen=True)
class _Draw:
  """Random values, one or an array of them for each of n images."""

  rng: np.random.Generator
  n: int

  def uniform(self, low: float, high: float, *shape: int) -> np.ndarray:
    return self.rng.uniform(low, high, (self.n, *shape)).astype(np.float32)

  def chance(self, probability: float) -> np.ndarray:
    return (self.rng.random(self.n) < probability).astype(np.float32)


def load_street_digits(*, train_size: int = 20_000, test_size: int = 4_000, seed: int = 0) -> Dataset:
  """Generates the data set, a pure function of its arguments.

  Each image has a digit in the middle, which is its label, often between other digits of
  the same font and colour, cut off by the border. Fonts, weight, slant, rotation, size,
  colours, contrast, outline, shadow, plate, lighting, blur and noise vary.

  Args:
    train_size: number of training images; fewer are the first ones of more.
    test_size: number of test images, likewise.
    seed: any integer from 0.

  Returns:
    The data set, 32x32x3 uint8.

  Example:
    >>> load_street_digits(train_size=3, test_size=2).train.images.shape
    (3, 32, 32, 3)
  """
  return Dataset(
    name="street_digits",
    source=f"generated, seed {seed}",
    train=_generate(train_size, (seed, 0)),
    test=_generate(test_size, (seed, 1)),
  )


def _generate(count: int, seed: tuple[int, int]) -> Split:
  chunks = [_chunk(np.random.default_rng([*seed, index])) for index in range(-(-count // CHUNK))]
  images = np.concatenate([images for images, _ in chunks])[:count]
  labels = np.concatenate([labels for _, labels in chunks])[:count]
  return Split(images, labels)


def _chunk(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  n, draw = CHUNK, _Draw(rng, CHUNK)
  uniform, chance = draw.uniform, draw.chance
  labels = rng.integers(0, 10, n)
  distances = _place_digits(rng, labels)
  weight = uniform(-0.035, 0.04)[:, None, None]
  heights = distances["height"][:, None, None]
  distance = np.min(distances["distance"], 1) - weight

  def ink(extra: np.ndarray | float, of: np.ndarray = distance) -> np.ndarray:
    return np.clip(0.5 - (of - extra) * heights, 0, 1)[..., None]

  background, foreground, third = _colours(draw)
  image = _lit_plate(background, third, draw)
  outline = ink(uniform(0.03, 0.1)[:, None, None]) * (chance(0.2) * uniform(0.3, 1))[:, None, None, None]
  shift = rng.integers(-2, 3, (n, 2))
  shadow_distance = np.stack([np.roll(d, tuple(s), (0, 1)) for d, s in zip(distance, shift)])
  shadow = ink(0.0, shadow_distance) * (chance(0.35) * uniform(0.2, 0.9))[:, None, None, None]
  dark = image * uniform(0.2, 0.7)[:, None, None, None]
  image = image + shadow * (dark - image)
  image = image + outline * (third[:, None, None] - image)
  body = ink(0.0)
  image = image + body * (foreground[:, None, None] - image)
  image = image * _lighting(draw)
  image = _blur(image, draw)
  image = image + rng.normal(0, 1, image.shape).astype(np.float32) * uniform(0, 5)[:, None, None, None]
  return np.clip(np.round(image), 0, 255).astype(np.uint8), labels.astype(np.int32)


def _place_digits(rng: np.random.Generator, labels: np.ndarray) -> dict[str, np.ndarray]:
  """Signed distance of every pixel to the label's digit and to one neighbour on each side."""
  n, atlas = len(labels), glyph_atlas()
  # The outline font, one style among the others, is as common as all of them.
  styles = np.where(rng.random(n) < 0.45, len(atlas) - 1, rng.integers(0, len(atlas), n))
  height = rng.uniform(17, 29, n).astype(np.float32)
  width = height * rng.uniform(0.38, 0.75, n).astype(np.float32)
  angle, slant = np.radians(rng.normal(0, 6, n)), rng.normal(0.03, 0.12, n)
  centre = SIZE / 2 - 0.5 + rng.normal(0, 1.2, (n, 2))
  spacing = width * rng.uniform(1.1, 1.6, n)
  digits = np.stack([rng.integers(0, 10, n), labels, rng.integers(0, 10, n)], 1)
  shown = np.stack([rng.random(n) < 0.55, np.ones(n, bool), rng.random(n) < 0.55], 1)

  y, x = np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")
  dx, dy = x - centre[:, 0, None, None], y - centre[:, 1, None, None]
  cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
  along, down = dx * cos + dy * sin, dy * cos - dx * sin
  along = along + down * slant[:, None, None]
  scale = BODY[1] - BODY[0]
  rows = (down / height[:, None, None] * scale + 0.5) * CELL - 0.5
  fields = []
  for position in range(3):
    moved = along - ((position - 1) * spacing)[:, None, None]
    columns = (moved / width[:, None, None] * scale + 0.5) * CELL - 0.5
    field = _sample(atlas, styles, digits[:, position], rows, columns)
    fields.append(np.where(shown[:, position, None, None], field, 1.0))
  return {"distance": np.stack(fields, 1).astype(np.float32), "height": height}


def _sample(
  atlas: np.ndarray, styles: np.ndarray, digits: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
  """Bilinear look-up in the atlas; outside a cell the distance at its border, and far away 1."""
  outside = (rows < -0.5) | (rows > CELL - 0.5) | (columns < -0.5) | (columns > CELL - 0.5)
  rows, columns = np.clip(rows, 0, CELL - 1.001), np.clip(columns, 0, CELL - 1.001)
  row, column = rows.astype(np.int32), columns.astype(np.int32)
  fy, fx = (rows - row).astype(np.float32), (columns - column).astype(np.float32)
  flat = atlas.reshape(-1)
  base = ((styles * 10 + digits) * CELL * CELL)[:, None, None] + row * CELL + column
  top = flat[base] * (1 - fx) + flat[base + 1] * fx
  bottom = flat[base + CELL] * (1 - fx) + flat[base + CELL + 1] * fx
  return np.where(outside, 1.0, top * (1 - fy) + bottom * fy)


def _colours(draw: _Draw) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Background, foreground and a third colour, [n, 3] each, in 0..255."""
  luma = draw.uniform(15, 240)
  contrast = 22 + 150 * draw.uniform(0, 1) ** 1.3
  brighter = draw.uniform(0, 1) < (255 - luma) / 255
  other = np.clip(np.where(brighter, luma + contrast, luma - contrast), 0, 255)
  # What the clip took from the contrast, the background gives back.
  luma = np.where(np.abs(other - luma) < 22, np.where(brighter, other - 30, other + 30), luma)

  def tint(strength: float) -> np.ndarray:
    chroma = draw.uniform(-1, 1, 3)
    return (chroma - chroma.mean(1, keepdims=True)) * strength * draw.uniform(0, 1, 1) ** 2

  shared = tint(30)
  background = luma[:, None] + shared + tint(90)
  foreground = other[:, None] + shared + tint(50)
  return background, foreground, draw.uniform(0, 255)[:, None] + shared + tint(40)


def _lit_plate(background: np.ndarray, third: np.ndarray, draw: _Draw) -> np.ndarray:
  """The wall, sometimes with the edge of a plate across it, and coarse texture."""
  n = len(background)
  y, x = np.meshgrid(np.linspace(-1, 1, SIZE), np.linspace(-1, 1, SIZE), indexing="ij")
  angle = (np.floor(draw.uniform(0, 4)) * np.pi / 2 + draw.uniform(-0.15, 0.15))[:, None, None]
  side = np.cos(angle) * x + np.sin(angle) * y - draw.uniform(0.7, 1.1)[:, None, None]
  beyond = np.clip(side * 16, 0, 1)[..., None] * draw.chance(0.4)[:, None, None, None]
  image = background[:, None, None] + beyond * (third - background)[:, None, None]
  texture = draw.uniform(-1, 1, 8, 8, 1).repeat(4, 1).repeat(4, 2) * draw.uniform(0, 8)[:, None, None, None]
  return (image + texture).astype(np.float32).reshape(n, SIZE, SIZE, 3)


def _lighting(draw: _Draw) -> np.ndarray:
  """A linear fall of light across the image, as a factor."""
  y, x = np.meshgrid(np.linspace(-1, 1, SIZE), np.linspace(-1, 1, SIZE), indexing="ij")
  slope = draw.uniform(-0.22, 0.22, 2)
  return (1 + slope[:, 0, None, None] * x + slope[:, 1, None, None] * y)[..., None].astype(np.float32)


def _blur(image: np.ndarray, draw: _Draw) -> np.ndarray:
  """Gaussian blur, its radius different for each image and direction."""
  n = len(image)
  sigma = 0.4 + 1.7 * draw.uniform(0, 1) ** 1.5
  stretch = np.exp(draw.uniform(-0.25, 0.25))
  offsets = np.arange(SIZE)[:, None] - np.arange(SIZE)[None, :]

  def kernel(radius: np.ndarray) -> np.ndarray:
    weights = np.exp(-0.5 * (offsets / radius[:, None, None]) ** 2)
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)

  image = np.matmul(kernel(sigma * stretch), image.reshape(n, SIZE, SIZE * 3)).reshape(n, SIZE, SIZE, 3)
  image = np.matmul(kernel(sigma / stretch), image.swapaxes(1, 2).reshape(n, SIZE, SIZE * 3))
  return image.reshape(n, SIZE, SIZE, 3).swapaxes(1, 2)
