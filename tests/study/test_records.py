import errno
import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dorefa_study.records import (
  MEASURED,
  append_line,
  is_as_sealed,
  read_json,
  read_lines,
  read_object,
  seal,
  write_json,
  write_lines,
  write_text,
)

json_values = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=4)


@given(value=json_values)
def test_json_comes_back(tmp_path_factory, value):
  path = tmp_path_factory.mktemp("json") / "a.json"
  write_json(path, value)
  assert read_json(path) == value
  assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]


def test_damaged_and_missing_json_is_none(tmp_path):
  path = tmp_path / "a.json"
  assert read_json(path) is None
  for content in (b'{"a": ', b"", b"\xff\xfe{}", b"[" * 100_000, b"\x00" * 10):
    path.write_bytes(content)
    assert read_json(path) is None
  for content in (b"[]", b"5", b"null", b'"text"'):
    path.write_bytes(content)
    assert read_object(path) is None


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path, monkeypatch):
  path = tmp_path / "a.json"
  write_json(path, {"a": 1})

  def fail(_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr("os.fsync", fail)
  with pytest.raises(OSError, match="No space"):
    write_json(path, {"a": 2})
  assert read_json(path) == {"a": 1}
  assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


@given(count=st.integers(1, 5), cut=st.integers(1, 30), last=st.integers(0, 6))
def test_a_torn_line_is_dropped_and_takes_no_other_with_it(tmp_path_factory, count, cut, last):
  path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
  for step in range(count):
    append_line(path, {"step": step, "text": "x" * 20})
  whole = path.read_bytes()
  line = len(whole) // count
  path.write_bytes(whole[: len(whole) - cut])
  complete = count - -(-cut // line)
  assert [record["step"] for record in read_lines(path)] == list(range(complete))
  write_lines(path, [record for record in read_lines(path) if record["step"] <= last])
  append_line(path, {"step": 99})
  kept = [step for step in range(complete) if step <= last]
  assert [json.loads(text)["step"] for text in path.read_text().splitlines()] == [*kept, 99]


def test_damaged_lines_take_no_other_with_them(tmp_path):
  path = tmp_path / "metrics.jsonl"
  lines = [b'{"step": 1}', b"5", b"{}", b'{"st\xffep": 1}', b"[]", b"", b"[" * 100_000, b"\x00\x00", b'{"step": 2}']
  path.write_bytes(b"\n".join(lines) + b"\n")
  assert [record.get("step") for record in read_lines(path)] == [1, None, 2]
  path.unlink()
  assert read_lines(path) == []


def test_what_cannot_be_read_now_is_no_damage(tmp_path, monkeypatch):
  path = tmp_path / "a.json"
  path.write_text("{}\n")

  def refuse(self):
    raise PermissionError(errno.EACCES, "Permission denied", str(self))

  monkeypatch.setattr(pathlib.Path, "read_bytes", refuse)
  for read in (read_json, read_object, read_lines):
    with pytest.raises(PermissionError):
      read(path)


def test_texts_that_are_no_utf8_are_written_all_the_same(tmp_path):
  write_text(tmp_path / "a.html", "caf\udce9 \ud800")
  assert (tmp_path / "a.html").read_text() == "caf\\udce9 \\ud800"


@given(st.dictionaries(st.text(), st.integers() | st.floats() | st.text()), st.text(), st.integers())
def test_a_changed_record_is_noticed(record, name, value):
  sealed = seal(record)
  assert is_as_sealed(json.loads(json.dumps(sealed)))
  changed = json.loads(json.dumps(sealed | {name: value}))
  is_same = name in MEASURED or (name in sealed and sealed[name] == value and type(sealed[name]) is int)
  assert is_as_sealed(changed) == is_same
