"""The command that trains one trial of a sweep on its own."""

from __future__ import annotations

import functools
import shlex
from typing import Any

from dorefa_study.cli import load_config
from dorefa_study.commands import words_of
from dorefa_study.config import TrialConfig, read
from dorefa_study.groups import to_record
from dorefa_study.plan import Trial

BASE_CONFIG = "configs/svhn.py"


def trial_command(trial: Trial) -> str:
  """The command that trains one trial on its own.

  Args:
    trial: a trial of a sweep.

  Returns:
    A shell command, its directory under runs/.
  """
  overrides = _overrides(_base(), to_record(trial.config))
  words = [*words_of("train"), f"--config={BASE_CONFIG}", *overrides, f"--workdir=runs/{trial.name}"]
  return shlex.join(words)


@functools.cache
def _base() -> dict[str, Any]:
  return to_record(read(TrialConfig, load_config(BASE_CONFIG, {}).to_dict()))


def _overrides(base: Any, wanted: Any, field: str = "config") -> list[str]:
  if isinstance(wanted, dict):
    return [line for name in wanted for line in _overrides((base or {}).get(name), wanted[name], f"{field}.{name}")]
  if base == wanted:
    return []
  return [f"--{field}={tuple(wanted) if isinstance(wanted, (tuple, list)) else wanted}"]
