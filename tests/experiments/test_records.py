import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.records import append_line, read_json, read_lines, read_object, write_json, write_lines

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
