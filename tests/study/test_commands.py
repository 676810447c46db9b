"""The installed commands, and how messages name them."""

import importlib
import pathlib
import tomllib

import pytest

from dorefa_study import commands

ROOT = pathlib.Path(__file__).parents[2]


def test_every_command_is_installed_and_has_a_main():
  scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
  assert scripts == {f"dorefa-{name}": f"dorefa_study.commands:{name}" for name in commands.MODULES}
  for name in commands.MODULES:
    assert callable(getattr(commands, name))
    assert callable(importlib.import_module(f"dorefa_study.{name}").main)


def test_what_is_missing_is_named(monkeypatch, capsys):
  def fail(name):
    raise ModuleNotFoundError("No module named 'rich'", name="rich")

  monkeypatch.setattr(importlib, "import_module", fail)
  assert commands.run("sweep") == 2
  assert capsys.readouterr().err == "error: dorefa-sweep needs rich; pip install 'dorefa-jax[study]'\n"


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("experiments.sweep", ["python", "-m", "experiments.train"]),
    ("dorefa_study.sweep", ["python", "-m", "dorefa_study.train"]),
    ("pytest.__main__", ["dorefa-train"]),
    (None, ["dorefa-train"]),
  ],
)
def test_commands_are_named_as_they_are_run(monkeypatch, name, words):
  import sys
  import types

  main = types.ModuleType("__main__")
  main.__spec__ = None if name is None else types.SimpleNamespace(name=name)
  monkeypatch.setitem(sys.modules, "__main__", main)
  assert commands.words_of("train") == words


def test_the_library_imports_nothing_of_the_study():
  import subprocess
  import sys

  code = (
    "import sys, dorefa_jax; bad = {'optax', 'orbax', 'tensorflow_datasets', 'scipy', 'PIL', 'rich', 'ml_collections'};"
    "print(sorted(bad & {name.partition('.')[0] for name in sys.modules} - set(sys.argv[1:])))"
  )
  of_flax = "import sys, flax.linen, flax.nnx; print(*{name.partition('.')[0] for name in sys.modules})"
  flax = subprocess.run([sys.executable, "-c", of_flax], capture_output=True, text=True, check=True).stdout.split()
  found = subprocess.run([sys.executable, "-c", code, *flax], capture_output=True, text=True, check=True).stdout
  assert found.strip() == "[]"
