"""Torn and damaged files of every kind: the study ends as if nothing had happened, or one line says what is wrong."""

import json
import shutil
import subprocess

import pytest

from tests.faults import harness

CONTENTS = {
  "empty": b"",
  "list": b"[]",
  "number": b"5",
  "null": b"null",
  "no UTF-8": b"\xff\xfe\x00",
  "zeros": bytes(64),
}
MADE_AGAIN = (
  "result.json",
  "metrics.jsonl",
  "progress.json",
  "config.json",
  "log.txt",
  ".lock",
  "checkpoints/files.json",
)


@pytest.fixture
def workdir(tmp_path, finished):
  return shutil.copytree(finished, tmp_path / "study", symlinks=True)


def trial(workdir, index=0):
  return workdir / "trials" / harness.TRIALS[index]


def unfinish(workdir):
  for index in range(2):
    (trial(workdir, index) / "result.json").unlink()


def end(workdir, undisturbed):
  code, output = harness.run(workdir)
  assert code == 0, output
  assert "Traceback" not in output
  harness.assert_nothing_runs(workdir)
  harness.assert_equal(workdir, undisturbed)
  return output


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_damaged_files_of_a_trial_are_made_again(workdir, undisturbed, content):
  unfinish(workdir)
  for name in MADE_AGAIN:
    (trial(workdir) / name).write_bytes(content)
  (trial(workdir, 1) / "result.json").write_bytes(content)
  for name in ("command.json", "report.html", "data/data.json", "data/config.json", "data/train.images.npy"):
    (workdir / name).write_bytes(content)
  end(workdir, undisturbed)


def test_a_torn_newest_checkpoint_of_each_trial(workdir, undisturbed):
  unfinish(workdir)
  for index in range(2):
    newest = trial(workdir, index) / "checkpoints" / "60"
    for path in [path for path in newest.rglob("*") if path.is_file()]:
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if index else b"")
  end(workdir, undisturbed)
  assert (trial(workdir) / "checkpoints" / "damaged_60").is_dir()


@pytest.mark.parametrize("name", ["sweep.json", "trials/{0}/data.json"])
def test_what_cannot_be_made_again_is_one_line(workdir, name):
  unfinish(workdir)
  (workdir / name.format(harness.TRIALS[0])).write_bytes(b"[]")
  code, output = harness.run(workdir)
  assert "Traceback" not in output
  assert "is damaged" in output
  if name == "sweep.json":
    assert code == 2
    return
  assert code == 1  # the other trial has ended
  assert json.loads((trial(workdir, 1) / "result.json").read_text())["status"] == "done"


def mount(folder, *options):
  folder.mkdir(exist_ok=True)
  command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
  return subprocess.run(command, capture_output=True, check=False).returncode == 0


def unmount(folder):
  subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


@pytest.fixture
def small_disk(tmp_path):
  folder = tmp_path / "disk"
  if not mount(folder, "size=200m"):
    pytest.skip("tmpfs cannot be mounted here")
  yield folder
  unmount(folder)


def remount(folder, *options):
  subprocess.run(["mount", "-o", ",".join(("remount", *options)), str(folder)], check=True)


def size_on_disk(folder):
  """Bytes that the files of a folder take on a disk of 4 KiB pages."""
  return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def test_a_full_disk_ends_trials_and_not_the_sweep(small_disk, finished, undisturbed):
  """The data's cache fits, the trials' checkpoints do not; with room the same command goes on."""
  workdir = small_disk / "study"
  room = size_on_disk(finished / "data") + size_on_disk(finished / "trials") // 3
  remount(small_disk, f"size={room}")
  code, output = harness.run(workdir)
  assert "Traceback" not in output
  assert code == 1, output
  assert "No space left on device" in output
  assert not list(workdir.rglob("*.part"))
  remount(small_disk, "size=200m")
  code, output = harness.run(workdir)
  assert code == 0, output
  harness.assert_equal(workdir, undisturbed)


def test_a_read_only_directory_is_one_line(small_disk, finished):
  workdir = shutil.copytree(finished, small_disk / "study")
  before = harness.snapshot(workdir)
  remount(small_disk, "ro")
  code, output = harness.run(workdir)
  assert code == 2
  assert output.strip().startswith("error: ")
  assert len(output.strip().splitlines()) == 1
  harness.assert_equal(workdir, before)
