import gzip
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from experiments.config import DataConfig
from experiments.data import DataError, Dataset, Split
from experiments.data.cache import load_cached, record
from experiments.data.dataset import check_split
from experiments.data.idx import load_idx, read_idx
from experiments.data.loading import load_dataset
from experiments.data.prepared import load_prepared

CIFAR = pathlib.Path(__file__).parents[4] / "shared" / "data" / "tfds"


def write_idx(path, array):
  header = bytes([0, 0, 8, array.ndim]) + b"".join(int(size).to_bytes(4, "big") for size in array.shape)
  content = header + array.astype(np.uint8).tobytes()
  path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def fashion(tmp_path):
  rng = np.random.default_rng(0)
  for prefix, count, suffix in (("train", 9, ""), ("t10k", 5, ".gz")):
    write_idx(tmp_path / f"{prefix}-images-idx3-ubyte{suffix}", rng.integers(0, 256, (count, 28, 28)))
    write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte{suffix}", np.arange(count) % 10)
  return tmp_path


def test_fashion_mnist_from_idx_files(fashion):
  dataset = load_dataset(DataConfig("fashion_mnist", dir=str(fashion)))
  assert dataset.train.images.shape == (9, 28, 28, 1)
  assert dataset.test.images.shape == (5, 28, 28, 1)
  assert dataset.train.labels.tolist() == list(range(9))


def test_damaged_idx_files_are_named(fashion):
  path = fashion / "train-images-idx3-ubyte"
  data = path.read_bytes()
  for damaged, message in (
    (data[:-1], "truncated"),
    (data[:10], "not an IDX"),
    (b"\0\0\x0d\3" + data[4:], "not an IDX"),
  ):
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=message):
      read_idx(path, 3)
  packed = fashion / "t10k-images-idx3-ubyte.gz"
  packed.write_bytes(packed.read_bytes()[:-9])
  with pytest.raises(DataError, match="cannot be read"):
    read_idx(packed, 3)


def test_idx_images_and_labels_must_match(fashion):
  write_idx(fashion / "train-labels-idx1-ubyte", np.zeros(8))
  with pytest.raises(DataError, match="9 images need as many integer labels"):
    load_idx("fashion_mnist", fashion)
  (fashion / "train-labels-idx1-ubyte").unlink()
  with pytest.raises(DataError, match="no train-labels-idx1-ubyte"):
    load_idx("fashion_mnist", fashion)


@pytest.mark.skipif(not CIFAR.is_dir(), reason="prepared CIFAR-10 is not beside this checkout")
@pytest.mark.slow
def test_cifar10_from_a_prepared_directory():
  dataset = load_dataset(DataConfig("cifar10", dir=str(CIFAR), test_size=100))
  assert dataset.train.images.shape == (50_000, 32, 32, 3)
  assert np.bincount(dataset.train.labels).tolist() == [5000] * 10
  assert len(dataset.test.labels) == 100


def test_prepared_directory_is_read_through_tfds():
  with tfds.testing.mock_data(num_examples=8):
    dataset = load_prepared("svhn", "svhn_cropped", pathlib.Path("/nowhere"), extra=True)
  assert dataset.train.images.shape == (16, 32, 32, 3)
  assert dataset.test.images.dtype == np.uint8


def test_a_damaged_prepared_directory_is_named(tmp_path):
  (tmp_path / "cifar10" / "3.0.2").mkdir(parents=True)
  (tmp_path / "cifar10" / "3.0.2" / "dataset_info.json").write_text("{}")
  with pytest.raises(DataError, match=r"cifar10, split 'train': cannot be read"):
    load_dataset(DataConfig("cifar10", dir=str(tmp_path)))


def test_a_directory_without_the_data_is_named(tmp_path):
  with pytest.raises(DataError, match=f"no cifar10 found in {tmp_path}"):
    load_dataset(DataConfig("cifar10", dir=str(tmp_path)))
  with pytest.raises(DataError, match=r"config.data.dir: no directory '/nowhere'"):
    load_dataset(DataConfig("cifar10", dir="/nowhere"))


def test_stand_in_says_so(tmp_path):
  config = DataConfig("svhn", dir=str(tmp_path), stand_in=True, train_size=20, test_size=10)
  dataset = load_dataset(config)
  assert dataset.name == "street_digits"
  assert record(dataset, config)["stand_in"]


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch):
  def refuse(*_, **__):
    raise OSError("Name or service not known")

  monkeypatch.setattr("urllib.request.urlopen", refuse)
  with pytest.raises(DataError, match=r"the download of http.*train_32x32.mat failed .*config.data.dir"):
    load_dataset(DataConfig("svhn", dir=str(tmp_path / "new"), download=True))


def test_a_download_with_a_wrong_checksum_is_refused(tmp_path, monkeypatch):
  import io

  monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: io.BytesIO(b"not svhn"))
  with pytest.raises(DataError, match="checksum"):
    load_dataset(DataConfig("svhn", dir=str(tmp_path), download=True))
  assert [path.name for path in tmp_path.iterdir()] == ["train_32x32.mat.part"]


def test_sizes_choose_a_fixed_subset(fashion):
  config = DataConfig("fashion_mnist", dir=str(fashion), train_size=4, test_size=2)
  first, second = load_dataset(config), load_dataset(config)
  assert len(first.train.labels) == 4
  np.testing.assert_array_equal(first.train.images, second.train.images)
  with pytest.raises(DataError, match="config.data.train_size: 10 asked for"):
    load_dataset(DataConfig("fashion_mnist", dir=str(fashion), train_size=10))


def test_an_interrupted_download_goes_on(tmp_path, monkeypatch):
  fetched = []

  def fetch(directory, *, extra):
    fetched.append(extra)
    raise DataError("no network")

  monkeypatch.setattr("experiments.data.loading.download_svhn", fetch)
  for split in ("train", "test"):
    (tmp_path / f"{split}_32x32.mat").write_bytes(b"complete")
  with pytest.raises(DataError, match="no network"):
    load_dataset(DataConfig("svhn", dir=str(tmp_path), download=True, extra=True))
  assert fetched == [True]


@pytest.mark.parametrize("damage", ["truncate", "zero", "remove", "swap"])
def test_a_damaged_cache_is_made_again(tmp_path, damage):
  config = DataConfig("street_digits", train_size=30, test_size=20)
  digest = load_cached(config, tmp_path).digest()
  path = tmp_path / "train.images.npy"
  data = path.read_bytes()
  if damage == "truncate":
    path.write_bytes(data[:200])
  elif damage == "zero":
    path.write_bytes(data[:128] + bytes(len(data) - 128))
  elif damage == "remove":
    path.unlink()
  else:
    np.save(path, np.zeros((29, 32, 32, 3), np.uint8))
  assert load_cached(config, tmp_path).digest() == digest


def test_cache_gives_back_what_it_took_and_knows_its_config(tmp_path):
  config = DataConfig("street_digits", train_size=30, test_size=20)
  first, second = load_cached(config, tmp_path), load_cached(config, tmp_path)
  assert first.digest() == second.digest()
  assert isinstance(second.train.images, np.memmap)
  other = load_cached(DataConfig("street_digits", train_size=31, test_size=20), tmp_path)
  assert len(other.train.labels) == 31


@pytest.mark.parametrize(
  ("images", "labels", "message"),
  [
    (np.zeros((0, 2, 2, 3), np.uint8), np.zeros(0, int), "no images"),
    (np.zeros((1, 2, 2, 4), np.uint8), np.zeros(1, int), "1 or 3"),
    (np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1), "integer labels"),
    (np.zeros((1, 2, 2, 3), np.uint8), np.array([-1]), "found -1 at image 0"),
  ],
)
def test_check_split(images, labels, message):
  with pytest.raises(DataError, match=message):
    check_split(images, labels, "here")


def test_digest_sees_every_array():
  split = Split(np.zeros((2, 2, 2, 1), np.uint8), np.zeros(2, np.int32))
  other = Split(split.images, np.ones(2, np.int32))
  digests = {Dataset("a", "a", a, b).digest() for a in (split, other) for b in (split, other)}
  assert len(digests) == 4
