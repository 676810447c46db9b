"""Checkpoints: what is restored is what was saved, readers write nothing, and only proven damage is set aside."""

import dataclasses
import errno
import gc
import os
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dorefa_study.checkpoints import CheckpointError, Checkpoints, digest
from dorefa_study.steps import TrainState


def make(step, value=1.0):
  params = {"conv0": {"kernel": jnp.full((3, 3, 1, 64), value)}, "fc": {"kernel": jnp.full((64, 10), value)}}
  return TrainState(
    step=jnp.int32(step),
    params=params,
    batch_stats={"bn": {"mean": jnp.full(64, value)}},
    opt_state=optax.adam(1e-3).init(params),
    totals={"loss": jnp.float32(value)},
  )


# Reads that were under way when Orbax met the damage end after its event loop.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _end_reads():
  yield
  gc.collect()


LIKE = jax.eval_shape(lambda: make(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  directory = tmp_path_factory.mktemp("saved") / "checkpoints"
  checkpoints = Checkpoints(directory)
  for step in (4, 8):
    checkpoints.save(make(step, float(step)))
  checkpoints.close()
  return directory


@pytest.fixture
def directory(saved, tmp_path):
  shutil.copytree(saved, tmp_path / "checkpoints")
  return tmp_path / "checkpoints"


def restore(directory, like=LIKE, *, read_only=False):
  checkpoints = Checkpoints(directory, read_only=read_only)
  try:
    return checkpoints.restore(like)
  finally:
    checkpoints.close()


def content(directory):
  return {
    str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None for path in directory.rglob("*")
  }


def files(directory, step):
  return [path for path in sorted((directory / str(step)).rglob("*")) if path.is_file()]


def empty(folder):
  for path in list(folder.iterdir()):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def cut(folder):
  for path in [path for path in folder.rglob("*") if path.is_file()]:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_arrays(folder):
  for path in folder.glob("default/**/d/*"):
    path.unlink()


def zero(folder):
  for path in [path for path in folder.rglob("*") if path.is_file()]:
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES = (empty, cut, lose_arrays, zero)


def test_the_newest_is_restored_to_the_bit(directory):
  state = restore(directory)
  assert digest(vars(state)) == digest(vars(make(8, 8.0)))
  assert jax.tree.structure(state) == jax.tree.structure(make(8))


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_a_trainer_sets_a_damaged_checkpoint_aside_and_goes_on_from_the_older_one(directory, damage, capsys):
  damage(directory / "8")
  broken = content(directory / "8")
  assert int(restore(directory).step) == 4
  assert content(directory / "damaged_8") == broken
  assert "checkpoint 8 is damaged" in capsys.readouterr().out
  checkpoints = Checkpoints(directory)  # and the next one can be saved, and damaged, again
  checkpoints.save(make(8, 8.0))
  checkpoints.close()
  damage(directory / "8")
  assert int(restore(directory).step) == 4
  assert (directory / "damaged_8_2").is_dir()


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_a_reader_passes_over_a_damaged_checkpoint_and_touches_nothing(directory, damage):
  damage(directory / "8")
  before = content(directory)
  assert int(restore(directory, read_only=True).step) == 4
  assert content(directory) == before


def test_with_all_checkpoints_damaged_there_is_no_state(directory):
  for step in (4, 8):
    empty(directory / str(step))
  assert restore(directory, read_only=True) is None
  assert restore(directory) is None
  assert sorted(path.name for path in directory.glob("damaged_*")) == ["damaged_4", "damaged_8"]


def test_a_flipped_bit_never_gives_other_values(directory):
  """Most flips lie in arrays, and Orbax's own formats do not notice all of them."""
  rng = random.Random(0)
  wanted = {step: digest(vars(make(step, float(step)))) for step in (4, 8)}
  shutil.copytree(directory / "8", directory.parent / "good")
  steps = []
  for _ in range(25):
    candidates = [path for path in files(directory, 8) if path.stat().st_size]
    path = rng.choices(candidates, [path.stat().st_size for path in candidates])[0]
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    state = restore(directory, read_only=True)
    steps.append(int(state.step))
    assert digest(vars(state)) == wanted[int(state.step)]
    shutil.rmtree(directory / "8")
    shutil.copytree(directory.parent / "good", directory / "8")
  assert steps.count(4) > 5


PASSING = (OSError(5, "Input/output error"), MemoryError(), RuntimeError("RESOURCE_EXHAUSTED"), ValueError("a bug"))


@pytest.mark.parametrize("error", PASSING, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("read_only", [False, True])
def test_what_is_no_damage_ends_in_one_line_and_touches_nothing(directory, monkeypatch, error, read_only):
  def fail(*_, **__):
    raise error

  before = content(directory)
  checkpoints = Checkpoints(directory, read_only=read_only)
  monkeypatch.setattr("dorefa_study.checkpoints.read_tree", fail)
  with pytest.raises(CheckpointError, match="nothing was touched"):
    checkpoints.restore(LIKE)
  checkpoints.close()
  assert content(directory) == before


def test_the_checkpoints_of_earlier_versions_have_no_hashes_and_are_read(directory):
  (directory / "files.json").unlink()
  assert int(restore(directory).step) == 8
  cut(directory / "8")
  assert int(restore(directory).step) == 4


@pytest.mark.parametrize("record", ["[]", "5", "", '{"8": 3}', '{"8": null}'])
def test_a_damaged_record_of_hashes_stops_nothing(directory, record):
  (directory / "files.json").write_text(record)
  assert int(restore(directory).step) == 8
  checkpoints = Checkpoints(directory)
  checkpoints.save(make(12, 12.0))
  checkpoints.close()
  assert int(restore(directory).step) == 12


@pytest.mark.parametrize("change", ["field", "shape", "dtype"])
def test_a_state_of_another_structure_is_refused_by_name(directory, change):
  totals = {
    "field": {**LIKE.totals, "new": jax.ShapeDtypeStruct((), jnp.float32)},
    "shape": {"loss": jax.ShapeDtypeStruct((2,), jnp.float32)},
    "dtype": {"loss": jax.ShapeDtypeStruct((), jnp.int32)},
  }[change]
  before = content(directory)
  with pytest.raises(CheckpointError, match=r"totals/(new|loss) is .* there, .* here"):
    restore(directory, dataclasses.replace(LIKE, totals=totals))
  assert content(directory) == before


def test_a_checkpoint_of_another_machines_devices_is_restored(directory):
  names = directory / "8" / "default" / "_sharding"
  names.write_text(names.read_text().replace("cpu:0", "cuda:3"))
  assert int(restore(directory, read_only=True).step) == 8
  assert int(restore(directory).step) == 8


def test_a_reader_leaves_what_a_trainer_is_writing(directory):
  partial = directory / "12.orbax-checkpoint-tmp"
  shutil.copytree(directory / "8", partial)
  before = content(directory)
  assert int(restore(directory, read_only=True).step) == 8
  assert content(directory) == before
  restore(directory)  # the next trainer, which holds the work directory's lock, clears it away
  assert not partial.exists()


def test_a_full_disk_is_an_oserror(directory, monkeypatch):
  checkpoints = Checkpoints(directory)

  def fail(*_, **__):
    raise ValueError("RESOURCE_EXHAUSTED: Error writing: [OS error 28: ENOSPC No space left on device]")

  monkeypatch.setattr(checkpoints._manager, "save", fail)
  with pytest.raises(OSError, match="No space left on device"):
    checkpoints.save(make(12))
  checkpoints.close()


def test_digests_tell_arrays_apart():
  assert digest({"a": np.zeros(2)}) != digest({"a": np.zeros(3)})
  assert digest({"a": np.zeros(2)}) != digest({"b": np.zeros(2)})


METADATA = {"a list": b"[]", "another kind": b'{"custom_metadata": 5}', "empty": b"", "no UTF-8": b"\xff\xfe"}


@pytest.mark.parametrize("content_of_it", METADATA.values(), ids=METADATA)
@pytest.mark.parametrize("step", ["4", "8"])
@pytest.mark.parametrize("read_only", [False, True])
def test_damaged_metadata_hides_no_other_checkpoint(directory, content_of_it, step, read_only):
  (directory / step / "_CHECKPOINT_METADATA").write_bytes(content_of_it)
  before = content(directory)
  state = restore(directory, read_only=read_only)
  assert int(state.step) == (4 if step == "8" else 8)
  if read_only:
    assert content(directory) == before
  checkpoints = Checkpoints(directory)
  checkpoints.save(make(12, 12.0))
  checkpoints.close()
  assert int(restore(directory, read_only=True).step) == 12


def test_a_lost_digest_lets_no_damage_through(directory):
  """The hashes of the files stand beside the checkpoints, too."""
  rng = random.Random(1)
  files = [path for path in (directory / "8" / "default").rglob("*") if path.is_file() and path.stat().st_size > 64]
  (directory / "8" / "_CHECKPOINT_METADATA").write_bytes(b"")
  for _ in range(5):
    path = rng.choice(files)
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    whole = path.read_bytes()
    path.write_bytes(bytes(data))
    assert int(restore(directory, read_only=True).step) == 4
    path.write_bytes(whole)


def test_an_emptied_file_of_a_checkpoint_without_hashes_is_damage(directory):
  (directory / "files.json").unlink()
  for path in (directory / "8" / "default").rglob("d/*"):
    path.write_bytes(b"")
  assert int(restore(directory).step) == 4


@pytest.mark.parametrize("read_only", [False, True])
def test_a_folder_that_cannot_be_read_now_is_no_damage(directory, monkeypatch, read_only):
  before, scandir = content(directory), os.scandir

  def refuse(path="."):
    if str(path).endswith("/8"):
      raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return scandir(path)

  def fail(*_, **__):
    raise ValueError("an array cannot be opened")

  checkpoints = Checkpoints(directory, read_only=read_only)
  monkeypatch.setattr("dorefa_study.checkpoints.read_tree", fail)
  monkeypatch.setattr(os, "scandir", refuse)
  with pytest.raises(CheckpointError, match="Permission denied"):
    checkpoints.read_newest()
  monkeypatch.undo()
  checkpoints.close()
  assert content(directory) == before
