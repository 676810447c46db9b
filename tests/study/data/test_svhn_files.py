"""SVHN's .mat files: what is right is read, what is wrong is named."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from dorefa_study.config import DataConfig
from dorefa_study.data import DataError
from dorefa_study.data.loading import load_dataset
from dorefa_study.data.svhn import read_mat


def arrays(count=12, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (32, 32, 3, count)).astype(np.uint8), (np.arange(count) % 10 + 1)[:, None].astype(
    np.uint8
  )


def write(path, images=None, labels=None, **options):
  default_images, default_labels = arrays()
  scipy.io.savemat(
    path,
    {"X": default_images if images is None else images, "y": default_labels if labels is None else labels},
    **options,
  )


@pytest.fixture
def folder(tmp_path):
  for seed, split in enumerate(("train", "test", "extra")):
    write(tmp_path / f"{split}_32x32.mat", *arrays(10 + seed, seed))
  return tmp_path


def test_train_and_extra(folder):
  plain = load_dataset(DataConfig("svhn", dir=str(folder)))
  assert (plain.train.images.shape, len(plain.test.labels)) == ((10, 32, 32, 3), 11)
  mixed = load_dataset(DataConfig("svhn", dir=str(folder), extra=True))
  assert len(mixed.train.labels) == 10 + 12
  np.testing.assert_array_equal(mixed.train.images[:10], plain.train.images)
  assert plain.digest() != mixed.digest()


def test_images_and_labels_are_in_order(folder):
  images, labels = arrays(10, 0)
  split = read_mat(folder / "train_32x32.mat")
  np.testing.assert_array_equal(split.images[3], images[..., 3])
  np.testing.assert_array_equal(split.labels, labels[:, 0] % 10)
  assert split.labels[9] == 0  # ten stands for the digit 0
  assert split.images.dtype == np.uint8


@pytest.mark.parametrize("split", ["train", "test", "extra"])
def test_a_missing_split_is_named(folder, split):
  (folder / f"{split}_32x32.mat").unlink()
  with pytest.raises(DataError, match=f"no {split}_32x32.mat"):
    load_dataset(DataConfig("svhn", dir=str(folder), extra=True))


@pytest.mark.parametrize(
  ("images", "labels", "message"),
  [
    (np.zeros((32, 32, 12), np.uint8), None, r"X must be \[32, 32, 3, n\] uint8, found \[32, 32, 12\]"),
    (np.zeros((28, 28, 3, 12), np.uint8), None, r"found \[28, 28, 3, 12\]"),
    (np.zeros((32, 32, 3, 12)), None, "float64"),
    (None, np.ones((11, 1)), r"y must be \[12, 1\]"),
    (None, np.ones((12, 2)), r"y must be \[12, 1\]"),
    (None, np.full((12, 1), 11), "found 11 at image 0"),
    (None, np.arange(12)[:, None], "found 0 at image 0"),
    (None, np.full((12, 1), 1.5), "found 1.5"),
    (None, np.where(np.arange(12) == 5, 2.5, 1.0)[:, None], "found 2.5 at image 5"),
    (None, np.where(np.arange(12) == 5, np.nan, 1.0)[:, None], "found nan at image 5"),
    (None, np.where(np.arange(12) == 5, np.inf, 1.0)[:, None], "found inf at image 5"),
    (None, np.ones((12, 1)) + 1j, r"y must be \[12, 1\] real numbers .*complex"),
    (None, scipy.sparse.csc_matrix(np.ones((12, 1))), r"y must be \[12, 1\] real numbers .*sparse"),
    (None, np.array(["1"] * 12)[:, None], r"y must be \[12, 1\] real numbers .*char"),
    (None, np.ones((12, 1), bool), r"y must be \[12, 1\] real numbers .*logical"),
    (None, {"a": 1}, r"y must be \[12, 1\] real numbers .*struct"),
    (None, np.array([[1], ["a"]] * 6, object), r"y must be \[12, 1\] real numbers .*cell"),
    (None, np.ones(0), r"y must be \[12, 1\]"),
    (None, 3, r"y must be \[12, 1\]"),
    (scipy.sparse.csc_matrix(np.ones((32, 32))), None, "X must be .*sparse"),
    (np.zeros((32, 32, 3, 12)) + 1j, None, "X must be .*complex"),
    (np.zeros((12, 32, 32, 3), np.uint8), None, r"X must be .*found \[12, 32, 32, 3\]"),
    (np.zeros((3, 32, 32, 12), np.uint8), None, r"X must be .*found \[3, 32, 32, 12\]"),
    (np.zeros((32, 32, 3, 12), bool), None, "X must be .*logical"),
    (np.full((32, 32, 3, 1), 0, object), None, "X must be .*cell"),
    ({"a": 1}, None, "X must be .*struct"),
    ("text", None, "X must be .*char"),
    (7, None, "X must be"),
    (np.zeros((32, 32, 3, 0), np.uint8), np.zeros((0, 1)), "no images"),
  ],
)
@pytest.mark.parametrize("compressed", [True, False])
def test_wrong_arrays_are_named(tmp_path, images, labels, message, compressed):
  path = tmp_path / "train_32x32.mat"
  write(path, images, labels, do_compression=compressed)
  with pytest.raises(DataError, match=message) as error:
    read_mat(path)
  assert str(path) in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("labels", [np.arange(12.0)[None] % 10 + 1, np.arange(12, dtype=np.int64)[:, None] % 10 + 1])
def test_labels_may_be_a_row_and_of_any_real_dtype(tmp_path, labels):
  write(tmp_path / "a.mat", labels=labels)
  assert read_mat(tmp_path / "a.mat").labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]


def test_other_variables_do_not_matter(tmp_path):
  others = {"a": {"b": 1}, "c": np.array([1, "d"], object), "e": scipy.sparse.csc_matrix(np.eye(3)), "f": 1j}
  scipy.io.savemat(tmp_path / "a.mat", others | dict(zip("Xy", arrays())), do_compression=True)
  assert len(read_mat(tmp_path / "a.mat").labels) == 12


def element(kind, data):
  return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def variable(name, shape, data, *, matlab_class=9, flags=0, stored=2):
  """A variable in version 5 of the format, as wrong as its arguments are; class 9 is uint8."""
  body = element(6, struct.pack("<II", matlab_class | flags, 0))
  body += element(5, struct.pack(f"<{len(shape)}i", *shape)) + element(1, name.encode()) + element(stored, data)
  return element(14, body)


def mat(*variables, compressed=False):
  header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
  packed = (zlib.compress(item, 9) for item in variables) if compressed else variables
  return header + b"".join(struct.pack("<II", 15, len(item)) + item if compressed else item for item in packed)


LABELS = variable("y", (2, 1), b"\1\2")
IMAGES = variable("X", (32, 32, 3, 2), bytes(6144))


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
  ("variables", "message"),
  [
    ((IMAGES, LABELS, IMAGES), "'X' twice"),
    ((variable("X", (), b""), LABELS), "X must be"),
    ((variable("X", (32, 32, 3, -2), bytes(6144)), LABELS), "y must be"),
    ((variable("X", (32, 32, 3, 2**31 - 1), bytes(6144)), LABELS), "y must be"),
    ((variable("X", (32, 32, 3, 3), bytes(6144)), variable("y", (3, 1), b"\1\2\3")), "damaged"),
    ((IMAGES, variable("y", (2, 1), b"\1")), "damaged"),
    ((IMAGES, LABELS, variable("t", (1, 1), b"", matlab_class=17)), "a table or another object"),
    ((variable("X", (32, 32, 3, 2), b"", matlab_class=16), LABELS), "X must be .*function"),
    ((IMAGES, variable("y", (2, 1), b"", matlab_class=3)), "y must be .*object"),
    ((IMAGES, variable("y", (2, 1), b"\1\2", flags=1 << 11)), "y must be .*complex"),
    ((IMAGES, variable("y", (2, 1), b"\1\2", matlab_class=77)), "y must be .*unknown"),
    ((IMAGES, LABELS, b"\0\1\2\3"), "damaged"),
    ((variable("X", (32, 32, 3, 2), bytes(6144), stored=65_282), LABELS), "X must be .*damaged numbers"),
    ((IMAGES, variable("y", (2, 1), b"\1\2", stored=99)), "y must be .*damaged numbers"),
    ((), "no variable 'X'"),
  ],
)
def test_crafted_files_are_one_line(tmp_path, variables, message, compressed):
  path = tmp_path / "a.mat"
  path.write_bytes(mat(*variables, compressed=compressed))
  with pytest.raises(DataError, match=message) as error:
    read_mat(path)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("compressed", [True, False])
def test_the_crafted_files_would_be_read_but_for_what_is_wrong(tmp_path, compressed):
  (tmp_path / "a.mat").write_bytes(mat(IMAGES, LABELS, compressed=compressed))
  assert read_mat(tmp_path / "a.mat").labels.tolist() == [1, 2]


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(384) + b"\x89HDF\r\n\x1a\n" + bytes(2000), "-v7'"),
    (b"\x89HDF\r\n\x1a\n" + bytes(2000), "-v7'"),
    (b"", "not a readable .mat file"),
    (b"<html>" * 100, "not a readable .mat file"),
    (bytes(1000), "not a readable .mat file"),
  ],
)
def test_other_formats_are_named(tmp_path, content, message):
  (tmp_path / "a.mat").write_bytes(content)
  with pytest.raises(DataError, match=message) as error:
    read_mat(tmp_path / "a.mat")
  assert ("damaged" in str(error.value)) == ("-v7" not in message)


def test_a_path_that_cannot_be_read_is_not_called_damaged(tmp_path):
  for path in (tmp_path, tmp_path / "missing.mat", tmp_path / ("long" * 100)):
    with pytest.raises(DataError, match="cannot be read"):
      read_mat(path)


MEGABYTE = 1 << 20
READ_ALL = """
import pathlib, sys
from dorefa_study.data import DataError
from dorefa_study.data.svhn import read_mat
def peak():
  return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
for path in map(pathlib.Path, sys.argv[1:]):
  try:
    read_mat(path)
    print("read", path.name)
  except DataError as error:
    print(error)
print((peak() - before) // 1024)
"""


def bomb(head, megabytes):
  """Compresses `head` and zeros after it, without spending the time that as many zeros would take."""
  packer = zlib.compressobj(9)
  start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
  zeros = packer.compress(bytes(MEGABYTE)) + packer.flush(zlib.Z_FULL_FLUSH)  # the same after every full flush
  body = start + zeros * megabytes
  return struct.pack("<II", 15, len(body)) + body


def head(name, shape, size, *, flags=0):
  """How a variable begins, up to its data, of which it announces `size` bytes."""
  whole = variable(name, shape, b"", flags=flags)
  return struct.pack("<II", 14, size) + whole[8:-8] + struct.pack("<II", 2, size)


def test_bombs_are_refused_without_memory(tmp_path):
  megabytes = 2000
  size = megabytes * MEGABYTE
  labels, images = mat(LABELS, compressed=True), mat(IMAGES, compressed=True)[128:]
  count = size // 3072
  named = struct.pack("<II", 14, size) + IMAGES[8:48] + struct.pack("<II", 1, size)
  bombs = {
    "black images": labels + bomb(head("X", (32, 32, 3, count), size), megabytes),
    "more data than the shape": labels + bomb(head("X", (32, 32, 3, 2), size), megabytes),
    "complex": labels + bomb(head("X", (32, 32, 3, count), size, flags=1 << 11), megabytes),
    "labels": labels[:128] + images + bomb(head("y", (size, 1), size), megabytes),
    "another variable": labels + images + bomb(head("z", (size, 1), size), megabytes),
    "a name": labels + bomb(named, megabytes),
    "before the others": labels[:128] + bomb(head("z", (size, 1), size), megabytes) + images + labels[128:],
  }
  paths = [tmp_path / name for name in bombs]
  for path, content in zip(paths, bombs.values()):
    path.write_bytes(content)
    assert len(content) < 3 * MEGABYTE
  command = [sys.executable, "-c", READ_ALL, *map(str, paths)]
  done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
  *lines, megabytes_more = done.stdout.splitlines()
  assert [line.partition(":")[0] for line in lines] == [str(path) for path in paths]
  assert all("which no images do" in line for line in lines), lines
  assert int(megabytes_more) < 100


def test_a_missing_variable_is_named(tmp_path):
  path = tmp_path / "a.mat"
  scipy.io.savemat(path, {"X": arrays()[0]})
  with pytest.raises(DataError, match="no variable 'y'"):
    read_mat(path)


@pytest.mark.parametrize("compressed", [True, False])
@given(share=st.floats(0, 0.999))
@settings(max_examples=25)
def test_a_truncated_file_is_an_error_never_fewer_images(tmp_path_factory, compressed, share):
  path = tmp_path_factory.mktemp("mat") / "train_32x32.mat"
  write(path, do_compression=compressed)
  data = path.read_bytes()
  path.write_bytes(data[: int(len(data) * share)])
  with pytest.raises(DataError, match=r"train_32x32\.mat"):
    read_mat(path)


@given(flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), min_size=1, max_size=3))
def test_a_damaged_file_is_read_whole_or_refused(tmp_path_factory, flips):
  path = tmp_path_factory.mktemp("mat") / "train_32x32.mat"
  write(path, do_compression=True)
  data = bytearray(path.read_bytes())
  for position, value in flips:
    data[int(len(data) * position)] ^= value
  path.write_bytes(bytes(data))
  try:
    split = read_mat(path)
  except DataError:
    return
  assert split.images.shape == (12, 32, 32, 3)
