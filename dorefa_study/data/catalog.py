"""The data sets that there are: for each, its sizes, and where its images come from. A new one is an entry here."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

from dorefa_study.data.dataset import Dataset
from dorefa_study.data.idx import has_idx, load_idx
from dorefa_study.data.street_digits import load_street_digits
from dorefa_study.data.svhn import has_svhn_mat, load_svhn_mat


@dataclasses.dataclass(frozen=True)
class Entry:
  """A data set.

  Attributes:
    train_sizes: number of training images, without and with extra ones: for plans, before anything is loaded.
    generate: makes `train_size` and `test_size` images, 0 for all; None where images are read from files.
    tfds_name: name of the prepared TFDS directory that may hold it.
    files: its own files, for messages; "" where only a prepared directory will do.
    has_files: whether a directory holds its own files.
    load_files: reads them, with SVHN's extra images or without.
  """

  train_sizes: tuple[int, int]
  generate: Callable[[int, int], Dataset] | None = None
  tfds_name: str = ""
  files: str = ""
  has_files: Callable[[pathlib.Path], bool] = lambda directory: False
  load_files: Callable[[pathlib.Path, bool], Dataset] | None = None


def _generate_street_digits(train_size: int, test_size: int) -> Dataset:
  return load_street_digits(train_size=train_size or 20_000, test_size=test_size or 4_000)


CATALOG: dict[str, Entry] = {
  "svhn": Entry(
    (73_257, 604_388),
    tfds_name="svhn_cropped",
    files="train_32x32.mat and test_32x32.mat",
    has_files=has_svhn_mat,
    load_files=lambda directory, extra: load_svhn_mat(directory, extra=extra),
  ),
  "street_digits": Entry((20_000, 20_000), generate=_generate_street_digits),
  "cifar10": Entry((50_000, 50_000), tfds_name="cifar10"),
  "fashion_mnist": Entry(
    (60_000, 60_000),
    tfds_name="fashion_mnist",
    files="its IDX files",
    has_files=has_idx,
    load_files=lambda directory, extra: load_idx("fashion_mnist", directory),
  ),
}
"""{value of config.data.name: data set}."""
