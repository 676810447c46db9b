import pytest

from dorefa_study.config import DataConfig, read
from dorefa_study.errors import UsageError
from dorefa_study.models import model_name
from dorefa_study.plan import GridConfig, SweepConfig, duration, plan_trials


def test_a_trial_for_every_combination_with_a_name_of_its_own():
  grid = GridConfig(
    bits=("1,2,4", (8, 8, 8)), widths=(0.5, 0.25), first_last=((False, False), (True, True)), seeds=(0, 1, 2)
  )
  trials = plan_trials(SweepConfig(grid=grid, data=DataConfig("street_digits")))
  assert len(trials) == len({trial.name for trial in trials}) == 24
  chosen = next(trial for trial in trials if trial.name == "w0.25_8-8-8_first_last_s2")
  assert chosen.config.bits == "8,8,8"
  assert chosen.config.model.width == 0.25
  assert chosen.config.model.quantize_first
  assert chosen.config.model.quantize_last
  assert chosen.config.train.seed == 2
  assert chosen.config.data.name == "street_digits"


def test_the_same_cell_twice_is_one_trial():
  grid = GridConfig(bits=("1,2,4", (1, 2, 4)), widths=(0.5,))
  assert len(plan_trials(SweepConfig(grid=grid))) == 1


def test_backends_are_compared_trial_by_trial():
  sweep = SweepConfig(grid=GridConfig(bits=("1,2,4",), widths=(0.5,), backends=("emulated", "integer"), seeds=(0, 1)))
  named = {trial.name: trial.config.model.backend for trial in plan_trials(sweep)}
  assert named == {f"w0.5_1-2-4_{backend}_s{s}": backend for s in (0, 1) for backend in ("emulated", "integer")}
  with pytest.raises(UsageError, match=r"config.grid.backends must be of 'auto', 'emulated', 'integer', got 'fast'"):
    GridConfig(bits=("1,2,4",), backends=("fast",)).check("config.grid")


def test_the_papers_table_is_eighty_trials():
  from dorefa_study.cli import load_config

  sweep = read(SweepConfig, load_config("configs/svhn_grid.py:paper", {}).to_dict())
  assert len(plan_trials(sweep)) == 80
  assert not sweep.data.stand_in
  assert sweep.data.extra


def test_names_and_durations():
  assert [model_name(width) for width in (1.0, 0.5, 0.25, 0.125, 0.3)] == ["A", "B", "C", "D", "width 0.3"]
  assert [duration(seconds) for seconds in (0, 59.6, 3600, 90000)] == ["0 s", "1 min", "1 h", "1 d 1 h"]
