"""The page of a trial: what it was, how it went, and its files."""

from __future__ import annotations

import contextlib
import html
import json
import pathlib
from typing import Any

from dorefa_study.groups import to_record
from dorefa_study.records import read_object, write_text
from dorefa_study.report.charts import Series, bars, chart
from dorefa_study.report.commands_of_trials import trial_command
from dorefa_study.report.curves import layer_curves, read_records
from dorefa_study.results import PROBE
from dorefa_study.runner import TrialState, describe

PAGE = "trial.html"
FILES = ("log.txt", "metrics.jsonl", "config.json", "result.json", "data.json", PROBE)
STYLE = pathlib.Path(__file__).parent / "style.css"


def write_trial_page(state: TrialState, *, replace: bool = True) -> None:
  """Writes a trial's page into its directory.

  Args:
    state: the trial.
    replace: False leaves a page that is newer than the result.

  Raises:
    OSError: it cannot be written.
  """
  path = state.directory / PAGE
  with contextlib.suppress(OSError):
    if not replace and path.stat().st_mtime >= (state.directory / "result.json").stat().st_mtime:
      return
  write_text(path, trial_page(state))


def trial_page(state: TrialState) -> str:
  """A trial's page as HTML.

  Args:
    state: the trial.
  """
  result, records = state.result or {}, read_records(state.directory)
  links = " ".join(f'<a href="{name}">{name}</a>' for name in FILES if (state.directory / name).exists())
  config = json.dumps(to_record(state.trial.config), indent=2)
  body = [
    f'<p class="soft"><a href="../../report.html">the study</a></p><h1>{_text(state.trial.name)}</h1>',
    f"<p>{_text(describe(result) if result else state.status)}</p><p>{links}</p>",
    _table(result),
    f'<h2>Curves</h2><div class="plots">{_curves(records)}</div>' if records else "",
    _layers(state, records),
    f"<h2>How to run this again</h2><pre>{_text(trial_command(state.trial))}</pre>",
    f"<details><summary>Config</summary><pre>{_text(config)}</pre></details>",
  ]
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>{_text(state.trial.name)}</title><style>{STYLE.read_text()}</style></head><body>{''.join(body)}</body></html>\n"
  )


def _table(result: dict[str, Any]) -> str:
  rows = []
  for name, value in result.items():
    if name == "seal" or value is None:
      continue
    text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
    text = f"{text:.4g}" if isinstance(text, float) else str(text)
    rows.append(f"<tr><th>{_text(name.replace('_', ' '))}</th><td>{_text(text)}</td></tr>")
  return f'<div class="wide"><table>{"".join(rows)}</table></div>' if rows else ""


def _curves(records: list[dict[str, Any]]) -> str:
  drawn = []
  groups = (
    ("accuracy", ("test_accuracy", "validation_accuracy", "train_accuracy"), True),
    ("loss", ("train_loss",), False),
  )
  for title, names, is_share in groups:
    series = [
      Series(
        name.replace("_", " "), tuple((line["epoch"], line[name]) for line in records if _is_number(line.get(name)))
      )
      for name in names
    ]
    drawn.append(f"<div>{chart(series, x_label='epoch', y_label=title, is_share=is_share)}</div>")
  return "".join(drawn)


def _layers(state: TrialState, records: list[dict[str, Any]]) -> str:
  curves = layer_curves(records) if records else {}
  epochs = curves.pop("epoch", {}).get("", [])
  drawn = []
  for metric, layers in curves.items():
    series = [Series(layer, tuple(zip(epochs, values))) for layer, values in layers.items()]
    title = metric.replace("_", " ")
    drawn.append(f"<div><h3>{_text(title)}</h3>{chart(series, x_label='epoch', y_label=title, is_share=False)}</div>")
  probed: dict[str, Any] = {}
  with contextlib.suppress(OSError):
    probed = read_object(state.directory / PROBE) or {}
  for layer, found in probed.items():
    if not isinstance(found, dict):
      continue
    pictures = "".join(
      f"<div>{bars(found[kind], title=kind)}</div>"
      for kind in ("weights", "activations", "gradients")
      if isinstance(found.get(kind), dict) and found[kind].get("counts")
    )
    drawn.append(f"<div><h3>{_text(layer)}</h3>{pictures}</div>")
  return f'<h2>Layers</h2><div class="plots">{"".join(drawn)}</div>' if drawn else ""


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text(value: str) -> str:
  return html.escape(value)
