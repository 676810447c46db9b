"""Any field is an axis: names, values, pairs, and tables that follow from what varies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dorefa_study.axes import Axes, number
from dorefa_study.cli import load_config, new_flags, parse
from dorefa_study.config import read
from dorefa_study.errors import UsageError
from dorefa_study.groups import completed, to_record
from dorefa_study.plan import GridConfig, SweepConfig, plan_trials
from dorefa_study.study import build_study

BITS = GridConfig(bits=("1,1,4",), widths=(0.25,))


def sweep(grid=BITS, **groups):
  return SweepConfig(grid=grid, **{name: Axes(*fields.items()) for name, fields in groups.items()})


def names(study):
  return [trial.name for trial in plan_trials(study)]


def test_the_issue_of_it():
  trials = plan_trials(
    sweep(vary={"train.learning_rate": "1e-3;3e-3", "method": "dorefa;bnn;xnor_net", "seed": "0;1;2"})
  )
  assert len(trials) == len({trial.name for trial in trials}) == 18
  assert trials[0].name == "w0.25_1-1-4_learning_rate0.001_dorefa_s0"
  config = next(trial.config for trial in trials if trial.name == "w0.25_1-1-4_learning_rate0.003_bnn_s2")
  assert (config.train.learning_rate, config.method, config.train.seed) == (3e-3, "bnn", 2)


def test_values_of_every_type():
  study = sweep(
    vary={
      "train.halve_at": "0.5,0.75;0.9", "train.flip": "true;false", "model.dropout_rate": "0;0.5",
      "method": "fda_bnn(omega=0.1, terms=9.0);bnn", "rules": "fc=1,1,32;conv6=1,1,8 fc=1,1,2",
    }
  )  # fmt: skip
  trials = plan_trials(study)
  assert len(trials) == len({trial.name for trial in trials}) == 32
  assert {trial.config.train.halve_at for trial in trials} == {(0.5, 0.75), (0.9,)}
  assert {trial.config.model.dropout_rate for trial in trials} == {0.0, 0.5}


def test_pairs_beside_products():
  study = sweep(zip={"bits": "1,1,4;1,1,8", "batch_size": "32;64"}, vary={"seed": (0, 1)})
  assert names(study) == [
    "w0.25_1-1-4_batch_size32_s0", "w0.25_1-1-8_batch_size64_s0",
    "w0.25_1-1-4_batch_size32_s1", "w0.25_1-1-8_batch_size64_s1",
  ]  # fmt: skip


@pytest.mark.parametrize(
  ("groups", "message"),
  [
    ({"vary": {"learning_rat": "1;2"}}, "--vary: no field 'learning_rat'; did you mean"),
    ({"vary": {"train.learning_rate": "1;x"}}, "--vary.train.learning_rate must be values such as"),
    ({"vary": {"train.learning_rate": "1;-1"}}, "config.train.learning_rate must be a number above 0, got -1.0"),
    ({"vary": {"name": "a;b"}}, "--vary.name: there are several, data.name and model.name; write one of them"),
    ({"vary": {"method": "dorefa;nothing"}}, "config.method must be package.module:function or of the library"),
    ({"vary": {"seed": "1;1"}}, "--vary.seed: 1;1 has a value twice"),
    ({"vary": {"method": ";"}}, "--vary.method must be several values"),
    (
      {"zip": {"bits": "1,1,4;1,1,8", "seed": "1"}},
      "paired fields need as many values each: bits has 2, train.seed has 1",
    ),
    ({"vary": {"seed": "1;2"}, "zip": {"seed": "3;4"}}, "a field is on two axes"),
    ({"vary": {"bits": "1,2,4"}, "zip": {"method": "bnn"}}, "config.method: bnn at bits 1,2,4"),
  ],
)
def test_what_is_wrong_is_named(groups, message):
  with pytest.raises(UsageError) as error:
    plan_trials(sweep(**groups))
  assert message in str(error.value)


def test_command_lines_and_configs_say_the_same(tmp_path):
  (tmp_path / "mine.py").write_text(
    "def get_config():\n"
    "  return {'bits': '1,1,4', 'vary': {'train': {'learning_rate': (1e-3, 3e-3)}, 'method': ('dorefa', 'bnn')}}\n"
  )
  values = new_flags()
  line = parse(values, ["--vary.train.learning_rate=1e-3;3e-3", "--vary.method=dorefa;bnn"], "", config=SweepConfig)
  (tmp_path / "blank.py").write_text("def get_config():\n  return {'bits': '1,1,4'}\n")
  one = read(SweepConfig, load_config(str(tmp_path / "mine.py"), {}, SweepConfig).to_dict())
  other = read(SweepConfig, load_config(str(tmp_path / "blank.py"), line.overrides, SweepConfig).to_dict())
  assert sorted(names(one)) == sorted(names(other)) == [
    f"w1_{method}_learning_rate{rate}_s0" for method in ("bnn", "dorefa") for rate in ("0.001", "0.003")
  ]  # fmt: skip
  again = read(SweepConfig, to_record(other), is_record=True)
  assert names(again) == names(other)


def test_records_of_earlier_versions_are_read():
  record = to_record(SweepConfig(grid=BITS))
  old = {
    name: value for name, value in record.items() if name not in ("vary", "zip", "method", "rules", "schedule", "bits")
  }
  old["model"] = {name: value for name, value in record["model"].items() if name != "name"}
  old["train"] = dict(list(record["train"].items())[:10])
  assert read(SweepConfig, old, is_record=True) == read(SweepConfig, record, is_record=True)
  assert completed(SweepConfig, old) | {"model": record["model"]} == record


def test_columns_are_of_what_varies(tmp_path):
  study = build_study(sweep(vary={"method": "dorefa;bnn", "learning_rate": "1e-3;3e-3"}), tmp_path, None)
  assert study.columns == ("0.001", "0.003")
  assert [row.label for row in study.rows] == ["1,1,4 dorefa", "1,1,4 bnn"]
  widths = build_study(sweep(GridConfig(bits=("1,1,4",), widths=(0.5, 0.25)), vary={"seed": "0;1"}), tmp_path, None)
  assert (widths.columns, widths.seeds) == (("B", "C"), 2)
  assert [len(cell.trials) for row in widths.rows for cell in row.cells] == [2, 2]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_told_apart(value):
  assert float(number(value)) == value


def test_a_large_grid_is_planned_at_once():
  import time

  grid = GridConfig(bits=tuple(f"{w},{a},{g}" for w in (1, 2, 4, 8) for a in (1, 2, 4, 8) for g in (2, 4, 6, 8)))
  study = sweep(grid, vary={"seed": ";".join(map(str, range(100))), "learning_rate": "1e-3;3e-3"})
  start = time.monotonic()
  assert len(plan_trials(study)) == 12_800
  assert time.monotonic() - start < 5
