"""The sweep's runner with trials that are shell scripts: retries, reasons, resuming."""

import asyncio
import errno
import json
import pathlib
import signal

import pytest

from dorefa_study.config import DataConfig
from dorefa_study.executors import LocalExecutor, Slot
from dorefa_study.groups import to_record
from dorefa_study.plan import GridConfig, SweepConfig, plan_trials
from dorefa_study.records import write_json
from dorefa_study.runner import failure_reason, load_states, run_trials

DONE = {"status": "done", "best_test_accuracy": 0.5, "last_test_accuracy": 0.4}
SWEEP = SweepConfig(grid=GridConfig(bits=("1,2,4", "8,8,8"), widths=(0.5, 0.25)), data=DataConfig("street_digits"))


class ScriptedExecutor:
  """Answers each start of a trial with the next entry of its script: an exit code, or a result."""

  def __init__(self, scripts, slots=2):
    self.slots = [Slot(str(i), {}) for i in range(slots)]
    self.scripts, self.started = scripts, []

  async def run(self, arguments, directory, slot):
    self.started.append(directory.name)
    await asyncio.sleep(0)
    answer = self.scripts.get(directory.name, [DONE]).pop(0)
    if isinstance(answer, dict):
      (directory / "result.json").write_text(json.dumps(answer))
      return 0
    return answer

  def close(self):
    pass


def run(tmp_path, scripts):
  states = load_states(plan_trials(SWEEP), tmp_path)
  executor, lines = ScriptedExecutor(scripts), []
  finished = asyncio.run(run_trials(states, executor, [], lambda state, line: lines.append((state.trial.name, line))))
  assert finished
  return {state.trial.name: state for state in states}, executor, lines


def test_every_trial_runs_once_and_not_again(tmp_path):
  states, executor, _ = run(tmp_path, {})
  assert sorted(executor.started) == sorted(states)
  assert {state.status for state in states.values()} == {"done"}
  _, again, _ = run(tmp_path, {})
  assert again.started == []


def test_a_killed_trial_is_tried_once_more(tmp_path):
  name = "w0.5_1-2-4_s0"
  states, executor, lines = run(tmp_path, {name: [-9, DONE]})
  assert executor.started.count(name) == 2
  assert states[name].status == "done"
  assert (name, "killed by SIGKILL (out of memory?); one more try") in lines


def test_a_trial_that_fails_twice_is_a_result_with_a_reason_and_ends_nothing(tmp_path):
  name = "w0.5_1-2-4_s0"
  states, executor, _ = run(tmp_path, {name: [1, 1]})
  assert states[name].status == "failed"
  assert json.loads((tmp_path / "trials" / name / "result.json").read_text())["reason"].startswith("exit code 1")
  assert sum(state.status == "done" for state in states.values()) == 3
  states, executor, _ = run(tmp_path, {})  # the same command again gives it another chance
  assert executor.started == [name]
  assert states[name].status == "done"


def test_wrong_use_is_not_tried_again(tmp_path):
  name = "w0.5_1-2-4_s0"
  states, executor, _ = run(tmp_path, {name: [2]})
  assert executor.started.count(name) == 1
  assert states[name].status == "failed"


def test_a_diverged_trial_is_kept(tmp_path):
  name = "w0.5_1-2-4_s0"
  diverged = {"status": "diverged", "reason": "loss is nan"}
  states, *_ = run(tmp_path, {name: [diverged]})
  assert states[name].status == "diverged"
  _, executor, _ = run(tmp_path, {})
  assert executor.started == []


def test_a_trials_directory_holds_its_config(tmp_path):
  run(tmp_path, {})
  config = json.loads((tmp_path / "trials" / "w0.25_8-8-8_s0" / "config.json").read_text())
  assert config["bits"] == "8,8,8"
  assert config["model"]["width"] == 0.25


def test_failure_reasons(tmp_path):
  log = tmp_path / "log.txt"
  log.write_text("Traceback\n  ...\nRuntimeError: RESOURCE_EXHAUSTED: out of memory\n")
  assert failure_reason(1, log) == "exit code 1: RuntimeError: RESOURCE_EXHAUSTED: out of memory"
  assert failure_reason(-signal.SIGSEGV, log) == "killed by SIGSEGV"
  assert failure_reason(1, log, log.stat().st_size) == "exit code 1: no output"
  log.write_text("of an earlier attempt\n\n")
  assert failure_reason(130, log, log.stat().st_size) == "stopped by a signal: no output"


@pytest.mark.parametrize("number", range(1, signal.NSIG))
def test_every_signal_is_a_reason(number, tmp_path):
  assert failure_reason(-number, tmp_path / "none").startswith("killed by ")


def test_a_directory_in_use_is_tried_again_after_the_others_and_is_no_failure(tmp_path):
  name = "w0.5_1-2-4_s0"
  states, executor, _ = run(tmp_path, {name: [4, DONE]})
  assert states[name].status == "done"
  assert executor.started[-1] == name


def test_a_directory_that_stays_in_use_is_reported_and_left_alone(tmp_path):
  name = "w0.5_1-2-4_s0"
  states, executor, lines = run(tmp_path, {name: [4, 4]})
  assert states[name].status == "waiting"
  assert executor.started.count(name) == 2
  assert not (tmp_path / "trials" / name / "result.json").exists()
  assert sum(state.status == "done" for state in states.values()) == 3


@pytest.mark.parametrize("content", ["[]", "5", "", '{"status": "done"}', '{"status": "maybe"}'])
def test_a_damaged_result_runs_again(tmp_path, content):
  name = "w0.5_1-2-4_s0"
  run(tmp_path, {})
  (tmp_path / "trials" / name / "result.json").write_text(content)
  (tmp_path / "trials" / name / "config.json").write_text(content[:2])
  assert {state.trial.name: state.status for state in load_states(plan_trials(SWEEP), tmp_path)}[name] == "damaged"
  states, executor, _ = run(tmp_path, {})
  assert executor.started == [name]
  assert states[name].status == "done"


def test_a_full_disk_ends_a_trial_and_not_the_sweep(tmp_path, monkeypatch):
  def fail(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr("dorefa_study.runner.write_json", fail)
  states, *_ = run(tmp_path, {})
  assert {state.status for state in states.values()} == {"failed"}
  assert all("No space left" in state.result["reason"] for state in states.values())


def test_ignored_signals_stay_ignored(tmp_path):
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
  try:
    run(tmp_path, {})
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
  finally:
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -9 $$", -9)])
def test_local_executor_returns_exit_codes_and_signals(tmp_path, monkeypatch, script, code):
  command = ["sh", "-c", f"echo hello >&2; {script}"]
  monkeypatch.setattr("dorefa_study.executors.worker_process.worker_command", lambda slot, parent: command)
  monkeypatch.setattr("dorefa_study.executors.local._count_gpus", lambda: 0)
  executor = LocalExecutor(1)
  assert asyncio.run(executor.run([], tmp_path, executor.slots[0])) == code
  assert (tmp_path / "log.txt").read_text() == "hello\n"


def test_a_cancelled_trial_is_asked_to_stop(tmp_path, monkeypatch):
  script = "trap 'echo saved >&2; exit 130' TERM; echo up >&2; while true; do sleep 0.05; done"
  command = ["sh", "-c", script]
  monkeypatch.setattr("dorefa_study.executors.worker_process.worker_command", lambda slot, parent: command)
  monkeypatch.setattr("dorefa_study.executors.local._count_gpus", lambda: 0)

  async def cancel():
    executor = LocalExecutor(1)
    task = asyncio.ensure_future(executor.run([], tmp_path, executor.slots[0]))
    while not (tmp_path / "log.txt").exists() or "up" not in (tmp_path / "log.txt").read_text():
      await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
      await task

  asyncio.run(cancel())
  assert (tmp_path / "log.txt").read_text().endswith("saved\n")


def test_slots_share_cores_and_gpus(monkeypatch):
  from dorefa_study.executors.local import local_slots

  monkeypatch.setattr("dorefa_study.executors.local._count_gpus", lambda: 0)
  monkeypatch.setattr("os.sched_getaffinity", lambda _: {2, 5}, raising=False)
  assert [slot.core for slot in local_slots(0)] == [2, 5]
  assert [slot.core for slot in local_slots(3)] == [2, 5, 2]
  monkeypatch.setattr("dorefa_study.executors.local._count_gpus", lambda: 2)
  assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in local_slots(4)] == ["0", "1", "0", "1"]


def test_a_trial_whose_config_was_changed_is_not_trained_in_its_place(tmp_path):
  trial = plan_trials(SWEEP)[0]
  directory = tmp_path / "trials" / trial.name
  directory.mkdir(parents=True)
  changed = to_record(trial.config) | {"bits": "2,2,4"}
  write_json(directory / "config.json", changed)
  states, executor, _ = run(tmp_path, {})
  assert trial.name not in executor.started
  assert states[trial.name].status == "failed"
  assert "config.bits: 2,2,4 there, 1,2,4 here" in states[trial.name].result["reason"]
  assert json.loads((directory / "config.json").read_text()) == json.loads(json.dumps(changed))
  assert sum(state.status == "done" for state in states.values()) == 3


@pytest.mark.parametrize("lost", ["bits", "model"])
def test_what_a_trials_config_lacks_is_made_again(tmp_path, lost):
  trial = plan_trials(SWEEP)[0]
  directory = tmp_path / "trials" / trial.name
  directory.mkdir(parents=True)
  whole = to_record(trial.config)
  write_json(directory / "config.json", {name: value for name, value in whole.items() if name != lost})
  states, _, _ = run(tmp_path, {})
  assert states[trial.name].status == "done"
  assert json.loads((directory / "config.json").read_text()) == json.loads(json.dumps(whole))


def test_a_result_that_cannot_be_read_now_is_left_alone(tmp_path, monkeypatch):
  name, read_bytes = plan_trials(SWEEP)[0].name, pathlib.Path.read_bytes
  run(tmp_path, {})
  path = tmp_path / "trials" / name / "result.json"
  before = read_bytes(path)

  def refuse(self):
    if self == path:
      raise OSError(errno.EIO, "Input/output error", str(self))
    return read_bytes(self)

  monkeypatch.setattr(pathlib.Path, "read_bytes", refuse)
  states, executor, _ = run(tmp_path, {})
  assert executor.started == []
  assert states[name].status == "failed"
  assert "Input/output error" in states[name].result["reason"]
  assert read_bytes(path) == before
