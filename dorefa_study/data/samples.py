"""A sheet of sample images, a column a class."""

from __future__ import annotations

import pathlib

import numpy as np
from PIL import Image

from dorefa_study.data.dataset import Dataset

ROWS, MOST_CLASSES, SIDE, GAP = 3, 20, 48, 2


def write_samples(dataset: Dataset, path: pathlib.Path) -> None:
  """Writes a picture of the first training images of each class, of which up to 20 are shown.

  Args:
    dataset: images and labels.
    path: the PNG file.

  Raises:
    OSError: it cannot be written.
  """
  sample_sheet(dataset).save(path)


def sample_sheet(dataset: Dataset) -> Image.Image:
  """The picture.

  Args:
    dataset: images and labels.
  """
  labels = np.asarray(dataset.train.labels)
  classes = range(min(dataset.num_classes, MOST_CLASSES))
  sheet = Image.new("RGB", (len(classes) * (SIDE + GAP) - GAP, ROWS * (SIDE + GAP) - GAP), (127, 127, 127))
  for column, label in enumerate(classes):
    for row, index in enumerate(np.flatnonzero(labels == label)[:ROWS]):
      pixels = np.asarray(dataset.train.images[index])
      pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, -1)
      picture = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
      sheet.paste(picture, (column * (SIDE + GAP), row * (SIDE + GAP)))
  return sheet
