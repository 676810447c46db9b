"""Images and labels in NumPy's files, or as a function of somebody's returns them."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from dorefa_study.data.dataset import Dataset, Split, check_split
from dorefa_study.errors import DataError

NAMES = {
  "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("images", "labels"), ("x", "y")),
  "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}
"""Names that images and labels go by, the first that is there."""
WANTED = "x_train, y_train and x_test, y_test (or images and labels alone, of which a part is for testing)"


def load_arrays(directory: pathlib.Path, *, test_share: float, seed: int) -> Dataset:
  """Reads an .npz file, or a folder that holds one, or .npy files.

  Args:
    directory: the file or the folder.
    test_share: share of the images that are for testing, where there is no test split.
    seed: seed of that split.

  Returns:
    The data set.

  Raises:
    DataError: the file cannot be read, or lacks images or labels.
  """
  files = [directory] if directory.is_file() else sorted(directory.glob("*.npz")) or sorted(directory.glob("*.npy"))
  if not files:
    raise DataError(f"config.data.dir: {directory} holds no .npz or .npy file; wanted are {WANTED}")
  if files[0].suffix == ".npz" and len(files) > 1:
    raise DataError(f"config.data.dir: {directory} holds several .npz files; name one of them")
  arrays: dict[str, np.ndarray] = {}
  for file in files:
    try:
      loaded = np.load(file, mmap_mode="r" if file.suffix == ".npy" else None, allow_pickle=False)
      arrays |= {file.stem: loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except Exception as error:  # readers of damaged files raise many types
      raise DataError(f"{file}: cannot be read ({type(error).__name__}: {error})") from error
  return from_arrays(directory.stem, str(directory), arrays, test_share=test_share, seed=seed)


def from_arrays(name: str, source: str, arrays: Any, *, test_share: float, seed: int) -> Dataset:
  """A data set of what somebody's function returns.

  Args:
    name: name of the data.
    source: where they come from, for records and messages.
    arrays: a `Dataset`; a mapping of arrays; (x_train, y_train, x_test, y_test) or (images, labels), or pairs of pairs.
    test_share: share of the images that are for testing, where there is no test split.
    seed: seed of that split.

  Returns:
    The data set.

  Raises:
    DataError: it is something else, or its arrays are not what they should be.

  Example:
    >>> x, y = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1])
    >>> data = from_arrays("mine", "memory", (x, y, x, y), test_share=0.2, seed=0)
    >>> data.train.images.shape, data.num_classes
    ((4, 8, 8, 1), 2)
  """
  if isinstance(arrays, Dataset):
    return arrays
  found = _by_name(arrays, source)
  train = _pair(found, "train")
  if train is None:
    raise DataError(f"{source}: needs {WANTED}, found {', '.join(sorted(found)) or 'nothing'}")
  test = _pair(found, "test")
  labels = np.concatenate([train[1].ravel(), *([] if test is None else [test[1].ravel()])])
  if not np.issubdtype(labels.dtype, np.integer) or labels.size == 0:
    raise DataError(f"{source}: labels must be integers, found {labels.dtype} of shape {list(labels.shape)}")
  classes = max(int(labels.max()) + 1, 2)
  if len(np.unique(labels)) < 2:
    raise DataError(f"{source}: all images are of one class, {labels[0]}; two or more are needed")
  whole = _split(*train, f"{source}, train", classes)
  if test is not None:
    tested = _split(*test, f"{source}, test", classes)
    if tested.images.shape[1:] != whole.images.shape[1:]:
      shapes = f"{list(tested.images.shape[1:])}, those for training {list(whole.images.shape[1:])}"
      raise DataError(f"{source}: images for testing are {shapes}")
    return Dataset(name, source, whole, tested, classes)
  kept, held_out = split_off(whole, test_share, seed, source)
  return Dataset(name, source, kept, held_out, classes)


def split_off(split: Split, share: float | int, seed: int, where: str) -> tuple[Split, Split]:
  """Two parts of a split, chosen at random.

  Args:
    split: images and labels.
    share: of the second part: a share, or a number of images.
    seed: seed of the choice.
    where: where the images come from, for the message.

  Returns:
    The first part, and the second, each in the order of `split`.

  Raises:
    DataError: nothing would be left of one of them.

  Example:
    >>> split = Split(np.zeros((10, 2, 2, 1), np.uint8), np.zeros(10, np.int32))
    >>> [len(part.labels) for part in split_off(split, 0.2, 0, "memory")]
    [8, 2]
  """
  total = len(split.labels)
  count = share if isinstance(share, int) else round(share * total)
  if not 0 < count < total:
    raise DataError(f"{where}: {total} images cannot be split into {total - count} and {count}")
  order = np.random.default_rng(seed).permutation(total)
  parts = np.sort(order[count:]), np.sort(order[:count])
  first, second = (Split(np.asarray(split.images[part]), np.asarray(split.labels[part])) for part in parts)
  return first, second


def _by_name(arrays: Any, source: str) -> dict[str, np.ndarray]:
  if isinstance(arrays, Mapping):
    return {str(name): np.asarray(value) for name, value in arrays.items()}
  if isinstance(arrays, (tuple, list)) and len(arrays) in (2, 4):
    flat = list(arrays)
    if len(flat) == 2 and all(isinstance(part, (tuple, list)) and len(part) == 2 for part in flat):
      flat = [*flat[0], *flat[1]]
    names = ("x_train", "y_train", "x_test", "y_test") if len(flat) == 4 else ("images", "labels")
    return {name: np.asarray(value) for name, value in zip(names, flat)}
  raise DataError(f"{source}: must give {WANTED}, as a mapping or a tuple, got {type(arrays).__name__}")


def _pair(arrays: Mapping[str, np.ndarray], split: str) -> tuple[np.ndarray, np.ndarray] | None:
  pairs = [(arrays[x], arrays[y]) for x, y in NAMES[split] if x in arrays and y in arrays]
  return pairs[0] if pairs else None


def _split(images: np.ndarray, labels: np.ndarray, where: str, classes: int) -> Split:
  images = images[..., None] if images.ndim == 3 else images
  labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels  # as Keras keeps those of CIFAR
  return check_split(images, labels, where, classes)
