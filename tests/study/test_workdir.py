import os

import pytest

from dorefa_study.errors import InUseError, UsageError
from dorefa_study.records import write_json
from dorefa_study.workdir import differing_fields, open_workdir

CONFIG = {"train": {"epochs": 1, "halve_at": (0.5,)}, "bits": "1,2,4"}


def opened(directory, config=CONFIG):
  with open_workdir(directory, "a.json", config):
    return sorted(path.name for path in directory.iterdir())


def test_is_made_and_found_again(tmp_path):
  assert opened(tmp_path / "new" / "w") == [".lock", "a.json"]
  assert opened(tmp_path / "new" / "w") == [".lock", "a.json"]


def test_is_used_by_one_process_at_a_time(tmp_path):
  with open_workdir(tmp_path, "a.json", CONFIG):
    with pytest.raises(InUseError, match=f"in use by process {os.getpid()};"):
      opened(tmp_path)
    (tmp_path / ".lock").write_text("")  # of an earlier version
    with pytest.raises(InUseError, match="in use by another process;"):
      opened(tmp_path)
  opened(tmp_path)


def test_another_config_is_named_field_by_field(tmp_path):
  opened(tmp_path)
  other = {"train": {"epochs": 2, "halve_at": (0.5,)}, "bits": "1,2,4", "more": 1}
  with pytest.raises(UsageError) as error:
    opened(tmp_path, other)
  assert "config.more: None there, 1 here; config.train.epochs: 1 there, 2 here" in str(error.value)


def test_what_fails_before_it_makes_anything_binds_nobody(tmp_path):
  with pytest.raises(UsageError, match="no data"), open_workdir(tmp_path, "a.json", CONFIG):
    raise UsageError("no data")
  assert opened(tmp_path, {"bits": "8,8,8"}) == [".lock", "a.json"]
  (tmp_path / "checkpoint").touch()
  with pytest.raises(UsageError, match="disk"), open_workdir(tmp_path, "a.json", {"bits": "8,8,8"}):
    raise UsageError("disk")
  assert opened(tmp_path, {"bits": "8,8,8"}) == [".lock", "a.json", "checkpoint"]


def test_what_fails_before_it_makes_anything_leaves_no_directory(tmp_path):
  with pytest.raises(UsageError, match="no data"), open_workdir(tmp_path / "a" / "b", "a.json", CONFIG):
    raise UsageError("no data")
  assert os.listdir(tmp_path) == []
  (tmp_path / "mine").mkdir()
  with pytest.raises(UsageError, match="no data"), open_workdir(tmp_path / "mine", "a.json", CONFIG):
    raise UsageError("no data")
  assert os.listdir(tmp_path) == ["mine"]


def test_what_killed_processes_were_writing_is_cleared_away(tmp_path):
  opened(tmp_path)
  (tmp_path / ".report.html.123.part").write_text("<!doctype")
  (tmp_path / "mine.part").write_text("not ours")
  assert opened(tmp_path) == [".lock", "a.json", "mine.part"]


def test_a_foreign_directory_is_left_alone(tmp_path):
  (tmp_path / "thesis.tex").write_text("precious")
  with pytest.raises(UsageError, match="is not empty and has no a.json"):
    opened(tmp_path)
  assert os.listdir(tmp_path) == ["thesis.tex"]


def test_what_a_killed_process_leaves_is_no_foreign_work(tmp_path):
  (tmp_path / ".lock").touch()
  (tmp_path / ".a.json.123.part").write_text("{")
  opened(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"5", b"null", b"\xff\xfe", b"{", b"[" * 100_000])
def test_a_damaged_config_is_named(tmp_path, content):
  opened(tmp_path)
  (tmp_path / "a.json").write_bytes(content)
  with pytest.raises(UsageError, match=r"a\.json is damaged"):
    opened(tmp_path)


def test_lists_and_tuples_are_the_same():
  assert differing_fields({"a": [[1, 2]]}, {"a": ((1, 2),)}) == []


def test_a_first_run_that_fails_after_its_data_binds_nobody(tmp_path):
  def fail(more):
    with open_workdir(tmp_path, "a.json", CONFIG, made_again=("data",)):
      (tmp_path / "data").mkdir()
      for name in more:
        (tmp_path / name).touch()
      raise UsageError("too large a batch")

  with pytest.raises(UsageError, match="too large a batch"):
    fail([])
  assert opened(tmp_path, {"bits": "8,8,8"}) == [".lock", "a.json"]
  (tmp_path / "a.json").unlink()
  with pytest.raises(UsageError, match="too large a batch"):
    fail(["results"])
  assert sorted(os.listdir(tmp_path)) == [".lock", "a.json", "data", "results"]


def test_a_directory_that_another_config_made_meanwhile_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(
    "dorefa_study.workdir.check_workdir", lambda *_, **__: write_json(tmp_path / "a.json", {"bits": "8,8,8"})
  )
  with pytest.raises(UsageError, match="config.bits: 8,8,8 there"):
    opened(tmp_path)
