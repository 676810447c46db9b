import csv
import dataclasses
import errno
import html.parser
import io
import json
import pathlib
import re
import shlex

import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dorefa_study.cli import load_config, new_flags, parse
from dorefa_study.config import DataConfig, TrialConfig, read
from dorefa_study.groups import to_record
from dorefa_study.plan import GridConfig, SweepConfig, plan_trials
from dorefa_study.records import seal, write_json, write_lines
from dorefa_study.report import main, seconds_of_training, trial_command, write_report
from dorefa_study.report.charts import Series, bars, chart, ticks
from dorefa_study.report.trial_page import trial_page
from dorefa_study.runner import load_states
from dorefa_study.study import build_study, paper_numbers
from dorefa_study.terminal import study_table

SWEEP = SweepConfig(
  name="A <study> & more",
  paper_table="table1_svhn",
  grid=GridConfig(bits=("1,2,4", "32,32,32"), widths=(0.25, 0.125), seeds=(0, 1)),
  data=DataConfig("svhn"),
)
DATA = {"name": "street_digits", "asked_for": "svhn", "stand_in": True, "source": "generated", "train": 10, "test": 5}
SVHN = DATA | {"name": "svhn", "stand_in": False, "source": "files"}


class Checker(html.parser.HTMLParser):
  """Fails on tags that are not closed; collects what is loaded from elsewhere."""

  VOID = ("meta", "br", "input", "img")

  def __init__(self):
    super().__init__()
    self.open, self.loaded = [], []

  def handle_starttag(self, tag, attributes):
    if tag not in self.VOID:
      self.open.append(tag)
    self.loaded += [value for name, value in attributes if name in ("src", "href")]

  def elsewhere(self):
    """What is loaded of other places than the page itself and the files beside it."""
    return [value for value in self.loaded if not value.startswith(("#", "results.", "data:"))]

  def handle_startendtag(self, tag, attributes):
    self.loaded += [value for name, value in attributes if name in ("src", "href")]

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def embedded(page):
  """The data that a page's charts are drawn from."""
  return json.loads(page.partition('<script type="application/json" id="data">')[2].partition("</script>")[0])


@pytest.fixture
def workdir(tmp_path):
  for index, trial in enumerate(plan_trials(SWEEP)):
    directory = tmp_path / "trials" / trial.name
    directory.mkdir(parents=True)
    if index == 0:
      result = {"status": "failed", "reason": "killed by <SIGKILL>"}
    elif index == 1:
      continue  # still waiting
    else:
      result = {"status": "done", "best_test_accuracy": 0.5 + index / 100, "last_test_accuracy": 0.5, "device": "cpu"}
      lines = [{"epoch": e, "step": e, "test_accuracy": 0.1 * e + index / 100} for e in (1, 2, 3)]
      (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (directory / "result.json").write_text(json.dumps(result))
  return tmp_path


def test_report_is_one_well_formed_file_that_loads_nothing(workdir):
  write_report(SWEEP, build_study(SWEEP, workdir, DATA), workdir / "report.html", "python -m x --a='1;2'")
  text = (workdir / "report.html").read_text()
  checker = Checker()
  checker.feed(text)
  assert checker.open == []
  assert checker.elsewhere() == []
  assert "A &lt;study&gt; &amp; more" in text
  assert embedded(text)["trials"][0]["reason"] == "killed by <SIGKILL>"
  assert 'class="warn"' in text
  assert "0.939" not in text  # the paper's model C at (1,2,4), which is of other data
  write_report(SWEEP, build_study(SWEEP, workdir, SVHN), workdir / "report.html", "python -m x --a=<b>")
  assert "0.939" in (workdir / "report.html").read_text()


def test_report_of_nothing_yet(tmp_path):
  write_report(SWEEP, build_study(SWEEP, tmp_path, None), tmp_path / "report.html", "")
  data = embedded((tmp_path / "report.html").read_text())
  assert {trial["status"] for trial in data["trials"]} == {"waiting"}
  assert not any("accuracy" in setting or setting["curve"] for setting in data["settings"])


def test_study_means_over_seeds(workdir):
  study = build_study(SWEEP, workdir, DATA)
  row = next(row for row in study.rows if row.label == "32,32,32")
  values = row.cells[0].accuracies
  assert len(values) == 2
  assert row.cells[0].mean == pytest.approx(sum(values) / 2)
  assert "±" in row.cells[0].text
  assert row.cells[0].paper is None  # generated digits are not the paper's data
  real = build_study(SWEEP, workdir, SVHN)
  assert next(row for row in real.rows if row.label == "32,32,32").cells[0].paper == 0.972
  assert study.rows[0].cells[0].text.startswith("0.5")  # the failed seed is left out of the mean


def test_papers_numbers():
  table = paper_numbers("table1_svhn")
  assert len(table) == 78  # 20 rows x 4 models, (8,8,8) is missing for A and B
  assert table["8,8,8", "C"] == 0.970
  assert ("8,8,8", "A") not in table
  assert paper_numbers("table3_first_last")["1,2,4 + first + last", "B"] == 0.961
  assert paper_numbers("") == {}


def test_a_trials_command_gives_its_config_back():
  for trial in plan_trials(SWEEP):
    words = shlex.split(trial_command(trial))
    values = new_flags()
    flags.DEFINE_string("config", "", "", values)
    flags.DEFINE_string("workdir", "", "", values)
    flags_of = next(index for index, word in enumerate(words) if word.startswith("--"))
    line = parse(values, words[flags_of:], "", config=TrialConfig)
    config = load_config(line.flags.config, line.overrides, TrialConfig)
    assert read(TrialConfig, config.to_dict()) == trial.config


def test_report_command_names_a_wrong_directory(tmp_path, capsys):
  assert main([f"--workdir={tmp_path}"]) == 2
  assert re.match(r"error: --workdir: .* holds no sweep.json", capsys.readouterr().err)


@given(st.floats(-1e3, 1e3), st.floats(0, 1e3), st.booleans())
def test_ticks_enclose_the_range(low, span, whole):
  found = ticks(low, low + span, whole=whole)
  assert 2 <= len(found) <= 9
  assert found == sorted(set(found))
  assert found[0] <= low + 1e-6
  assert found[-1] >= low + span - 1e-6


@given(st.lists(st.tuples(st.floats(1, 1e12), st.floats(0, 1)), max_size=5), st.booleans())
def test_any_points_can_be_drawn(points, is_share):
  drawing = chart([Series("<a>", tuple(points))], x_label="x", y_label="y", is_share=is_share)
  assert "nan" not in drawing
  assert "<a>" not in drawing


@given(st.lists(st.integers(0, 10**9), max_size=50))
def test_any_histogram_can_be_drawn(counts):
  drawing = bars({"low": -1.0, "high": 2.5, "counts": counts}, title="<weights>")
  assert drawing.count("<rect") == len(counts)
  assert "<weights>" not in drawing


def test_backends_have_rows_of_their_own_and_curves_against_time(tmp_path):
  grid = GridConfig(bits=("1,2,4",), widths=(0.125,), backends=("emulated", "integer"), seeds=(0, 1))
  sweep = SweepConfig(grid=grid, paper_table="table1_svhn", data=DataConfig("svhn"))
  for trial in plan_trials(sweep):
    directory = tmp_path / "trials" / trial.name
    directory.mkdir(parents=True)
    rate = 1280.0 if trial.config.model.backend == "integer" else 640.0
    lines = [{"epoch": e, "step": 100 * e, "test_accuracy": 0.1 * e, "images_per_second": rate} for e in (1, 2)]
    lines[1]["images_per_second"] *= trial.config.train.seed  # 0: unknown, and taken as the other epoch's
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = {"status": "done", "best_test_accuracy": 0.2, "last_test_accuracy": 0.2, "device": "cpu"}
    (directory / "result.json").write_text(json.dumps(result))
  study = build_study(sweep, tmp_path, SVHN)
  assert [(row.label, len(row.cells[0].trials), row.cells[0].paper) for row in study.rows] == [
    ("1,2,4 emulated", 2, 0.878), ("1,2,4 integer", 2, 0.878),
  ]  # fmt: skip
  write_report(sweep, study, tmp_path / "report.html", "")
  settings = embedded((tmp_path / "report.html").read_text())["settings"]
  assert [point["seconds"] for setting in settings for point in setting["curve"]] == [20.0, 40.0, 10.0, 20.0]
  assert settings[0]["curve"][1]["test_accuracy"] == [0.2, 0.2, 0.2]
  records = [{"step": 100, "images_per_second": 640.0}, {"step": 200, "images_per_second": 1280.0}]
  assert seconds_of_training(records, 64) == [10.0, 15.0]


def write_results(directory, *statuses):
  sweep = dataclasses.replace(
    SWEEP, grid=GridConfig(bits=("1,2,4",), widths=(0.25,), seeds=tuple(range(len(statuses))))
  )
  for trial, status in zip(plan_trials(sweep), statuses):
    folder = directory / "trials" / trial.name
    folder.mkdir(parents=True)
    accuracy = 0.9 + 0.001 * trial.config.train.seed
    numbers = {"best_test_accuracy": accuracy, "last_test_accuracy": accuracy} if status == "done" else {"reason": "x"}
    (folder / "result.json").write_text(json.dumps({"status": status, **numbers}))
  return sweep, build_study(sweep, directory, None)


@pytest.mark.parametrize(
  ("statuses", "text", "missing"),
  [
    (["done"], "0.900", ""),
    (["diverged"], "diverged", "diverged"),
    (["done", "done", "done"], "0.901 ± 0.001", ""),
    (["done", "done", "diverged"], "0.901 ± 0.001 (2 of 3)", "1 diverged"),
    (["done", "failed", "diverged"], "0.900 (1 of 3)", "1 diverged, 1 failed"),
    (["failed", "failed", "diverged"], "1 diverged, 2 failed", "1 diverged, 2 failed"),
  ],
)
def test_a_mean_says_of_how_many(tmp_path, statuses, text, missing):
  sweep, study = write_results(tmp_path, *statuses)
  cell = study.rows[0].cells[0]
  assert (cell.text, cell.missing) == (text, missing)
  write_report(sweep, study, tmp_path / "report.html", "")
  page = (tmp_path / "report.html").read_text()
  row = re.search(r"<tr><th>1,2,4</th>(.*?)</td>", page).group(1)
  assert text.partition(" ")[0] in row
  assert ("±" in row) == ("±" in text)
  assert ('class="cell bad"' in row) == bool(missing)
  if " of 3" in text:
    assert f"{text[-7:-1]}: {missing}" in row
  assert missing in row
  console = Console(width=200, record=True, file=io.StringIO())
  console.print(study_table(study))
  terminal = console.export_text()
  assert text in terminal
  assert missing in terminal


DAMAGE = [b"", b"[]", b"5", b"null", b"{}", b'{"status": "done"}', b'{"status": 3}', b"\xff\xfe", b"[" * 100_000]
DAMAGE += [
  b'{"status": "done", "best_test_accuracy": null, "last_test_accuracy": 0.5}',
  b'{"status": "done", "best_test_accuracy": 1e999, "last_test_accuracy": 0.5}',
  b'{"status": "done", "best_test_accuracy": 0.5, "last_test_accuracy": 0.5, "images_per_second": "fast"}',
  b'{"status": "failed"}',
  b'{"status": "diverged", "reason": null}',
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_result_marks_its_trial_and_stops_nothing(workdir, damage):
  trials = plan_trials(SWEEP)
  (workdir / "trials" / trials[2].name / "result.json").write_bytes(damage)
  write_json(workdir / "sweep.json", to_record(SWEEP))
  assert main([f"--workdir={workdir}"]) == 0
  found = {trial["name"]: trial for trial in embedded((workdir / "report.html").read_text())["trials"]}
  assert found[trials[2].name]["status"] == "damaged"
  assert sorted(trial["accuracy"][0] for trial in found.values() if trial["status"] == "done") == [
    0.53, 0.54, 0.55, 0.56, 0.57,
  ]  # fmt: skip


@pytest.mark.parametrize(
  "damage", [*DAMAGE, b'{"epoch": 1}\n5\n[]\n{"epoch": null, "step": 1, "test_accuracy": "x"}\n']
)
def test_damaged_metrics_data_and_command_stop_nothing(workdir, damage):
  trials = plan_trials(SWEEP)
  (workdir / "data").mkdir()
  for path in (
    workdir / "trials" / trials[2].name / "metrics.jsonl",
    workdir / "data/data.json",
    workdir / "command.json",
  ):
    path.write_bytes(damage)
  write_json(workdir / "sweep.json", to_record(SWEEP))
  assert main([f"--workdir={workdir}"]) == 0


@pytest.mark.parametrize("damage", DAMAGE[:4] + DAMAGE[7:9])
def test_a_damaged_config_of_a_sweep_is_one_line(tmp_path, capsys, damage):
  (tmp_path / "sweep.json").write_bytes(damage)
  assert main([f"--workdir={tmp_path}"]) == 2
  assert "damaged" in capsys.readouterr().err


TRIAL = {"status": "done", "best_test_accuracy": 0.5, "last_test_accuracy": 0.5}
RESULTS = {
  "no device": TRIAL | {"images_per_second": 5.0},
  "a number of 400 digits": TRIAL | {"best_test_accuracy": 10**400},
  "a rate of 400 digits": TRIAL | {"images_per_second": 10**400, "device": "cpu"},
  "no UTF-8": {"status": "failed", "reason": "\ud800"},
  "changed": seal(TRIAL) | {"best_test_accuracy": 0.9},
}
LINES = [
  {"epoch": 10**400},
  {"step": 10**400},
  {"step": 1e308},
  {"test_accuracy": 10**400},
  {"images_per_second": 10**400},
  {"images_per_second": 5e-324},
]


@pytest.mark.parametrize("kind", RESULTS)
def test_no_record_of_one_trial_stops_the_report(workdir, kind):
  name = plan_trials(SWEEP)[0].name
  (workdir / "trials" / name / "result.json").write_text(json.dumps(RESULTS[kind]))
  write_report(SWEEP, build_study(SWEEP, workdir, DATA), workdir / "report.html", "")
  found = {trial["name"]: trial for trial in embedded((workdir / "report.html").read_text())["trials"]}
  assert len(found) == len(plan_trials(SWEEP))
  if kind not in ("no device", "no UTF-8"):
    assert found[name]["status"] == "damaged"
    assert "result.json is damaged" in found[name]["reason"]


@pytest.mark.parametrize("fields", LINES, ids=str)
def test_no_line_of_one_trial_stops_the_report(workdir, fields):
  sweep = dataclasses.replace(SWEEP, grid=dataclasses.replace(SWEEP.grid, backends=("auto",)))
  trial = plan_trials(sweep)[0]
  directory = workdir / "trials" / trial.name
  directory.mkdir()
  line = {"epoch": 1, "step": 1, "test_accuracy": 0.5, "images_per_second": 3.0}
  write_lines(directory / "metrics.jsonl", [line, line | {"epoch": 2, "step": 2} | fields])
  write_report(sweep, build_study(sweep, workdir, DATA), workdir / "report.html", "")
  setting = embedded((workdir / "report.html").read_text())["settings"][0]
  assert setting["curve"][0]["test_accuracy"] == [0.5, 0.5, 0.5]
  assert "epoch" in trial_page(load_states([trial], workdir)[0])


def test_a_trial_that_cannot_be_read_now_is_marked(workdir, monkeypatch):
  name, read_bytes = plan_trials(SWEEP)[2].name, pathlib.Path.read_bytes

  def refuse(self):
    if self.parent.name == name:
      raise PermissionError(errno.EACCES, "Permission denied", str(self))
    return read_bytes(self)

  monkeypatch.setattr(pathlib.Path, "read_bytes", refuse)
  write_report(SWEEP, build_study(SWEEP, workdir, DATA), workdir / "report.html", "")
  found = {trial["name"]: trial for trial in embedded((workdir / "report.html").read_text())["trials"]}
  assert found[name]["status"] == "failed"
  assert "[Errno 13] Permission denied" in found[name]["reason"]


@pytest.mark.parametrize("lost", ["all", "grid", "train"])
def test_a_sweep_without_a_field_is_one_line_and_its_report_stays(workdir, capsys, lost):
  saved = json.loads(json.dumps(to_record(SWEEP)))
  saved = {} if lost == "all" else {name: value for name, value in saved.items() if name != lost}
  (workdir / "sweep.json").write_text(json.dumps(saved))
  (workdir / "report.html").write_text("of yesterday")
  assert main([f"--workdir={workdir}"]) == 2
  error = capsys.readouterr().err
  assert "sweep.json: config." in error
  assert "is missing from this record" in error
  assert (workdir / "report.html").read_text() == "of yesterday"


def test_the_command_writes_tables_and_pages_of_trials(workdir):
  write_json(workdir / "sweep.json", to_record(SWEEP))
  assert main([f"--workdir={workdir}", "--pages"]) == 0
  rows = list(csv.DictReader((workdir / "results.csv").read_text().splitlines()))
  assert len(rows) == len(plan_trials(SWEEP))
  assert {row["status"] for row in rows} == {"failed", "waiting", "done"}
  assert float(rows[-1]["best_test_accuracy"]) == pytest.approx(0.57)
  assert int(rows[-1]["cost_macs"]) > 1e6
  assert json.loads((workdir / "results.json").read_text())[-1]["G"] == int(rows[-1]["G"])
  page = workdir / "trials" / rows[-1]["trial"] / "trial.html"
  checker = Checker()
  checker.feed(page.read_text())
  assert checker.open == []
  assert set(checker.loaded) == {"../../report.html", "metrics.jsonl", "result.json"}
  before = page.stat().st_mtime_ns
  assert main([f"--workdir={workdir}", "--pages"]) == 0
  assert page.stat().st_mtime_ns == before  # one that is newer than the result stays


def test_parquet_holds_what_the_csv_holds(workdir):
  parquet = pytest.importorskip("pyarrow.parquet")
  write_json(workdir / "sweep.json", to_record(SWEEP))
  assert main([f"--workdir={workdir}"]) == 0
  table = parquet.read_table(workdir / "results.parquet").to_pylist()
  assert table == json.loads((workdir / "results.json").read_text())
