"""The page of a report: one HTML file that needs nothing else to be read."""

from __future__ import annotations

import base64
import functools
import html
import json
import pathlib
from collections.abc import Sequence
from datetime import datetime

from dorefa_study.claims import FAILS, HOLDS, examine
from dorefa_study.groups import to_record
from dorefa_study.plan import SweepConfig, duration
from dorefa_study.records import write_text
from dorefa_study.report.data import page_data
from dorefa_study.report.heat_map import heat_map
from dorefa_study.results import STATUSES
from dorefa_study.runner import TrialState
from dorefa_study.study import Study, all_states

HERE = pathlib.Path(__file__).parent
LIBRARIES = ("vendor/vega.min.js", "vendor/vega-lite.min.js", "vendor/vega-embed.min.js")
SECTIONS = {
  "table": "Table", "claims": "Claims", "costs": "Cost", "curves": "Curves", "layers-section": "Layers",
  "trials": "Trials", "again": "Run again",
}  # fmt: skip
METRICS = ("test_accuracy", "validation_accuracy", "train_accuracy", "train_loss", "learning_rate")


def write_report(sweep: SweepConfig, study: Study, path: pathlib.Path, command: str) -> None:
  """Writes the report of a sweep as one self-contained HTML file.

  Args:
    sweep: its config.
    study: its results so far.
    path: the file, replaced as a whole.
    command: that ran the sweep.
  """
  states = all_states(study)
  body = [
    f"<h1>{_text(sweep.name)}</h1>",
    _meta(study, states),
    _stand_in(study),
    f"<nav>{''.join(f'<a href=#{name}>{title}</a>' for name, title in SECTIONS.items())}</nav>",
    _samples(path.parent / "data" / "samples.png", study),
    f'<h2 id="table">Accuracy by setting</h2>{heat_map(study)}',
    _claims(states),
    _costs(),
    _curves(),
    _layers(),
    _trials(),
    _again(sweep, command),
  ]
  page = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>{_text(sweep.name)}</title><style>{_asset('style.css')}</style></head>"
    f'<body data-view="accuracy">{"".join(body)}'
    f'<script type="application/json" id="data">{page_data(study)}</script>'
    f"{''.join(f'<script>{_asset(name)}</script>' for name in LIBRARIES)}"
    f"<script>{_asset('app.js')}</script></body></html>\n"
  )
  write_text(path, page)


@functools.cache
def _asset(name: str) -> str:
  return (HERE / name).read_text()


def _meta(study: Study, states: Sequence[TrialState]) -> str:
  finished = sum(state.status in STATUSES for state in states)
  results = [state.result for state in states if state.result]
  spent = sum(result.get("seconds") or 0.0 for result in results)
  hosts = sorted({str(result["host"]) for result in results if result.get("host")})
  commits = sorted({str(result["commit"]) for result in results if result.get("commit")})
  parts = [f"{finished} of {len(states)} trials have ended"]
  parts += [f"{duration(spent)} of training"] if spent else []
  parts += [f"on {', '.join(hosts[:4])}{' and others' if len(hosts) > 4 else ''}"] if hosts else []
  parts += [f"commit {', '.join(commits[:3])}"] if commits else []
  parts.append(datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"))
  data = study.data
  line = "" if data is None else (
    f"Data: {data['name']} ({data['source']}), {data['train']:,} training and {data['test']:,} test images."
  )  # fmt: skip
  return f'<p class="soft">{_text("; ".join(parts))}.<br>{_text(line)}</p>'


def _stand_in(study: Study) -> str:
  if study.data is None or not study.data["stand_in"]:
    return ""
  return (
    f'<p class="warn">No {_text(study.data["asked_for"])} was found: {_text(study.data["name"])}, generated images '
    "that look alike, stands in for it. Do not compare these accuracies with the paper&#39;s.</p>"
  )


def _samples(path: pathlib.Path, study: Study) -> str:
  try:
    picture = base64.b64encode(path.read_bytes()).decode()
  except OSError:
    return ""
  return f'<p><img class="samples" alt="training images, a column a class" src="data:image/png;base64,{picture}"></p>'


def _claims(states: Sequence[TrialState]) -> str:
  found = examine(states)
  if not found:
    return '<h2 id="claims">Claims</h2><p class="soft">The settings tell nothing of the paper&#39;s claims yet.</p>'
  classes = {HOLDS: "holds", FAILS: "fails"}
  items = "".join(
    f'<li>{_text(claim.statement)}: <b class="{classes.get(claim.verdict, "open")}">{claim.verdict}</b>. '
    f'<span class="soft">{_text(claim.evidence)}.</span></li>'
    for claim in found
  )
  return (
    '<h2 id="claims">The paper&#39;s claims on these data</h2><p class="soft">Each from pairs of trials that differ in '
    f'one thing alone, with the 95 % interval of the mean.</p><ul class="claims">{items}</ul>'
  )


def _costs() -> str:
  kinds = (("inference", "inference"), ("training", "training"), ("bytes", "bytes"))
  switches = "".join(
    f"<label><input type=radio name=cost value={name}{' checked' if name == 'inference' else ''}> {title}</label>"
    for name, title in kinds
  )
  return (
    '<h2 id="costs">Accuracy against cost</h2><p class="soft">Of the layers that the study quantizes; the exempt '
    "ones, the same in every setting of a model, are left out. The dashed line joins settings that no cheaper one "
    "beats.</p>"
    f'<div class="switch">{switches}</div><div class="plot" id="cost-plot"></div>'
  )


def _curves() -> str:
  options = "".join(f'<option value="{name}">{name.replace("_", " ")}</option>' for name in METRICS)
  return (
    '<h2 id="curves">Training curves</h2><p class="soft">Means over seeds, and the range of the seeds as a band.</p>'
    f'<div class="switch"><select id="curve-metric" aria-label="metric">{options}</select>'
    '<select id="curve-x" aria-label="against"><option value="epoch">by epoch</option>'
    '<option value="seconds">by seconds of training</option></select></div>'
    '<details id="curve-more"><summary>Choose settings</summary><div class="picks" id="curve-picks"></div></details>'
    '<div class="plots" id="curve-plots"></div>'
  )


def _layers() -> str:
  return (
    '<section id="layers-section"><h2>Layers</h2><p class="soft">Of one trial of a setting.</p>'
    '<div class="switch"><select id="layer-setting" aria-label="setting"></select></div>'
    '<div class="plots" id="layer-plots"></div></section>'
  )


def _trials() -> str:
  files = "".join(f'<a href="results.{kind}">results.{kind}</a> ' for kind in ("csv", "json", "parquet"))
  return (
    '<h2 id="trials">Trials</h2><div class="switch"><input type=search id="trial-filter" placeholder="filter" '
    f'aria-label="filter"><span class="soft" id="trial-count"></span><span class="soft">{files}</span></div>'
    '<div class="wide"><table class="trials" id="trial-table"><thead></thead><tbody></tbody></table></div>'
  )


def _again(sweep: SweepConfig, command: str) -> str:
  config = json.dumps(to_record(sweep), indent=2)
  return (
    '<h2 id="again">How to run this again</h2>'
    + (f"<pre>{_text(command)}</pre>" if command else "")
    + f"<details><summary>Config</summary><pre>{_text(config)}</pre></details>"
  )


def _text(value: str) -> str:
  return html.escape(value)
