"""SVHN's own files: reading, checking and downloading the .mat files."""

from __future__ import annotations

import pathlib

import numpy as np

from dorefa_study.data.dataset import DataError, Dataset, Split, check_split, join
from dorefa_study.data.download import RemoteFile, download
from dorefa_study.data.mat import list_variables, load_variables

FILES = {split: f"{split}_32x32.mat" for split in ("train", "test", "extra")}


def has_svhn_mat(directory: pathlib.Path) -> bool:
  """Whether a directory holds one of SVHN's files at least.

  Example:
    >>> has_svhn_mat(pathlib.Path("/nowhere"))
    False
  """
  return any((directory / file).is_file() for file in FILES.values())


def load_svhn_mat(directory: pathlib.Path, *, extra: bool) -> Dataset:
  """Reads SVHN from a folder of .mat files.

  Args:
    directory: holds `train_32x32.mat`, `test_32x32.mat` and, if wanted, `extra_32x32.mat`.
    extra: append the extra images to the training images.

  Returns:
    The data set.

  Raises:
    DataError: a file is missing, damaged or of wrong shape.

  Example:
    >>> load_svhn_mat(pathlib.Path("/nowhere"), extra=False)
    Traceback (most recent call last):
      ...
    dorefa_study.errors.DataError: /nowhere: no train_32x32.mat, needed for SVHN's train split
  """
  wanted = ["train", "test", "extra"] if extra else ["train", "test"]
  for split in wanted:
    if not (directory / FILES[split]).is_file():
      hint = "; set config.data.extra=false to train without it" if split == "extra" else ""
      raise DataError(f"{directory}: no {FILES[split]}, needed for SVHN's {split} split{hint}")
  splits = {split: read_mat(directory / FILES[split]) for split in wanted}
  train = splits["train"]
  if extra:
    train = join(train, splits["extra"], str(directory / FILES["extra"]))
  return Dataset(
    name="svhn", source=f"{', '.join(FILES[s] for s in wanted)} in {directory}", train=train, test=splits["test"]
  )


def read_mat(path: pathlib.Path) -> Split:
  """Reads one of SVHN's cropped-digit files.

  Args:
    path: a MATLAB file with X [32, 32, 3, n] uint8 and y [n, 1], 10 for the digit 0.

  Returns:
    Images [n, 32, 32, 3] and labels 0 to 9.

  Raises:
    DataError: the file is damaged, or X and y are not as above.
  """
  variables = list_variables(path)
  for name in ("X", "y"):
    if name not in variables:
      raise DataError(f"{path}: no variable {name!r}; SVHN's cropped-digit files hold X and y")
  x, y = variables["X"], variables["y"]
  if len(x.shape) != 4 or x.shape[:3] != (32, 32, 3) or not x.is_numeric:
    raise DataError(f"{path}: X must be [32, 32, 3, n] uint8, found {x}")
  count = x.shape[-1]
  if y.shape not in ((count, 1), (1, count)) or not y.is_numeric:
    raise DataError(f"{path}: y must be [{count}, 1] real numbers to match X, found {y}")
  images, labels = load_variables(path, ("X", "y"))
  if images.dtype != np.uint8:  # MATLAB stores small whole numbers as bytes, whatever their class
    raise DataError(f"{path}: X must be [32, 32, 3, n] uint8, found {x}")
  labels = labels.reshape(-1)
  wrong = np.flatnonzero(~((labels >= 1) & (labels <= 10) & (labels == np.round(labels))))  # NaN is wrong, too
  if len(wrong):
    raise DataError(f"{path}: y must be 1 to 10 (10 is the digit 0), found {labels[wrong[0]]} at image {wrong[0]}")
  images = np.ascontiguousarray(images.transpose(3, 0, 1, 2))
  return check_split(images, labels.astype(np.int32) % 10, str(path))


def download_svhn(directory: pathlib.Path, *, extra: bool) -> None:
  """Downloads the .mat files that `directory` lacks, and checks those that it has.

  Args:
    directory: made where missing. A file appears in it only when it is complete.
    extra: download `extra_32x32.mat` (1.3 GB) too.

  Raises:
    DataError: a download failed, or a file is not SVHN's.
  """
  wanted = [FILES[split] for split in ("train", "test", *(["extra"] if extra else []))]
  known = remote_files()
  for name in wanted:
    try:
      download(known[name], directory / name)
    except DataError as error:
      raise DataError(
        f"config.data: {error}; to use files of your own, put {', '.join(wanted)} into a folder, name it in "
        f"config.data.dir and set config.data.download=false"
      ) from error


def remote_files() -> dict[str, RemoteFile]:
  """SVHN's files by name, with the sizes and checksums that TFDS knows."""
  import tensorflow_datasets as tfds

  infos = tfds.builder_cls("svhn_cropped").url_infos
  return {url.rpartition("/")[2]: RemoteFile(url, int(info.size), info.checksum) for url, info in infos.items()}
