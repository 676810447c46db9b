import json

from hypothesis import given
from hypothesis import strategies as st

from experiments.records import append_line, read_json, read_lines, truncate_lines, write_json

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
  path.write_text('{"a": ')
  assert read_json(path) is None


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
  truncate_lines(path, last)
  append_line(path, {"step": 99})
  kept = [step for step in range(complete) if step <= last]
  assert [json.loads(text)["step"] for text in path.read_text().splitlines()] == [*kept, 99]


def test_truncating_a_missing_log_makes_none(tmp_path):
  truncate_lines(tmp_path / "none.jsonl", 3)
  assert not list(tmp_path.iterdir())
