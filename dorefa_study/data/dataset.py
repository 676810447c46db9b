"""What every source of data gives: checked uint8 images with labels."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from dorefa_study.errors import DataError


@dataclasses.dataclass(frozen=True)
class Split:
  """Images with their labels.

  Attributes:
    images: [n, height, width, channels] uint8.
    labels: [n] int32, 0 to the number of classes less one.
  """

  images: np.ndarray
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.labels)


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A data set in memory.

  Attributes:
    name: name of the data that these are, which may stand in for others.
    source: where they came from.
    train: training split.
    test: test split.
    num_classes: number of classes.
    class_names: what they are called, in order; () where nobody knows.
    validation: images held out of the training split; None where there are none.
  """

  name: str
  source: str
  train: Split
  test: Split
  num_classes: int = 10
  class_names: tuple[str, ...] = ()
  validation: Split | None = None

  @property
  def shape(self) -> tuple[int, int, int]:
    """[height, width, channels] of an image."""
    _, height, width, channels = self.train.images.shape
    return height, width, channels

  def digest(self) -> str:
    """A hash of all images and labels, for the records of a run.

    Example:
      >>> split = Split(np.zeros((1, 2, 2, 1), np.uint8), np.zeros(1, np.int32))
      >>> Dataset("x", "x", split, split).digest()[:6]
      '098059'
    """
    sha = hashlib.sha256()
    for split in (self.train, self.test, *([] if self.validation is None else [self.validation])):
      for array in (split.images, split.labels):
        sha.update(repr((array.shape, str(array.dtype))).encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()[:16]


def check_split(images: np.ndarray, labels: np.ndarray, where: str, num_classes: int = 10) -> Split:
  """A split, or a DataError that says what is wrong with it and where.

  Args:
    images: should be [n, height, width, channels] uint8.
    labels: should be [n] integers from 0.
    where: file or directory, for the message.
    num_classes: number of classes.

  Returns:
    The split, with labels as int32.

  Raises:
    DataError: wrong shape, dtype or label; or no image at all.

  Example:
    >>> check_split(np.zeros((1, 2, 2, 3), np.uint8), np.array([12]), "a.mat")
    Traceback (most recent call last):
      ...
    dorefa_study.errors.DataError: a.mat: labels must be 0 to 9, found 12 at image 0
  """
  if images.ndim != 4 or images.dtype != np.uint8:
    hint = "; scale them to 0..255 and round" if np.issubdtype(images.dtype, np.floating) else ""
    found = f"found {list(images.shape)} {images.dtype}{hint}"
    raise DataError(f"{where}: images must be [n, height, width, channels] uint8, {found}")
  if 0 not in images.shape and images.shape[1] <= 4 < images.shape[3]:
    raise DataError(f"{where}: images must have their channels last, found {list(images.shape)}; transpose them")
  if len(images) == 0:
    raise DataError(f"{where}: no images")
  if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
    raise DataError(
      f"{where}: {len(images)} images need as many integer labels, found {list(labels.shape)} {labels.dtype}"
    )
  wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
  if len(wrong):
    raise DataError(f"{where}: labels must be 0 to {num_classes - 1}, found {labels[wrong[0]]} at image {wrong[0]}")
  return Split(images, labels.astype(np.int32))


def join(first: Split, second: Split, where: str) -> Split:
  """The images of two splits, one after the other.

  Args:
    first: a split.
    second: another, of images of the same size.
    where: file or directory of the second, for the message.

  Returns:
    The split of both.

  Raises:
    DataError: the images differ in size.

  Example:
    >>> split = Split(np.zeros((1, 2, 2, 1), np.uint8), np.zeros(1, np.int32))
    >>> join(split, split, "a.mat").images.shape
    (2, 2, 2, 1)
  """
  if first.images.shape[1:] != second.images.shape[1:]:
    shapes = [list(split.images.shape[1:]) for split in (second, first)]
    raise DataError(f"{where}: images are {shapes[0]} and would join others of {shapes[1]}")
  return Split(*(np.concatenate(parts) for parts in zip((first.images, first.labels), (second.images, second.labels))))
