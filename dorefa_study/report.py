"""Writes a sweep's report: `python -m experiments.report --workdir=runs/svhn_grid`."""

from __future__ import annotations

import contextlib
import html
import itertools
import json
import math
import pathlib
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from dorefa_study.charts import Series, chart
from dorefa_study.cli import define_path, load_config, new_flags, parse
from dorefa_study.commands import words_of
from dorefa_study.config import TrialConfig, read
from dorefa_study.costs import costs_of
from dorefa_study.errors import UsageError, one_line_errors
from dorefa_study.groups import to_record
from dorefa_study.plan import SweepConfig, Trial
from dorefa_study.records import read_object, write_text
from dorefa_study.results import STATUSES, read_data_record, read_metrics
from dorefa_study.runner import TrialState, describe
from dorefa_study.study import WIDTH, Cell, Study, all_states, build_study

BASE_CONFIG = "configs/svhn.py"
STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5c6b7a; --line: #d8dee6; --back: #fff; --warn: #fdf0d5;
  --bad: #c0392b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9ef; --soft: #9aa7b5; --line: #36414d; --back: #161b22; --warn: #4a3a12; --bad: #ff8a75; }
}
body { margin: 0 auto; max-width: 1080px; padding: 1rem; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { margin-top: 2.2rem; font-size: 1.2rem; }
.warn { background: var(--warn); border-radius: 6px; padding: .7rem 1rem; font-weight: 700; }
.soft { color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } td small { opacity: .75; }
.heat td.cell { min-width: 5.2rem; border: 2px solid var(--back); border-radius: 6px; }
.heat td.bad { outline: 2px dashed var(--bad); outline-offset: -4px; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); gap: 1.5rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font: 13px system-ui, sans-serif; }
svg .grid { stroke: var(--line); } .key { width: 22px; height: 8px; margin-right: .4rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: 0; font-size: .9rem; }
.legend span { white-space: nowrap; }
pre { overflow-x: auto; padding: .6rem; border: 1px solid var(--line); border-radius: 6px; font-size: .8rem; }
details { border-bottom: 1px solid var(--line); padding: .35rem 0; } summary { cursor: pointer; }
"""


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command.

  Args:
    argv: arguments, without the program's name.

  Returns:
    0, or 2 for wrong use.
  """
  values = new_flags()
  define_path("workdir", None, "of a sweep, finished or not", flag_values=values, required=True)
  workdir = parse(values, sys.argv[1:] if argv is None else argv, __doc__ or "").flags.workdir
  saved = read_object(workdir / "sweep.json")
  if saved is None:
    is_there = (workdir / "sweep.json").exists()
    problem = "a sweep.json that is damaged" if is_there else "no sweep.json; name the work directory of a sweep"
    raise UsageError(f"--workdir: {workdir} holds {problem}")
  sweep = read(SweepConfig, saved, f"--workdir: {workdir / 'sweep.json'}: config", is_record=True)
  command, data = "", None
  with contextlib.suppress(OSError):  # a report without them is better than none
    command = str((read_object(workdir / "command.json") or {}).get("command", ""))
    data = read_data_record(workdir / "data" / "data.json")
  write_report(sweep, build_study(sweep, workdir, data), workdir / "report.html", command)
  print(f"report: {workdir / 'report.html'}")
  return 0


def write_report(sweep: SweepConfig, study: Study, path: pathlib.Path, command: str) -> None:
  """Writes the report of a sweep as one self-contained HTML file.

  Args:
    sweep: its config.
    study: its results so far.
    path: the file, replaced as a whole.
    command: that ran the sweep.
  """
  states = all_states(study)
  finished = sum(state.status in STATUSES for state in states)
  body = [
    f"<h1>{_text(sweep.name)}</h1>",
    _stand_in(study),
    f"<p>{finished} of {len(states)} trials have ended. {_data_line(study)}</p>",
    "<h2>Accuracy by setting</h2>",
    _heat_map(study, sweep),
    "<h2>Accuracy against cost</h2>",
    '<p class="soft">Cost of one image: multiply-accumulates times W times A, of the layers that the study '
    "quantizes; the exempt ones, the same in every setting of a model, are left out.</p>",
    f'<div class="plots"><div>{_cost_chart(study)}</div></div>',
    "<h2>Training curves</h2>",
    f'<div class="plots">{"".join(_curves(study, index) for index in range(len(study.columns)))}</div>',
    *(_time_curves(study) if "model.backend" in study.varied else []),
    "<h2>Trials</h2>",
    "".join(_trial(state) for state in states),
    "<h2>How to run this again</h2>",
    f"<pre>{_text(command)}</pre>" if command else "",
    f"<details><summary>Config</summary><pre>{_text(json.dumps(to_record(sweep), indent=2))}</pre></details>",
  ]
  page = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>{_text(sweep.name)}</title><style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
  )
  write_text(path, page)


def trial_command(trial: Trial) -> str:
  """The command that trains one trial on its own.

  Args:
    trial: a cell of the grid.

  Returns:
    A shell command, its directory under runs/.
  """
  base = read(TrialConfig, load_config(BASE_CONFIG, {}).to_dict())
  overrides = _overrides(to_record(base), to_record(trial.config))
  words = [*words_of("train"), f"--config={BASE_CONFIG}", *overrides, f"--workdir=runs/{trial.name}"]
  return shlex.join(words)


def _overrides(base: Any, wanted: Any, field: str = "config") -> list[str]:
  if isinstance(wanted, dict):
    return [line for name in wanted for line in _overrides(base.get(name), wanted[name], f"{field}.{name}")]
  if base == wanted:
    return []
  return [f"--{field}={tuple(wanted) if isinstance(wanted, (tuple, list)) else wanted}"]


def _stand_in(study: Study) -> str:
  if study.data is None or not study.data["stand_in"]:
    return ""
  return (
    f'<p class="warn">No {_text(study.data["asked_for"])} was found: {_text(study.data["name"])}, generated images '
    "that look alike, stands in for it. Do not compare these accuracies with the paper&#39;s.</p>"
  )


def _data_line(study: Study) -> str:
  if study.data is None:
    return ""
  data = study.data
  return _text(f"Data: {data['name']} ({data['source']}), {data['train']:,} training and {data['test']:,} test images.")


def _heat_map(study: Study, sweep: SweepConfig) -> str:
  values = [cell.mean for row in study.rows for cell in row.cells if cell.mean is not None]
  low, high = (min(values), max(values)) if values else (0.0, 1.0)
  # Results before costs: on a phone the columns further right are out of sight.
  head = ["setting", *(_text(model) for model in study.columns), "training", "inference", "storage"]
  lines = [f"<tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>"]
  for row in study.rows:
    cost = row.complexity
    costs = [("" if value is None else str(value)) for value in (cost.training, cost.inference, cost.storage)]
    cells = "".join(_heat_cell(cell, low, high) for cell in row.cells)
    lines.append(f"<tr><td>{_text(row.label)}</td>{cells}{''.join(f'<td>{value}</td>' for value in costs)}</tr>")
  paper = ", the paper's on SVHN below it" if sweep.paper_table else ""
  seeds = ", mean and standard deviation over seeds" if study.seeds > 1 else ""
  partial = (
    " A dashed frame marks cells with trials that diverged or failed, which no mean includes."
    if any(
      trial.status in ("diverged", "failed", "damaged")
      for row in study.rows
      for cell in row.cells
      for trial in cell.trials
    )
    else ""
  )
  caption = (
    f"Best test accuracy{seeds}{paper}.{partial} Training, inference and storage complexity as the paper defines them."
  )
  return f'<p class="soft">{_text(caption)}</p><div class="wide"><table class="heat">{"".join(lines)}</table></div>'


def _heat_cell(cell: Cell, low: float, high: float) -> str:
  paper = "" if cell.paper is None else f"<br><small>{cell.paper:.3f}</small>"
  statuses = {trial.status for trial in cell.trials}
  mark = " bad" if statuses & {"diverged", "failed", "damaged"} else ""
  if cell.mean is None:
    return f'<td class="cell{mark}">{_text(cell.text)}{paper}</td>'
  if not cell.is_complete:
    paper = f"<br><small>{_text(cell.missing)}</small>{paper}"
  share = (cell.mean - low) / (high - low) if high > low else 1.0
  lightness = 93 - 55 * share
  ink = "#fff" if lightness < 62 else "#12202e"
  colors = f"background:hsl(212 60% {lightness:.0f}%);color:{ink}"
  return f'<td class="cell{mark}" style="{colors}">{_text(cell.text)}{paper}</td>'


def _cost_chart(study: Study) -> str:
  series = []
  for index, column in enumerate(study.columns):
    points, labels = [], []
    for row in study.rows:
      cell = row.cells[index]
      operations = _bit_operations(cell, study)
      if cell.mean is not None and operations:
        points.append((operations, cell.mean))
        labels.append(f"{column}, {row.label}: {cell.text}")
    series.append(Series(_column_title(study, index), tuple(points), tuple(labels)))
  return chart(series, x_label="bit operations for one image", y_label="best test accuracy", log_x=True, lines=False)


def _column_title(study: Study, index: int) -> str:
  column = study.columns[index]
  if study.column_field == WIDTH:
    return f"model {column}" if len(column) == 1 else column
  return column if not study.column_field else f"{study.column_field.rpartition('.')[2]} {column}"


def _bit_operations(cell: Cell, study: Study) -> float:
  if not cell.trials:
    return 0.0
  data = study.data or {}
  shape, classes = data.get("shape") or [40, 40, 3], data.get("classes") or 10
  costs = costs_of(cell.trials[0].trial.config, (shape[0], shape[1], shape[2]), classes)
  return 0.0 if costs is None else float(costs.inference)


def _time_curves(study: Study) -> list[str]:
  plots = "".join(_curves(study, index, by_time=True) for index in range(len(study.columns)))
  return [
    "<h2>Training curves against time</h2>",
    '<p class="soft">Seconds of training at each epoch\'s measured rate, without compilation and evaluation.</p>',
    f'<div class="plots">{plots}</div>',
  ]


def _curves(study: Study, index: int, *, by_time: bool = False) -> str:
  series = []
  for color, row in enumerate(study.rows):
    for state in row.cells[index].trials:
      records = _records(state.directory)
      seed = f", seed {state.trial.config.train.seed}" if len(row.cells[index].trials) > 1 else ""
      at = (
        seconds_of_training(records, state.trial.config.train.batch_size)
        if by_time
        else [line["epoch"] for line in records]
      )
      points = tuple((x, line["test_accuracy"]) for x, line in zip(at, records))
      labels = tuple(f"{row.label}{seed}, epoch {line['epoch']}: {line['test_accuracy']:.3f}" for line in records)
      one = Series(row.label, points, labels, color) if by_time else Series(row.label + seed, points, labels)
      series.append(one)
  drawing = chart(series, x_label="seconds" if by_time else "epoch", y_label="test accuracy")
  return f"<div><h3>{_text(_column_title(study, index).capitalize())}</h3>{drawing}</div>"


def _records(directory: pathlib.Path) -> list[dict[str, Any]]:
  try:
    return read_metrics(directory)
  except OSError:  # of one trial, whose curve is left out
    return []


def seconds_of_training(records: Sequence[Mapping[str, Any]], batch_size: int) -> list[float]:
  """Seconds of training until the end of each epoch, without compilation and evaluation.

  Args:
    records: lines of `metrics.jsonl`; an epoch whose rate is unknown is taken to be as fast as the others.
    batch_size: images of a step.

  Example:
    >>> lines = [{"step": 10, "images_per_second": 64.0}, {"step": 20, "images_per_second": 0.0}]
    >>> seconds_of_training(lines, 128)
    [20.0, 40.0]
  """
  rates = [line["images_per_second"] for line in records if line.get("images_per_second")]
  usual = statistics.median(rates) if rates else math.inf
  steps = [0, *(line["step"] for line in records)]
  spent = [
    (now - before) * batch_size / (line.get("images_per_second") or usual)
    for before, now, line in zip(steps, steps[1:], records)
  ]
  return list(itertools.accumulate(spent))


def _trial(state: TrialState) -> str:
  result = state.result or {}
  line = describe(result) if result else state.status
  facts = []
  if result.get("images_per_second"):
    facts.append(f"{result['images_per_second']:.0f} training images/s on {result.get('device', 'an unknown device')}")
  if result.get("params_digest"):
    facts.append(f"parameters' digest {result['params_digest']}")
  if result.get("versions"):
    facts.append(", ".join(f"{name} {version}" for name, version in result["versions"].items()))
  details = _text("; ".join(facts))
  return (
    f"<details><summary><b>{_text(state.trial.name)}</b>: {_text(line)}</summary>"
    f'<p class="soft">{details}</p><pre>{_text(trial_command(state.trial))}</pre></details>'
  )


def _text(value: str) -> str:
  return html.escape(value)


if __name__ == "__main__":
  sys.exit(main())
