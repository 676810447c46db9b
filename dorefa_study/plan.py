"""The trials of a sweep: what varies, their names, and how long they will take."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from dorefa_jax.bits import BitWidths
from dorefa_jax.ops import BACKENDS
from dorefa_study.axes import Axes, Axis, paired, resolve
from dorefa_study.config import DataConfig, TrainConfig, TrialConfig, parse_bits
from dorefa_study.errors import UsageError
from dorefa_study.groups import later, read, to_record
from dorefa_study.models import ModelConfig
from dorefa_study.records import read_object

PAPER_TABLES = ("", "table1_svhn", "table3_first_last")
LONGEST_NAME = 180
SWEEP = "sweep.json"
"""The file of a work directory that holds its study's config."""


@dataclasses.dataclass(frozen=True)
class GridConfig:
  """The paper's axes; a trial for every combination.

  Attributes:
    bits: settings (W, A, G), as tuples or "W,A,G"; none for the study's own.
    widths: channel widths of the model; none for the model's own.
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
    if not self.seeds:
      raise UsageError(f"{where}.seeds must have at least one value, got an empty tuple")
    self.settings(f"{where}.bits")
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
    grid: the paper's axes.
    vary: further axes: {field of a trial: its values}.
    zip: axes that are paired: the first values of all of them, the second ones, and so on.
    bits, method, rules, schedule, data, model, train: those of all trials, where they do not vary.
  """

  name: str = "sweep"
  paper_table: str = ""
  grid: GridConfig = GridConfig()
  data: DataConfig = DataConfig()
  model: ModelConfig = ModelConfig()
  train: TrainConfig = TrainConfig()
  bits: str = later("32,32,32")
  method: str = later("dorefa")
  rules: str = later("")
  schedule: str = later("")
  vary: Axes = later(Axes())
  zip: Axes = later(Axes())

  def check(self, where: str) -> None:
    """Raises UsageError for a value that no run can use."""
    if self.paper_table not in PAPER_TABLES:
      known = ", ".join(repr(name) for name in PAPER_TABLES)
      raise UsageError(f"{where}.paper_table must be one of {known}, got {self.paper_table!r}")
    parse_bits(self.bits, f"{where}.bits")
    if self.model.get("width") is not None:
      for index, width in enumerate(self.grid.widths):
        try:
          ModelConfig.from_fields(self.model.to_fields() | {"width": width}, "", is_record=False)
        except UsageError as error:
          raise UsageError(f"{where}.grid.widths[{index}]: {str(error).removeprefix('.')}") from None

  @property
  def base(self) -> TrialConfig:
    """The trial that everything varies of."""
    return TrialConfig(self.bits, self.data, self.model, self.train, self.method, self.rules, self.schedule)


def read_sweep(workdir: pathlib.Path) -> SweepConfig:
  """The study that a work directory was made for.

  Args:
    workdir: of a sweep, running or not.

  Raises:
    UsageError: it is none, or its record is damaged or lacks a field.
  """
  path = workdir / SWEEP
  saved = read_object(path)
  if saved is None:
    problem = f"a {SWEEP} that is damaged" if path.exists() else f"no {SWEEP}; name the work directory of a sweep"
    raise UsageError(f"--workdir: {workdir} holds {problem}")
  return read(SweepConfig, saved, f"--workdir: {path}: config", is_record=True)


@dataclasses.dataclass(frozen=True)
class Trial:
  """One point of a study.

  Attributes:
    name: its directory's name.
    bits: its bit widths.
    config: all of it.
    point: (field, value) of each field that an axis gives.
  """

  name: str
  bits: BitWidths
  config: TrialConfig
  point: tuple[tuple[str, Any], ...] = ()


def find_axes(sweep: SweepConfig) -> list[Axis]:
  """The axes of a study, the outermost first; channel widths come last, so that trials at once are of different shapes.

  Args:
    sweep: the study.

  Raises:
    UsageError: a field that does not exist, or is on two axes; a value of the wrong type.

  Example:
    >>> sweep = SweepConfig(vary=Axes(("method", "dorefa;bnn")), grid=GridConfig(bits=("1,1,4",)))
    >>> [axis.fields for axis in find_axes(sweep)]
    [('train.seed',), ('method',), ('model.quantize_first', 'model.quantize_last'), ('bits',), ('model.width',)]
  """
  base, grid, known = sweep.base, sweep.grid, dict(sweep.model.arguments)
  free = [*resolve(sweep.vary, base, "--vary"), *paired(resolve(sweep.zip, base, "--zip"), "--zip")]
  of_grid = [Axis(("train.seed",), tuple((seed,) for seed in grid.seeds))]
  if grid.backends and "backend" in known:
    of_grid.append(Axis(("model.backend",), tuple((backend,) for backend in grid.backends)))
  if "quantize_first" in known and "quantize_last" in known:
    own = (bool(known["quantize_first"]), bool(known["quantize_last"]))
    pairs = grid.first_last if grid.first_last != GridConfig().first_last else (own,)
    of_grid.append(Axis(("model.quantize_first", "model.quantize_last"), tuple((p[0], p[1]) for p in pairs)))
  if grid.bits:
    of_grid.append(Axis(("bits",), tuple((str(bits),) for bits in grid.settings())))
  if grid.widths and "width" in known:
    of_grid.append(Axis(("model.width",), tuple((width,) for width in grid.widths)))
  # What varies otherwise goes before the grid's, which always has seeds, say.
  taken = {field for axis in free for field in axis.fields}
  if len(taken) < sum(len(axis.fields) for axis in free):
    raise UsageError("--vary and --zip: a field is on two axes")
  kept = [axis for axis in of_grid if not taken & set(axis.fields)]
  axes = [*(axis for axis in kept if axis.fields == ("train.seed",)), *free]
  axes += [axis for axis in kept if axis.fields != ("train.seed",)]
  return sorted(axes, key=lambda axis: "train.seed" not in axis.fields)


def plan_trials(sweep: SweepConfig) -> list[Trial]:
  """All trials of a sweep.

  Args:
    sweep: the study.

  Returns:
    Trials with distinct names.

  Raises:
    UsageError: a trial that no run can use.

  Example:
    >>> sweep = SweepConfig(grid=GridConfig(bits=("1,2,4", "8,8,8"), widths=(0.5, 0.25)))
    >>> [trial.name for trial in plan_trials(sweep)]
    ['w0.5_1-2-4_s0', 'w0.25_1-2-4_s0', 'w0.5_8-8-8_s0', 'w0.25_8-8-8_s0']
  """
  axes, groups = find_axes(sweep), _Groups(sweep.base)
  marks = [[_place_of(axis) + (axis.mark(point),) for point in axis.points] for axis in axes]
  named = [
    [(mark, tuple(zip(axis.fields, point))) for mark, point in zip(texts, axis.points)]
    for axis, texts in zip(axes, marks)
  ]
  trials: dict[str, Trial] = {}
  for choice in itertools.product(*named):
    point = tuple(pair for _, pairs in choice for pair in pairs)
    name = _name([mark for mark, _ in choice])
    config, bits = groups.trial(point)
    if name in trials and trials[name].config != config:
      name = f"{name}_{len(trials)}"
    trials[name] = Trial(name, bits, config, point)
  return list(trials.values())


def _place_of(axis: Axis) -> tuple[int]:
  """Where an axis stands in a name: width, bits, exempt layers and backend, then what else varies, and seeds."""
  places = {"model.width": 0, "bits": 1, "model.quantize_first": 2, "model.backend": 3, "train.seed": 5}
  return (min(places.get(field, 4) for field in axis.fields),)


def _name(marks: Iterable[tuple[int, str]]) -> str:
  text = "_".join(mark for _, mark in sorted(marks, key=lambda mark: mark[0]) if mark) or "trial"
  if len(text) > LONGEST_NAME:
    import hashlib

    text = f"{text[: LONGEST_NAME - 9]}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
  return text


class _Groups:
  """Configs of trials, whose groups are read and checked once for each combination of their own fields."""

  def __init__(self, base: TrialConfig):
    self._base = base
    self._records: dict[str, Any] = to_record(base)
    self._read: dict[Any, Any] = {}
    self._bits: dict[str, BitWidths] = {}
    self._checked: set[Any] = set()

  def trial(self, point: tuple[tuple[str, Any], ...]) -> tuple[TrialConfig, BitWidths]:
    parts: dict[str, list[tuple[str, Any]]] = {}
    for field, value in point:
      group, _, inner = field.rpartition(".")
      parts.setdefault(group, []).append((inner, value))
    data, model, train = (self._group(name, tuple(parts.get(name, ()))) for name in ("data", "model", "train"))
    own = dict(parts.get("", ()))
    base = self._base
    texts = (
      own.get("bits", base.bits),
      own.get("method", base.method),
      own.get("rules", base.rules),
      own.get("schedule", base.schedule),
    )
    config = TrialConfig(texts[0], data, model, train, *texts[1:])
    key = (texts, model.name, data.image_size)
    if key not in self._checked:
      config.check("config")
      self._checked.add(key)
    if texts[0] not in self._bits:
      self._bits[texts[0]] = parse_bits(texts[0], "config.bits")
    return config, self._bits[texts[0]]

  def _group(self, name: str, fields: tuple[tuple[str, Any], ...]) -> Any:
    key = (name, fields)
    if key not in self._read:
      where = f"config.{name}"
      changed: Mapping[str, Any] = self._records[name] | dict(fields)
      kind = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig}[name]
      if kind is not ModelConfig:
        self._read[key] = read(kind, changed, where)
      else:
        is_other = dict(fields).get("name", self._base.model.name) != self._base.model.name
        self._read[key] = ModelConfig.from_fields(dict(fields) if is_other else changed, where, is_record=False)
    return self._read[key]


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
