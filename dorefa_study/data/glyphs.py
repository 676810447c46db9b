"""Digit shapes as signed distance fields: drawn from strokes, and from Pillow's own font."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

CELL = 48
"""Pixels of a side of a glyph's cell."""

BODY = (0.15, 0.85)
"""Where the digit's box lies in its cell, as fractions of the side; around it is distance."""

Stroke = list[tuple[float, float]]


@functools.cache
def glyph_atlas() -> np.ndarray:
  """Signed distances of all glyphs.

  Returns:
    [styles, 10, CELL, CELL] float32: distance to the digit's edge (an outline font) or to
    its strokes' centre line less a nominal half thickness, negative inside, in heights of
    the digit. A digit's box is stretched to `BODY` in both directions.

  Example:
    >>> glyph_atlas().shape[1:]
    (10, 48, 48)
  """
  rows = []
  for shapes in _stroke_styles():
    for vertical_weight in (1.0, 1.7):
      rows.append([_stroke_distance(strokes, vertical_weight) for strokes in shapes])
  rows.append([_font_distance(str(digit)) for digit in range(10)])
  return np.asarray(rows, np.float32)


def _arc(cx: float, cy: float, rx: float, ry: float, start: float, stop: float, power: float = 1.0) -> Stroke:
  """Points of an ellipse's arc, degrees clockwise from the right; power < 1 squares it."""
  angles = np.radians(np.linspace(start, stop, max(4, int(abs(stop - start) / 15))))
  x, y = np.cos(angles), np.sin(angles)
  x, y = np.sign(x) * np.abs(x) ** power, np.sign(y) * np.abs(y) ** power
  return list(zip((cx + rx * x).tolist(), (cy + ry * y).tolist()))


def _turned(strokes: list[Stroke]) -> list[Stroke]:
  return [[(1 - x, 1 - y) for x, y in stroke] for stroke in strokes]


def _stroke_styles() -> list[list[list[Stroke]]]:
  """Ways to write the ten digits in the unit square, y downwards."""
  zero = [[_arc(0.5, 0.5, 0.5, 0.5, 0, 360, p)] for p in (1.0, 0.7, 1.0, 0.85)]
  one = [
    [[(0.25, 0.2), (0.6, 0.0), (0.6, 1.0)]],
    [[(0.5, 0.0), (0.5, 1.0)]],
    [[(0.2, 0.18), (0.5, 0.0), (0.5, 1.0)], [(0.15, 1.0), (0.85, 1.0)]],
    [[(0.05, 0.3), (0.6, 0.0), (0.6, 1.0)]],
  ]
  two = [
    [[*_arc(0.5, 0.28, 0.46, 0.28, 190, 390), (0.02, 1.0), (1.0, 1.0)]],
    [[*_arc(0.48, 0.3, 0.48, 0.3, 180, 365), (0.8, 0.55), (0.3, 0.8), (0.0, 1.0), (1.0, 1.0)]],
    [[*_arc(0.5, 0.25, 0.46, 0.25, 160, 400), (0.0, 0.95), (0.3, 0.92), (0.7, 1.0), (1.0, 0.92)]],
    [[*_arc(0.5, 0.25, 0.5, 0.25, 200, 360, 0.8), (0.95, 0.45), (0.0, 0.85), (0.0, 1.0), (1.0, 1.0)]],
  ]
  three = [
    [_arc(0.47, 0.25, 0.42, 0.25, 200, 450), _arc(0.45, 0.74, 0.52, 0.26, 270, 520)],
    [[(0.05, 0.0), (0.95, 0.0), (0.4, 0.42)], _arc(0.43, 0.71, 0.53, 0.29, 265, 510)],
    [_arc(0.45, 0.24, 0.48, 0.24, 190, 440), _arc(0.42, 0.73, 0.55, 0.27, 275, 530)],
    [_arc(0.5, 0.26, 0.46, 0.26, 210, 450, 0.75), _arc(0.5, 0.74, 0.5, 0.26, 270, 510, 0.75)],
  ]
  four = [
    [[(0.75, 1.0), (0.75, 0.0), (0.0, 0.7), (1.0, 0.7)]],
    [[(0.1, 0.0), (0.05, 0.55), (1.0, 0.55)], [(0.72, 0.1), (0.72, 1.0)]],
    [[(0.68, 1.0), (0.68, 0.0), (0.62, 0.0), (0.0, 0.75), (1.0, 0.75)], [(0.45, 1.0), (0.9, 1.0)]],
    [[(0.55, 0.0), (0.0, 0.65), (1.0, 0.65)], [(0.78, 0.35), (0.78, 1.0)]],
  ]
  five = [
    [[(0.92, 0.0), (0.15, 0.0), (0.08, 0.47), *_arc(0.45, 0.67, 0.53, 0.33, 225, 505)]],
    [[(0.9, 0.0), (0.18, 0.0), (0.1, 0.42), *_arc(0.4, 0.69, 0.57, 0.31, 250, 510)]],
    [[(1.0, 0.02), (0.2, 0.02), (0.2, 0.42), *_arc(0.43, 0.7, 0.55, 0.3, 235, 530)]],
    [[(0.95, 0.0), (0.05, 0.0), (0.05, 0.45), *_arc(0.5, 0.72, 0.5, 0.28, 240, 500, 0.75)]],
  ]
  six = [
    [_arc(0.5, 0.68, 0.48, 0.32, 0, 360), [(0.02, 0.68), *_arc(0.55, 0.5, 0.53, 0.5, 180, 310)]],
    [_arc(0.5, 0.68, 0.5, 0.32, 0, 360), [(0.02, 0.62), (0.25, 0.3), (0.65, 0.0)]],
    [_arc(0.5, 0.66, 0.47, 0.34, 0, 360), [(0.03, 0.66), (0.08, 0.35), (0.35, 0.1), (0.85, 0.0)]],
    [_arc(0.5, 0.7, 0.5, 0.3, 0, 360, 0.75), [(0.0, 0.7), *_arc(0.5, 0.4, 0.5, 0.4, 180, 320, 0.75)]],
  ]
  seven = [
    [[(0.0, 0.0), (1.0, 0.0), (0.35, 1.0)]],
    [[(0.0, 0.12), (0.0, 0.0), (1.0, 0.0), (0.6, 0.45), (0.42, 1.0)]],
    [[(0.0, 0.1), (0.05, 0.0), (1.0, 0.0), (0.5, 0.6), (0.42, 1.0)]],
    [[(0.0, 0.0), (1.0, 0.0), (0.3, 1.0)], [(0.3, 0.5), (0.88, 0.5)]],
  ]
  eight = [
    [_arc(0.5, 0.24, 0.42, 0.24, 0, 360), _arc(0.5, 0.73, 0.5, 0.27, 0, 360)],
    [_arc(0.5, 0.25, 0.38, 0.25, 0, 360), _arc(0.5, 0.75, 0.48, 0.25, 0, 360)],
    [_arc(0.5, 0.22, 0.4, 0.22, 0, 360), _arc(0.5, 0.72, 0.5, 0.28, 0, 360)],
    [_arc(0.5, 0.25, 0.45, 0.25, 0, 360, 0.75), _arc(0.5, 0.75, 0.5, 0.25, 0, 360, 0.75)],
  ]
  nine = [_turned(strokes) for strokes in six]
  by_digit = (zero, one, two, three, four, five, six, seven, eight, nine)
  return [[digit[style] for digit in by_digit] for style in range(4)]


def _cell_coordinates() -> tuple[np.ndarray, np.ndarray]:
  """Coordinates of a cell's pixels, in which the digit's box is the unit square."""
  centres = ((np.arange(CELL) + 0.5) / CELL - BODY[0]) / (BODY[1] - BODY[0])
  y, x = np.meshgrid(centres, centres, indexing="ij")
  return x, y


def _stroke_distance(strokes: list[Stroke], vertical_weight: float) -> np.ndarray:
  """Distance to the strokes, vertical ones `vertical_weight` times as thick."""
  half_thickness, typical_width = 0.07, 0.6
  x, y = _cell_coordinates()
  # The box holds the strokes with their thickness.
  inset = half_thickness
  points = [inset + (1 - 2 * inset) * np.asarray(stroke) for stroke in strokes]
  starts = np.concatenate([p[:-1] for p in points])
  ends = np.concatenate([p[1:] for p in points])
  scale = np.array([typical_width / vertical_weight, 1.0])
  pixels = np.stack([x, y], -1)[:, :, None] * scale
  a, b = starts * scale, ends * scale
  along = ((pixels - a) * (b - a)).sum(-1) / np.maximum(((b - a) ** 2).sum(-1), 1e-9)
  nearest = a + np.clip(along, 0, 1)[..., None] * (b - a)
  return np.sqrt(((pixels - nearest) ** 2).sum(-1)).min(-1) - half_thickness


def _font_distance(text: str) -> np.ndarray:
  """Distance to the edge of a character of the font that Pillow ships."""
  font = ImageFont.load_default(256)
  left, top, right, bottom = font.getbbox(text)
  image = Image.new("L", (int(right - left), int(bottom - top)))
  ImageDraw.Draw(image).text((-left, -top), text, fill=255, font=font)
  image = image.crop(image.getbbox())
  # A narrow "1" keeps its stem's thickness; its box is as wide as the other digits'.
  width = max(image.width, int(0.55 * image.height))
  side = round(image.height / (BODY[1] - BODY[0]))
  canvas = Image.new("L", (round(width / (BODY[1] - BODY[0])), side))
  canvas.paste(image, ((canvas.width - image.width) // 2, (side - image.height) // 2))
  inside = np.asarray(canvas) > 127
  distance = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
  resized = Image.fromarray((distance / image.height).astype(np.float32)).resize(
    (CELL, CELL), Image.Resampling.BILINEAR
  )
  return np.asarray(resized)
