"""Names and calls in configs: what is read, imported, and refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dorefa_study.errors import UsageError
from dorefa_study.objects import Call, check_arguments, import_object, parameters_of, parse_call


@pytest.mark.parametrize(
  ("text", "call"),
  [
    ("sgd", Call("sgd")),
    (" sgd( ) ", Call("sgd")),
    ("sgd(momentum=0.9, nesterov=True)", Call("sgd", (("momentum", 0.9), ("nesterov", True)))),
    ("step(at=(0.5, 0.75))", Call("step", (("at", (0.5, 0.75)),))),
    ("my.nets:Net(name='x')", Call("my.nets:Net", (("name", "x"),))),
  ],
)
def test_calls(text, call):
  assert parse_call(text, "config.x") == call


@pytest.mark.parametrize(
  "text",
  [
    "", "sgd(", "sgd(0.9)", "sgd(**{})", "sgd(m=open('x'))", "sgd()()", "sgd() + 1", "1", "a b", "a:b:c", "sgd(m=1",
    "__import__('os')",
  ],
)  # fmt: skip
def test_no_call_is_refused_and_nothing_runs(text):
  with pytest.raises(UsageError, match=r"config\.x"):
    parse_call(text, "config.x")


@given(st.text(max_size=30))
def test_any_text_is_a_call_or_one_line(text):
  with contextlib.suppress(UsageError):
    parse_call(text, "config.x")


def test_modules_are_found_from_the_current_directory(tmp_path, monkeypatch):
  (tmp_path / "mine_of_the_test.py").write_text("class Net:\n  size = 3\n\n\ndef broken():\n  pass\n")
  (tmp_path / "broken_of_the_test.py").write_text("x = 1\ny = x / 0\n")
  (tmp_path / "needy_of_the_test.py").write_text("import nothing_of_the_kind\n")
  monkeypatch.chdir(tmp_path)
  assert import_object("mine_of_the_test:Net", "config.x").size == 3
  assert import_object("mine_of_the_test:Net.size", "config.x") == 3
  for path, message in (
    ("mine_of_the_test:Nte", "config.x: mine_of_the_test has no 'Nte'; did you mean 'Net'?"),
    ("nobody_of_the_test:Net", "config.x: no module 'nobody_of_the_test'; looked in"),
    ("mine_of_the_test.inner:Net", "'mine_of_the_test' is a module, and has no 'inner'"),
    ("broken_of_the_test:y", r"raises ZeroDivisionError at .*broken_of_the_test.py:2: division by zero"),
    ("needy_of_the_test:y", "needy_of_the_test needs 'nothing_of_the_kind', which is not installed"),
  ):
    with pytest.raises(UsageError, match=message):
      import_object(path, "config.x")


def test_arguments_that_are_missing_or_unknown():
  def make(size, depth=3, *, bits=None):
    return size, depth, bits

  check_arguments(make, {"size": 1}, "config.model", given=("bits",))
  with pytest.raises(UsageError, match="config.model.size is needed, make has no default for it"):
    check_arguments(make, {}, "config.model")
  with pytest.raises(UsageError, match="config.model: no field 'bits'"):
    check_arguments(make, {"size": 1, "bits": 3}, "config.model", given=("bits",))
  assert list(parameters_of(make)) == ["size", "depth", "bits"]
