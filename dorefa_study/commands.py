"""The installed commands, `dorefa-sweep` and its like, and how a message names them."""

from __future__ import annotations

import importlib
import sys

MODULES = ("sweep", "train", "evaluate", "report", "watch", "freeze", "predict")
"""Modules with a function `main`, each a command."""


def run(module: str) -> int:
  """Runs a command, or says in one line what must be installed for it.

  Args:
    module: one of `MODULES`.

  Returns:
    Its exit code.

  Example:
    >>> run("nothing")
    Traceback (most recent call last):
      ...
    ValueError: module must be one of sweep, train, evaluate, report, watch, freeze, predict, got 'nothing'
  """
  if module not in MODULES:
    raise ValueError(f"module must be one of {', '.join(MODULES)}, got {module!r}")
  try:
    main = importlib.import_module(f"dorefa_study.{module}").main
  except ModuleNotFoundError as error:
    print(f"error: dorefa-{module} needs {error.name}; pip install 'dorefa-jax[study]'", file=sys.stderr)
    return 2
  return int(main())


def sweep() -> int:
  """`dorefa-sweep`."""
  return run("sweep")


def train() -> int:
  """`dorefa-train`."""
  return run("train")


def evaluate() -> int:
  """`dorefa-evaluate`."""
  return run("evaluate")


def report() -> int:
  """`dorefa-report`."""
  return run("report")


def watch() -> int:
  """`dorefa-watch`."""
  return run("watch")


def freeze() -> int:
  """`dorefa-freeze`."""
  return run("freeze")


def predict() -> int:
  """`dorefa-predict`."""
  return run("predict")


def words_of(module: str) -> list[str]:
  """The words with which this process's user would run another command.

  Args:
    module: one of `MODULES`.

  Returns:
    `python -m experiments.train` in a checkout, where commands are run so; `dorefa-train` where they are installed.

  Example:
    >>> words_of("train")
    ['dorefa-train']
  """
  spec = getattr(sys.modules.get("__main__"), "__spec__", None)
  package = spec.name.rpartition(".")[0] if spec is not None else ""
  return ["python", "-m", f"{package}.{module}"] if package in ("experiments", "dorefa_study") else [f"dorefa-{module}"]
