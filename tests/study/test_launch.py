"""Shares of a sweep, and watching one from outside."""

import fcntl
import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dorefa_study import watch
from dorefa_study.errors import UsageError
from dorefa_study.executors.slurm import parse_parameters
from dorefa_study.groups import to_record
from dorefa_study.launch import Shard, cost_of
from dorefa_study.plan import GridConfig, SweepConfig, plan_trials
from dorefa_study.runner import load_states
from dorefa_study.watch import is_held, look

SWEEP = SweepConfig(grid=GridConfig(bits=("1,2,4", "8,8,8", "32,32,32"), widths=(0.5, 0.25), seeds=(0, 1, 2)))
DONE = {"status": "done", "best_test_accuracy": 0.5, "last_test_accuracy": 0.4}


@given(st.integers(1, 30))
def test_shares_are_disjoint_and_whole_and_take_as_long(count):
  trials = plan_trials(SWEEP)
  states = load_states(trials, pathlib.Path("/nowhere"))
  shares = [Shard(index + 1, count).of(states, 1000) for index in range(count)]
  assert sorted(state.trial.name for share in shares for state in share) == sorted(trial.name for trial in trials)
  costs = [sum(cost_of(1000, state.trial) for state in share) for share in shares]
  assert max(costs) - min(costs) <= max(cost_of(1000, trial) for trial in trials)


@pytest.mark.parametrize("text", ["1", "0/2", "3/2", "a/b", "1/2/3", "-1/2"])
def test_other_shares_are_refused(text):
  with pytest.raises(UsageError, match="--shard must be I/N"):
    Shard.parse(text)


def test_parameters_of_slurm():
  found = parse_parameters("partition=cpu,slurm_account=me,timeout_min=30,cluster=local")
  assert found == {"slurm_partition": "cpu", "slurm_account": "me", "timeout_min": 30, "cluster": "local"}
  for text in ("partition", "a b=3", "partition="):
    with pytest.raises(UsageError, match="--slurm must be parameters"):
      parse_parameters(text)


def test_a_held_directory_runs_and_what_ends_is_told(tmp_path):
  states = load_states(plan_trials(SWEEP), tmp_path)
  assert look(states) == []
  first = states[0]
  first.directory.mkdir(parents=True)
  with open(first.directory / ".lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert is_held(first.directory)
    assert look(states) == [(first, "running")]
    assert look(states) == []
  assert not is_held(first.directory)
  (first.directory / "result.json").write_text(json.dumps(DONE))
  assert look(states) == [(first, "done: best 50.00%, last 40.00%")]
  assert look(states) == []


def test_watching_once_prints_how_it_stands(tmp_path, capsys):
  assert watch.main([f"--workdir={tmp_path}"]) == 2
  assert "holds no sweep.json" in capsys.readouterr().err
  (tmp_path / "sweep.json").write_text(json.dumps(to_record(SWEEP)))
  for state in load_states(plan_trials(SWEEP), tmp_path)[:2]:
    state.directory.mkdir(parents=True)
    (state.directory / "result.json").write_text(json.dumps(DONE))
  before = sorted(path.name for path in tmp_path.rglob("*"))
  assert watch.main([f"--workdir={tmp_path}", "--once"]) == 0
  assert "0.500" in capsys.readouterr().out
  assert sorted(path.name for path in tmp_path.rglob("*")) == before
