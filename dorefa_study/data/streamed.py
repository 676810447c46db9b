"""Data sets that are read as they are needed: random access to images on disk, batches through Grain."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from dorefa_study.data.dataset import Split
from dorefa_study.data.folder import Pictures, find_pictures
from dorefa_study.data.pictures import picture_kind, read_picture
from dorefa_study.errors import DataError, UsageError

PREFETCHED_BATCHES = 4


class Source(Protocol):
  """Images with labels, by number: a pure function of it."""

  def __len__(self) -> int:
    """Number of images."""
    ...

  def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
    """An image, [height, width, channels] uint8, and its label."""
    ...


@dataclasses.dataclass(frozen=True)
class Streamed:
  """A data set on disk.

  Attributes:
    name, source, num_classes, class_names: as of a `Dataset`.
    train, test: images for training and for testing.
    shape: [height, width, channels] that all images are read as.
    identity: what tells these images from others: names and sizes of files, or a description of the set.
    validation: images held out of those for training; None where there are none.
  """

  name: str
  source: str
  train: Source
  test: Source
  shape: tuple[int, int, int]
  num_classes: int
  class_names: tuple[str, ...]
  identity: str
  validation: Source | None = None

  def digest(self) -> str:
    """A hash of what identifies the images, for the records of a run."""
    parts = [self.identity, *(str(len(part)) for part in (self.train, self.test, self.validation) if part is not None)]
    return hashlib.sha256(repr((self.shape, parts)).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Chosen:
  """Some images of a source.

  Attributes:
    source: all images.
    indices: which of them.
  """

  source: Source
  indices: np.ndarray

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
    return self.source[int(self.indices[index])]


@dataclasses.dataclass(frozen=True)
class Files:
  """Pictures in files.

  Attributes:
    pictures: paths and labels.
    shape: [height, width, channels] that they are read as.
  """

  pictures: Pictures
  shape: tuple[int, int, int]

  def __len__(self) -> int:
    return len(self.pictures.files)

  def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
    try:
      picture = read_picture(self.pictures.files[index], self.shape[2], self.shape[:2])
    except UsageError as error:
      raise DataError(str(error)) from error
    return picture, int(self.pictures.labels[index])


class Prepared:
  """A split that TFDS has prepared as array_record.

  Args:
    tfds_name: name of the data set in TFDS.
    directory: the TFDS data directory.
    split: name of the split.
    shape: [height, width, channels] that its images are read as.
  """

  def __init__(self, tfds_name: str, directory: pathlib.Path, split: str, shape: tuple[int, int, int]):
    import tensorflow_datasets as tfds

    try:
      self._records = tfds.data_source(tfds_name, data_dir=str(directory), split=split, download=False)
    except Exception as error:  # TFDS raises many types for missing and damaged files
      where = f"{directory / tfds_name}, split {split!r}"
      raise DataError(f"{where}: cannot be read ({type(error).__name__}: {error})") from error
    self._shape = shape

  def own_shape(self) -> tuple[int, int, int]:
    """[height, width, channels] of the first image."""
    height, width, channels = np.asarray(self._records[0]["image"]).shape
    return height, width, channels

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
    record: Any = self._records[index]
    return fit(np.asarray(record["image"]), self._shape), int(record["label"])


def fit(image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
  """An image of a size: resized so that it covers it, and cut about its center.

  Args:
    image: [height, width, channels] uint8.
    shape: of the result; 3 channels of a grey image are equal.

  Example:
    >>> fit(np.zeros((30, 60, 1), np.uint8), (16, 16, 3)).shape
    (16, 16, 3)
  """
  height, width, channels = shape
  if image.shape[2] != channels:
    image = np.repeat(image[..., :1], channels, 2) if channels > image.shape[2] else image[..., :channels]
  if image.shape[:2] == (height, width):
    return image
  scale = max(height / image.shape[0], width / image.shape[1])
  size = max(width, round(image.shape[1] * scale)), max(height, round(image.shape[0] * scale))
  picture = Image.fromarray(image[..., 0] if channels == 1 else image).resize(size, Image.Resampling.BILINEAR)
  top, left = (size[1] - height) // 2, (size[0] - width) // 2
  return np.asarray(picture).reshape(size[1], size[0], channels)[top : top + height, left : left + width]


def stream_folder(directory: pathlib.Path, *, size: int, test_share: float, seed: int) -> Streamed:
  """A folder of pictures, of which none is read yet.

  Args:
    directory, size, test_share, seed: as in `load_folder`.

  Raises:
    DataError: as there; pictures in grey and in colour are told by the first of them alone.
  """
  names, train, test = find_pictures(directory)
  try:
    height, width, channels = picture_kind(train.files[0])
  except UsageError as error:
    raise DataError(str(error)) from error
  shape = (size or height, size or width, channels)
  sizes = [str(path.stat().st_size) for path in train.files]
  identity = hashlib.sha256("\n".join([*map(str, train.files), *sizes]).encode()).hexdigest()
  whole: Source = Files(train, shape)
  held_out: Source
  if test is not None:
    held_out = Files(test, shape)
  else:
    whole, held_out = split_source(whole, round(test_share * len(whole)), seed, str(directory))
  return Streamed(directory.name, f"pictures in {directory}", whole, held_out, shape, len(names), names, identity)


def split_source(source: Source, count: int, seed: int, where: str) -> tuple[Source, Source]:
  """Two parts of a source, chosen at random, the second of `count` images.

  Raises:
    DataError: nothing would be left of one of them.
  """
  total = len(source)
  if not 0 < count < total:
    raise DataError(f"{where}: {total} images cannot be split into {total - count} and {count}")
  order = np.random.default_rng(seed).permutation(total)
  return Chosen(source, np.sort(order[count:])), Chosen(source, np.sort(order[:count]))


def read_batches(source: Source, order: np.ndarray, *, threads: int | None = None) -> Iterator[Split]:
  """Batches of a source, in an order: Grain reads ahead with threads.

  The order is a function of (seed, epoch), so that a training goes on at any batch by giving the rest of it.

  Args:
    source: images and labels.
    order: [batches, images of a batch] indices.
    threads: that read; None for one for each core.

  Yields:
    Images, [images of a batch, height, width, channels] uint8, and labels.

  Raises:
    DataError: an image cannot be read.
  """
  import grain

  if not len(order):
    return
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
  flat = Chosen(source, order.reshape(-1))
  batch = order.shape[1]
  options = grain.ReadOptions(num_threads=threads or cores, prefetch_buffer_size=PREFETCHED_BATCHES * batch)
  dataset = grain.MapDataset.source(flat).to_iter_dataset(options).batch(batch, batch_fn=_stack)
  yield from dataset


def read_all(source: Source, most: int = 5000) -> Split:
  """The first images of a source, in memory.

  Args:
    source: images and labels.
    most: how many at most.
  """
  return next(iter(read_batches(source, np.arange(min(len(source), most))[None])))


def _stack(records: Sequence[tuple[np.ndarray, int]]) -> Split:
  return Split(np.stack([image for image, _ in records]), np.asarray([label for _, label in records], np.int32))


def fits_in_memory(images: int, shape: tuple[int, int, int]) -> bool:
  """Whether that many images fit into a third of the memory that is free now.

  Example:
    >>> fits_in_memory(1, (8, 8, 3))
    True
  """
  try:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  except (ValueError, OSError, AttributeError):
    return True
  return images * int(np.prod(shape)) < free / 3
