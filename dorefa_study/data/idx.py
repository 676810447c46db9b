"""The IDX files that MNIST and Fashion-MNIST come in."""

from __future__ import annotations

import gzip
import math
import pathlib
import zlib
from typing import BinaryIO

import numpy as np

from dorefa_study.data.dataset import DataError, Dataset, check_split
from dorefa_study.data.inflate import most_inflated

FILES = {
  "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
  "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def has_idx(directory: pathlib.Path) -> bool:
  """Whether a folder holds the training images, packed by gzip or not.

  Example:
    >>> has_idx(pathlib.Path("/nowhere"))
    False
  """
  return any((directory / f"{FILES['train'][0]}{suffix}").is_file() for suffix in ("", ".gz"))


def load_idx(name: str, directory: pathlib.Path) -> Dataset:
  """Reads a data set from a folder of IDX files.

  Args:
    name: name of the data set.
    directory: holds images and labels of train and t10k, packed by gzip or not.

  Returns:
    The data set, with one channel.

  Raises:
    DataError: a file is missing or damaged, or images and labels do not match.
  """
  splits = {}
  for split, (images_name, labels_name) in FILES.items():
    images = read_idx(_find(directory, images_name), 3)
    splits[split] = check_split(images[..., None], read_idx(_find(directory, labels_name), 1), f"{directory}: {split}")
  return Dataset(name, f"IDX files in {directory}", train=splits["train"], test=splits["test"])


def read_idx(path: pathlib.Path, ndim: int) -> np.ndarray:
  """Reads one IDX file of bytes.

  Args:
    path: the file; unpacked where its name ends in .gz.
    ndim: number of axes it must have.

  Returns:
    The array, uint8.

  Raises:
    DataError: the file is damaged, or has another type, number of axes or size than its header says.
  """
  try:
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
      return _read(file, path, ndim)
  except (OSError, EOFError, zlib.error) as error:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    raise DataError(f"{path}: cannot be read ({reason})") from error


def _read(file: BinaryIO | gzip.GzipFile, path: pathlib.Path, ndim: int) -> np.ndarray:
  """The array of an open file, of which no more is read than its header announces."""
  header = file.read(4 + 4 * ndim)
  if len(header) < 4 + 4 * ndim or header[:4] != bytes([0, 0, 8, ndim]):
    raise DataError(f"{path}: not an IDX file of bytes with {ndim} axes")
  shape = tuple(int.from_bytes(header[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(ndim))
  size, stored = math.prod(shape), path.stat().st_size
  if not size:
    raise DataError(f"{path}: its header announces the shape {list(shape)}, which holds nothing")
  if size > most_inflated(stored):
    raise DataError(f"{path}: its header announces {size} bytes, which a file of {stored} cannot hold; damaged?")
  data = file.read(size + 1)  # one more, which must not be there; at the end gzip compares its checksum
  if len(data) != size:
    found = "more" if len(data) > size else len(data)
    raise DataError(f"{path}: {found} bytes of data instead of the {size} that its header announces; truncated?")
  return np.frombuffer(data, np.uint8).reshape(shape)


def _find(directory: pathlib.Path, name: str) -> pathlib.Path:
  for suffix in ("", ".gz"):
    if (directory / f"{name}{suffix}").is_file():
      return directory / f"{name}{suffix}"
  raise DataError(f"{directory}: no {name} or {name}.gz")
