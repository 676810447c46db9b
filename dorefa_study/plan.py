"""The trials of a sweep: the grid, their names, and how long they will take."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

from dorefa_jax.bits import BitWidths
from dorefa_jax.ops import BACKENDS
from dorefa_study.config import DataConfig, TrainConfig, TrialConfig, parse_bits
from dorefa_study.errors import UsageError
from dorefa_study.models import ModelConfig, check_width

PAPER_TABLES = ("", "table1_svhn", "table3_first_last")


@dataclasses.dataclass(frozen=True)
class GridConfig:
  """The axes of a study; a trial for every combination.

  Attributes:
    bits: settings (W, A, G), as tuples or "W,A,G".
    widths: channel widths of the model.
    first_last: pairs (quantize the first layer, quantize the last one).
    backends: backends of training, to compare them; none for the model's own.
    seeds: seeds of training.
  """

  bits: tuple[Any, ...] = ()
  widths: tuple[float, ...] = (1.0,)
  first_last: tuple[tuple[bool, ...], ...] = ((False, False),)
  backends: tuple[str, ...] = ()
  seeds: tuple[int, ...] = (0,)

  def check(self, where: str) -> None:
    """Raises UsageError for an axis that is empty, or a value that no run can use."""
    for field in dataclasses.fields(self):
      if field.name != "backends" and not getattr(self, field.name):
        raise UsageError(f"{where}.{field.name} must have at least one value, got an empty tuple")
    self.settings(f"{where}.bits")
    for index, width in enumerate(self.widths):
      check_width(width, f"{where}.widths[{index}]")
    for pair in self.first_last:
      if len(pair) != 2:
        raise UsageError(f"{where}.first_last must be pairs (first, last) of true or false, got {pair}")
    for backend in self.backends:
      if backend not in BACKENDS:
        raise UsageError(f"{where}.backends must be of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
    if not all(0 <= seed < 2**31 for seed in self.seeds):
      raise UsageError(f"{where}.seeds must be integers from 0 to 2^31 - 1, got {self.seeds}")

  def settings(self, where: str = "config.grid.bits") -> list[BitWidths]:
    """The bit widths; one setting may stand without a tuple around it.

    Example:
      >>> GridConfig(bits=(1, 2, 4)).settings() == GridConfig(bits=("1,2,4",)).settings()
      True
    """
    one = len(self.bits) == 3 and all(isinstance(width, int) for width in self.bits)
    return [parse_bits(value, where) for value in ((self.bits,) if one else self.bits)]


@dataclasses.dataclass(frozen=True)
class SweepConfig:
  """A study.

  Attributes:
    name: heads the report.
    paper_table: table of the paper whose numbers stand beside the results: "table1_svhn", "table3_first_last" or "".
    grid: what varies.
    data: data of all trials.
    model: model of all trials; `width`, `quantize_first` and `quantize_last` come from the grid, and so does
      `backend` where the grid has any.
    train: recipe of all trials; `seed` comes from the grid.
  """

  name: str = "sweep"
  paper_table: str = ""
  grid: GridConfig = GridConfig()
  data: DataConfig = DataConfig()
  model: ModelConfig = ModelConfig()
  train: TrainConfig = TrainConfig()

  def check(self, where: str) -> None:
    """Raises UsageError for a value that no run can use."""
    if self.paper_table not in PAPER_TABLES:
      known = ", ".join(repr(name) for name in PAPER_TABLES)
      raise UsageError(f"{where}.paper_table must be one of {known}, got {self.paper_table!r}")


@dataclasses.dataclass(frozen=True)
class Trial:
  """One cell of the grid.

  Attributes:
    name: its directory's name.
    bits: its bit widths.
    config: all of it.
  """

  name: str
  bits: BitWidths
  config: TrialConfig


def plan_trials(sweep: SweepConfig) -> list[Trial]:
  """All trials of a sweep, widths alternating so that several at once are of different shapes.

  Args:
    sweep: the study.

  Returns:
    Trials with distinct names.

  Example:
    >>> sweep = SweepConfig(grid=GridConfig(bits=("1,2,4", "8,8,8"), widths=(0.5, 0.25)))
    >>> [trial.name for trial in plan_trials(sweep)]
    ['w0.5_1-2-4_s0', 'w0.25_1-2-4_s0', 'w0.5_8-8-8_s0', 'w0.25_8-8-8_s0']
  """
  grid = sweep.grid
  trials: dict[str, Trial] = {}
  settings = [(bits, str(bits), str(bits).replace(",", "-")) for bits in grid.settings()]
  # Copies of a config are made once for each value of its axes: grids may have hundreds of thousands of trials.
  models = [
    [_model(sweep.model, width, pair, backend) for width in grid.widths]
    for backend, pair in itertools.product(grid.backends or (None,), grid.first_last)
  ]
  for seed in grid.seeds:
    train = dataclasses.replace(sweep.train, seed=seed)
    for of_widths, (bits, text, mark) in itertools.product(models, settings):
      for model, (start, marks) in of_widths:
        name = f"{start}_{mark}{marks}_s{seed}"
        config = TrialConfig(text, sweep.data, model, train)
        if name in trials and trials[name].config != config:
          raise UsageError(
            f"config.grid.widths: {model.width} and {trials[name].config.model.width} are too close to tell apart"
          )
        trials[name] = Trial(name, bits, config)
  return list(trials.values())


def _model(
  model: ModelConfig, width: float, pair: tuple[bool, ...], backend: str | None
) -> tuple[ModelConfig, tuple[str, str]]:
  """A model of the grid, and how the names of its trials begin and end."""
  model = dataclasses.replace(model, width=width, quantize_first=pair[0], quantize_last=pair[1])
  if backend is not None:
    model = dataclasses.replace(model, backend=backend)
  marks = ("_first" if pair[0] else "") + ("_last" if pair[1] else "") + (f"_{backend}" if backend else "")
  return model, (f"w{width:g}", marks)


def duration(seconds: float) -> str:
  """A duration for people.

  Example:
    >>> duration(75), duration(7500), duration(2.5 * 86400)
    ('1 min 15 s', '2 h 5 min', '2 d 12 h')
  """
  whole = round(seconds)
  units: Iterable[tuple[int, str]] = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
  parts: list[str] = []
  for size, unit in units:
    if whole >= size or (unit == "s" and not parts):
      parts.append(f"{whole // size} {unit}")
      whole %= size
    elif parts:
      break
  return " ".join(parts[:2])
