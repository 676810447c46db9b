import dataclasses
import gzip
import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dorefa_study.config import DataConfig
from dorefa_study.data import DataError, Dataset, Split
from dorefa_study.data.cache import load_cached, record
from dorefa_study.data.dataset import check_split
from dorefa_study.data.download import RemoteFile
from dorefa_study.data.idx import load_idx, read_idx
from dorefa_study.data.loading import find_directory, load_dataset
from dorefa_study.data.svhn import remote_files


def write_idx(path, array):
  header = bytes([0, 0, 8, array.ndim]) + b"".join(int(size).to_bytes(4, "big") for size in array.shape)
  content = header + array.astype(np.uint8).tobytes()
  path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_fashion(directory):
  rng = np.random.default_rng(0)
  for prefix, count, suffix in (("train", 9, ""), ("t10k", 5, ".gz")):
    write_idx(directory / f"{prefix}-images-idx3-ubyte{suffix}", rng.integers(0, 256, (count, 28, 28)))
    write_idx(directory / f"{prefix}-labels-idx1-ubyte{suffix}", np.arange(count) % 10)


@pytest.fixture
def fashion(tmp_path):
  write_fashion(tmp_path)
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


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_idx_file_is_as_long_as_it_announces(tmp_path, suffix):
  path = tmp_path / f"images{suffix}"

  def write(header, data):
    content = b"\0\0\x08\3" + b"".join(size.to_bytes(4, "big") for size in header) + data
    path.write_bytes(gzip.compress(content) if suffix else content)

  write((2, 3, 4), bytes(24))
  assert read_idx(path, 3).shape == (2, 3, 4)
  for header, data, message in (
    ((2, 3, 4), bytes(23), "23 bytes of data instead of the 24"),
    ((2, 3, 4), bytes(25), "more bytes of data instead of the 24"),
    ((2, 3, 4), bytes(1 << 20), "more bytes of data instead of the 24"),
    ((2**32 - 1,) * 3, bytes(24), "cannot hold"),
    ((10**6, 28, 28), bytes(24), "cannot hold"),
    ((0, 2**32 - 1, 2**32 - 1), b"", "holds nothing"),
  ):
    write(header, data)
    with pytest.raises(DataError, match=message):
      read_idx(path, 3)


def test_garbage_after_packed_idx_data_is_refused(fashion):
  packed = fashion / "t10k-images-idx3-ubyte.gz"
  packed.write_bytes(packed.read_bytes() + b"garbage")
  with pytest.raises(DataError, match="cannot be read"):
    read_idx(packed, 3)


def test_an_idx_bomb_is_not_unfolded(tmp_path):
  header = b"\0\0\x08\3" + b"".join(size.to_bytes(4, "big") for size in (100, 28, 28))
  (tmp_path / "a.gz").write_bytes(gzip.compress(header + bytes(64 << 20)))
  tracemalloc.start()
  try:
    with pytest.raises(DataError, match="more bytes of data instead of the 78400"):
      read_idx(tmp_path / "a.gz", 3)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
  finally:
    tracemalloc.stop()


def test_idx_images_and_labels_must_match(fashion):
  write_idx(fashion / "train-labels-idx1-ubyte", np.zeros(8))
  with pytest.raises(DataError, match="9 images need as many integer labels"):
    load_idx("fashion_mnist", fashion)
  (fashion / "train-labels-idx1-ubyte").unlink()
  with pytest.raises(DataError, match="no train-labels-idx1-ubyte"):
    load_idx("fashion_mnist", fashion)


def test_generated_images_are_read_from_no_directory(tmp_path):
  for read in (load_dataset, find_directory):
    with pytest.raises(DataError, match="config.data.dir: street_digits are generated"):
      read(DataConfig("street_digits", dir=str(tmp_path)))


def test_a_directory_without_the_data_is_named(tmp_path):
  with pytest.raises(DataError, match=f"no cifar10 found in {tmp_path}"):
    load_dataset(DataConfig("cifar10", dir=str(tmp_path)))
  with pytest.raises(DataError, match=r"config.data.dir: no directory '/nowhere'"):
    load_dataset(DataConfig("cifar10", dir="/nowhere"))


@pytest.fixture
def nothing_found(tmp_path, monkeypatch):
  """None of the usual places holds anything."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
  return tmp_path


def test_stand_in_says_so(nothing_found):
  config = DataConfig("svhn", stand_in=True, train_size=20, test_size=10)
  dataset = load_dataset(config)
  assert dataset.name == "street_digits"
  assert record(dataset, config)["stand_in"]


@pytest.mark.parametrize("name", ["svhn", "cifar10", "fashion_mnist"])
@pytest.mark.parametrize("stand_in", [True, False])
def test_nothing_stands_in_for_a_directory_that_was_named(tmp_path, name, stand_in):
  config = DataConfig(name, dir=str(tmp_path), stand_in=stand_in)
  for call in (find_directory, load_dataset):
    with pytest.raises(DataError, match=f"no {name} found in {tmp_path}"):
      call(config)
    with pytest.raises(DataError, match="no directory"):
      call(dataclasses.replace(config, dir=str(tmp_path / "missing")))


def test_a_directory_that_was_named_is_downloaded_into_rather_than_stood_in_for(tmp_path, monkeypatch):
  def fetch(directory, *, extra):
    raise DataError(f"download to {directory}")

  monkeypatch.setattr("dorefa_study.data.loading.download_svhn", fetch)
  config = DataConfig("svhn", dir=str(tmp_path / "new"), stand_in=True, download=True)
  assert find_directory(config) is None
  with pytest.raises(DataError, match=f"download to {tmp_path / 'new'}"):
    load_dataset(config)


@pytest.mark.parametrize("download", [True, False])
def test_a_file_or_an_impossible_name_is_no_directory(tmp_path, download):
  (tmp_path / "file").touch()
  for name, message in (("file", "no directory"), ("long" * 100, "cannot be read"), ("a\0b", "null character")):
    with pytest.raises(DataError, match=f"config.data.dir: .*{message}"):
      load_dataset(DataConfig("svhn", dir=f"{tmp_path}/{name}", download=download))


@pytest.mark.parametrize("variable", [True, False])
def test_tildes_are_home_directories(nothing_found, monkeypatch, variable):
  (nothing_found / "digits").mkdir()
  (nothing_found / "digits" / "train_32x32.mat").touch()
  if variable:
    monkeypatch.setenv("TFDS_DATA_DIR", "~/digits")
  config = DataConfig("svhn", dir="" if variable else "~/digits")
  assert find_directory(config) == nothing_found / "digits"


def test_users_without_a_home_directory(nothing_found, monkeypatch):
  def no_account(_):
    raise KeyError("getpwuid(): uid not found")

  monkeypatch.setattr("pwd.getpwuid", no_account)
  monkeypatch.delenv("HOME")
  assert find_directory(DataConfig("svhn")) is None
  with pytest.raises(DataError, match="no svhn found in data, data/svhn"):
    load_dataset(DataConfig("svhn"))
  with pytest.raises(DataError, match="config.data.dir: the home directory"):
    load_dataset(DataConfig("svhn", dir="~/svhn"))
  monkeypatch.setenv("TFDS_DATA_DIR", "~/svhn")
  with pytest.raises(DataError, match="TFDS_DATA_DIR: the home directory"):
    load_dataset(DataConfig("svhn"))
  assert find_directory(DataConfig("street_digits")) is None


@pytest.fixture
def unreachable(monkeypatch):
  """SVHN's files as they would be, on a server that does not answer; and no patience."""
  content = b"SVHN"
  files = {
    f"{split}_32x32.mat": RemoteFile(f"http://127.0.0.1:1/{split}_32x32.mat", 4, hashlib.sha256(content).hexdigest())
    for split in ("train", "test", "extra")
  }
  monkeypatch.setattr("dorefa_study.data.svhn.remote_files", lambda: files)
  monkeypatch.setattr("dorefa_study.data.download.time.sleep", lambda _: None)
  return content


def test_a_failed_download_says_what_to_do_and_leaves_nothing(tmp_path, unreachable):
  with pytest.raises(DataError, match=r"the download of http.*train_32x32.mat to .* failed .*config.data.dir"):
    load_dataset(DataConfig("svhn", dir=str(tmp_path / "new" / "deep"), download=True))
  assert not list(tmp_path.iterdir())


def test_files_that_are_there_are_verified_before_a_download(tmp_path, unreachable):
  (tmp_path / "train_32x32.mat").write_bytes(unreachable)
  (tmp_path / "test_32x32.mat").write_bytes(b"junk")
  with pytest.raises(DataError, match=r"test_32x32.mat: not the file .*checksum.*config.data.download=false"):
    load_dataset(DataConfig("svhn", dir=str(tmp_path), download=True))
  assert (tmp_path / "test_32x32.mat").read_bytes() == b"junk"


def test_the_files_that_tfds_knows():
  files = remote_files()
  assert set(files) >= {"train_32x32.mat", "test_32x32.mat", "extra_32x32.mat"}
  assert files["train_32x32.mat"].size == 182_040_794
  assert all(len(file.sha256) == 64 and file.url.startswith("http") for file in files.values())


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

  monkeypatch.setattr("dorefa_study.data.loading.download_svhn", fetch)
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


@pytest.mark.parametrize("file", ["data.json", "config.json"])
@pytest.mark.parametrize(
  "content",
  [b"", b"[]", b"5", b"null", b"{}", b'"x"', b"{", b"\xff\xfe", b"[" * 100_000, b'{"name": "a", "source": "b"}']
  + [b'{"name": null, "source": null, "digest": null}', b'{"name": "a", "source": "b", "digest": ["c"]}'],
  ids=range(12),
)
def test_a_damaged_record_of_the_cache_means_that_it_is_made_again(fashion, file, content):
  config, cache = DataConfig("fashion_mnist", dir=str(fashion)), fashion / "cache"
  expected = load_cached(config, cache)
  (cache / file).write_bytes(content)
  dataset = load_cached(config, cache)
  assert (dataset.name, dataset.digest()) == (expected.name, expected.digest())
  assert isinstance(load_cached(config, cache).train.images, np.memmap)  # mended


@given(st.binary(max_size=200), st.integers(0, 200))
def test_any_bytes_in_the_place_of_an_array_mean_that_it_is_made_again(tmp_path_factory, data, start):
  directory = tmp_path_factory.mktemp("cache")
  write_fashion(directory)
  config, cache = DataConfig("fashion_mnist", dir=str(directory)), directory / "cache"
  digest = load_cached(config, cache).digest()
  path = cache / "test.labels.npy"
  path.write_bytes(path.read_bytes()[:start] + data)
  assert load_cached(config, cache).digest() == digest


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
    (np.zeros((1, 3, 8, 8), np.uint8), np.zeros(1, int), "must have their channels last"),
    (np.zeros((1, 2, 2, 3)), np.zeros(1, int), "uint8, found .* float64; scale them to 0..255"),
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
