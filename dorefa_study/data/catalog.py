"""The data sets that there are: for each, its sizes, and where its images come from. A new one is an entry here."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

from dorefa_study.data.dataset import Dataset
from dorefa_study.data.idx import has_idx, load_idx
from dorefa_study.data.street_digits import load_street_digits
from dorefa_study.data.svhn import has_svhn_mat, load_svhn_mat
from dorefa_study.errors import UsageError, did_you_mean
from dorefa_study.objects import is_path, parse_call

OWN = ("folder", "npz")
"""Kinds of data that are no data set of the catalog, in a place that config.data.dir names."""
TFDS = "tfds:"


@dataclasses.dataclass(frozen=True)
class Entry:
  """A data set.

  Attributes:
    train_sizes: number of training images, without and with extra ones: for plans, before anything is loaded.
    num_classes: number of classes.
    generate: makes `train_size` and `test_size` images, 0 for all; None where images are read from files.
    tfds_name: name of the prepared TFDS directory that may hold it.
    files: its own files, for messages; "" where only a prepared directory will do.
    has_files: whether a directory holds its own files.
    load_files: reads them, with SVHN's extra images or without.
    places: where a system keeps its files.
  """

  train_sizes: tuple[int, int]
  num_classes: int = 10
  generate: Callable[[int, int], Dataset] | None = None
  tfds_name: str = ""
  files: str = ""
  has_files: Callable[[pathlib.Path], bool] = lambda directory: False
  load_files: Callable[[pathlib.Path, bool], Dataset] | None = None
  places: tuple[str, ...] = ()


def _generate_street_digits(train_size: int, test_size: int) -> Dataset:
  return load_street_digits(train_size=train_size or 20_000, test_size=test_size or 4_000)


def _mnist_like(name: str, places: tuple[str, ...] = ()) -> Entry:
  return Entry(
    (60_000, 60_000),
    tfds_name=name,
    files="its IDX files",
    has_files=has_idx,
    load_files=lambda directory, extra: load_idx(name, directory),
    places=places,
  )


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
  "cifar100": Entry((50_000, 50_000), num_classes=100, tfds_name="cifar100"),
  # Debian's package dataset-fashion-mnist puts its files there.
  "fashion_mnist": _mnist_like("fashion_mnist", ("/usr/share/datasets/fashion-mnist",)),
  "mnist": _mnist_like("mnist"),
  "imagenet2012": Entry((1_281_167, 1_281_167), num_classes=1000, tfds_name="imagenet2012"),
}
"""{value of config.data.name: data set}."""


def entry_of(name: str) -> Entry | None:
  """The entry of a data set of the catalog, or of a TFDS name; None of other kinds of data.

  Example:
    >>> entry_of("tfds:emnist/letters").tfds_name
    'emnist/letters'
  """
  if name.startswith(TFDS):
    return Entry((0, 0), num_classes=0, tfds_name=name.removeprefix(TFDS))
  return CATALOG.get(name)


def check_name(name: str, where: str) -> None:
  """Raises UsageError for a name that is no kind of data.

  Args:
    name: value of config.data.name.
    where: name of the field, for messages.

  Example:
    >>> check_name("cifar10", "config.data.name")
  """
  if name in CATALOG or name in OWN or (name.startswith(TFDS) and len(name) > len(TFDS)):
    return
  if is_path(name):
    parse_call(name, where)
    return
  kinds = f"one of {', '.join(CATALOG)}, folder, npz, tfds:NAME or package.module:function"
  raise UsageError(
    f"{where} must be {kinds}, got {name!r}" + did_you_mean(name, (*CATALOG, *OWN)).partition(" known")[0]
  )
