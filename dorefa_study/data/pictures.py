"""Pictures as Pillow reads them: files of known formats, as 8-bit pixels."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from dorefa_study.errors import UsageError

MAX_PIXELS = 16_000_000
"""Pixels of the largest picture: reading and resizing it took up to 22 bytes for each, which is 350 MB."""
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What pictures come in. Pillow reads many others, some of which (EPS) by running another program."""
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""How the names of such files end."""


def read_picture(path: pathlib.Path, channels: int, size: tuple[int, int] | None = None) -> np.ndarray:
  """A picture's pixels.

  Args:
    path: the file.
    channels: 1 for grey, 3 for colour.
    size: height and width that it is resized to; None for its own.

  Returns:
    [height, width, channels] uint8.

  Raises:
    UsageError: no such file, no picture in one of `FORMATS`, a damaged one, or one of more than `MAX_PIXELS` pixels.
  """
  with _opened(path) as image:
    picture = _eight_bits(image).convert("L" if channels == 1 else "RGB")
    if size is not None and picture.size != size[::-1]:
      picture = picture.resize(size[::-1], Image.Resampling.BILINEAR)
    pixels = np.asarray(picture)
  return pixels.reshape(*pixels.shape[:2], channels)


def picture_kind(path: pathlib.Path) -> tuple[int, int, int]:
  """Height, width and channels (1 or 3) of a picture, of which no more than the header is read.

  Args:
    path: the file.

  Raises:
    UsageError: as `read_picture`.
  """
  with _opened(path) as image:
    is_grey = image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16")
    return image.height, image.width, 1 if is_grey else 3


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Image.Image]:
  """A picture's file; what goes wrong with it is one line that names it."""
  try:
    if not path.is_file():
      raise UsageError(f"no file {str(path)!r}")
    with Image.open(path, formats=FORMATS) as image:
      if image.width * image.height > MAX_PIXELS:
        raise UsageError(
          f"{path}: {image.width}x{image.height} pixels are too many, at most {MAX_PIXELS:,} are read; make it smaller"
        )
      yield image
  except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    reason = f"it is none of {', '.join(FORMATS)}" if isinstance(error, UnidentifiedImageError) else str(error)
    raise UsageError(f"{str(path)!r} cannot be read as a picture: {reason}") from error


def _eight_bits(image: Image.Image) -> Image.Image:
  """The picture with 8 bits a channel, on white where it is transparent."""
  if image.mode.startswith("I;16"):
    return Image.fromarray((np.asarray(image, np.uint16) >> 8).astype(np.uint8))
  if image.mode in ("I", "F"):
    raise ValueError(f"its pixels have no known range (Pillow's mode {image.mode!r}); save it with 8 or 16 bits")
  if image.has_transparency_data:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
  return image
