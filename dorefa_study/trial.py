"""One trial: training with evaluation, checkpoints and records, resumed bit by bit."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dorefa_study.checkpoints import Checkpoints, digest
from dorefa_study.config import TrialConfig, phase
from dorefa_study.data import DataError, Dataset
from dorefa_study.data.feeds import Feed
from dorefa_study.data.images import resize, to_unit
from dorefa_study.data.streamed import Streamed
from dorefa_study.machine import describe_machine
from dorefa_study.networks import build_network
from dorefa_study.probe import PROBED_IMAGES, build_probe, describe
from dorefa_study.progress import Progress, Reporter
from dorefa_study.records import append_line, read_object, seal, write_json, write_lines
from dorefa_study.results import CHECKPOINTS, DATA, METRICS, PROBE, RESULT, complete_epochs, read_metrics
from dorefa_study.session import Loaded, ready
from dorefa_study.starts import Teacher, find_teacher, start_from
from dorefa_study.steps import Programs, Steps, TrainState, build_steps, zero_totals
from dorefa_study.trackers import OpenTracker, Tracker, scalars
from dorefa_study.weights import weight_statistics

EVALUATION_BATCH = 500
STEPS_BETWEEN_CHECKS = 20
"""The loss is read, and found to be finite or not, once in so many steps: reading waits for the device."""
BATCH_TO_START_FROM = 64
"""Images from which a method that learns something of activations starts."""


class Interrupted(Exception):
  """The trial was asked to stop, and has saved where it stands."""


@dataclasses.dataclass
class _Run:
  """What the parts of a running trial share."""

  config: TrialConfig
  directory: pathlib.Path
  programs: Programs
  teacher: Teacher | None
  key: jax.Array
  data: Loaded
  steps_per_epoch: int
  checkpoints: Checkpoints
  reporter: Reporter
  should_stop: Callable[[], bool]
  started: float = dataclasses.field(default_factory=time.monotonic)
  """When the epoch began, in this process."""
  input_seconds: float = 0.0
  """Time in it that was spent waiting for images."""
  built: dict[str, Steps] = dataclasses.field(default_factory=dict)

  def steps(self, step: int) -> Steps:
    """The functions at a step: others where the schedule has changed the bit widths."""
    total = self.steps_per_epoch * self.config.train.epochs
    config = phase(self.config, step / total)
    if config.bits not in self.built:
      height, width, channels = self.data.train.shape
      self.built[config.bits] = build_steps(
        config,
        channels=channels,
        total_steps=total,
        num_classes=self.data.num_classes,
        size=(height, width),
        programs=self.programs,
        teacher=self.teacher,
      )
    return self.built[config.bits]


def run_trial(
  config: TrialConfig,
  dataset: Dataset | Streamed | Loaded,
  directory: pathlib.Path,
  *,
  reporter: Reporter,
  should_stop: Callable[[], bool] = lambda: False,
  open_tracker: OpenTracker | None = None,
  programs: Programs | None = None,
) -> dict[str, Any]:
  """Trains, or goes on training, and returns the result, which `result.json` holds too.

  Batches and noise are functions of (seed, step): the parameters at the end do not depend
  on how often the trial was stopped, or killed, and started again.

  Args:
    config: the trial.
    dataset: the images that `config.data` asks for, or what stands in for them.
    directory: directory for metrics, checkpoints and result; may hold those of an earlier run of the same config.
    reporter: told about the progress.
    should_stop: asked after every step.
    open_tracker: makes what is told of the metrics, told the step that training goes on from.
    programs: compiled functions that other trials of this process share.

  Returns:
    The result: status "done", or "diverged" with a reason; accuracies; digests.

  Raises:
    Interrupted: `should_stop` said so; a checkpoint is saved.
    DataError: there are fewer training images than a batch has, or other images than before; or a record is damaged.
    CheckpointError: a checkpoint cannot be read, and is not known to be damaged.
    UsageError: the config asks for what the network, or another trial, does not have.
  """
  data = dataset if isinstance(dataset, Loaded) else ready(dataset, config.data)
  run = _start(config, data, directory, reporter, should_stop, programs or Programs())
  status: dict[str, Any] = {"status": "done"}
  try:
    state = _resume(run)
    tracker = open_tracker(int(state.step)) if open_tracker else None
    for epoch in range(int(state.step) // run.steps_per_epoch, config.train.epochs):
      state, loss = _train_epoch(run, state, epoch)
      if not math.isfinite(loss):
        status = {"status": "diverged", "reason": f"loss is {loss} by step {int(state.step)}, in epoch {epoch + 1}"}
        break
      metrics = _end_epoch(run, state, epoch) | {"seconds": time.monotonic() - run.started}
      run.started, run.input_seconds = time.monotonic(), 0.0
      append_line(directory / METRICS, seal(metrics))
      if tracker is not None:
        tracker.log(metrics["step"], scalars(metrics))
      state = dataclasses.replace(state, totals=zero_totals(state.params))
      run.checkpoints.save(state)
      if epoch + 1 < config.train.epochs and should_stop():
        raise Interrupted
  finally:
    run.checkpoints.close()
  if config.train.probe and status["status"] == "done":
    _probe(run, state)
  result = status | _result(run, state, epochs_done=epoch if status["status"] == "diverged" else config.train.epochs)
  write_json(directory / RESULT, seal(result))
  _finish(tracker, result)
  return result


def _start(
  config: TrialConfig,
  data: Loaded,
  directory: pathlib.Path,
  reporter: Reporter,
  should_stop: Callable[[], bool],
  programs: Programs,
) -> _Run:
  images = data.train.count
  steps_per_epoch = images // config.train.batch_size
  if steps_per_epoch == 0:
    raise DataError(f"config.train.batch_size: {config.train.batch_size} is more than the {images} training images")
  new, before = data.record, read_object(directory / DATA)
  if (directory / DATA).exists() and not (before and isinstance(before.get("digest"), str)):
    raise DataError(
      f"{directory / DATA} is damaged, which says what images this trial began on; delete it to go on on "
      f"{new['name']} ({new['source']})"
    )
  if before is not None and before["digest"] != new["digest"]:
    raise DataError(
      f"{directory}: this trial began on {before.get('name')} ({before.get('source')}) and would go on on "
      f"{new['name']} ({new['source']}), which holds other images; bring the first back, or name a new directory"
    )
  write_json(directory / DATA, new)
  return _Run(
    config=config,
    directory=directory,
    programs=programs,
    teacher=find_teacher(config),
    key=jax.random.key(config.train.seed),
    data=data,
    steps_per_epoch=steps_per_epoch,
    checkpoints=Checkpoints(directory / CHECKPOINTS),
    reporter=reporter,
    should_stop=should_stop,
  )


def _resume(run: _Run) -> TrainState:
  """The state that training goes on from, the records of its epochs on disk, and no others.

  An epoch whose record is lost is trained again, to the same bits: from the newest checkpoint before it.
  """
  records = read_metrics(run.directory)
  recorded = complete_epochs(records)
  last = (recorded + 1) * run.steps_per_epoch - 1
  newest = run.checkpoints.latest_step()
  state = None
  if newest is not None:
    like = jax.eval_shape(run.steps(0).init, jax.random.key(0), _first_images(run))
    state = run.checkpoints.restore(like, at_most=last)
  if newest is not None and newest > last:
    print(
      f"{METRICS} has no record of epoch {recorded + 1}, which checkpoint {newest} has passed; training goes on "
      f"from step {0 if state is None else int(state.step)}",
      flush=True,
    )
  if state is None:
    state = run.steps(0).init(jax.random.fold_in(run.key, 0), _first_images(run))
    state = start_from(run.config, state) if run.config.train.init_from else state
  done = int(state.step) // run.steps_per_epoch
  if (run.directory / METRICS).exists():
    write_lines(run.directory / METRICS, records[:done])
  return state


def _first_images(run: _Run) -> Any:
  """The images from which a method that learns starts; None for others, whose variables do not depend on images."""
  if not run.steps(0).learns:
    return None
  order = epoch_order(run.config.train.seed, 0, run.data.train.count, BATCH_TO_START_FROM)
  images, _, indices = next(iter(run.data.train.batches(order[None])))
  return images[indices]


def epoch_order(seed: int, epoch: int, images: int, used: int) -> np.ndarray:
  """The order of the images in an epoch.

  Args:
    seed: the trial's seed.
    epoch: number of the epoch, from 0.
    images: number of images.
    used: how many of them the epoch uses.

  Returns:
    [used] int32 indices, a pure function of the arguments.

  Example:
    >>> sorted(epoch_order(0, 0, 5, 5).tolist())
    [0, 1, 2, 3, 4]
  """
  return np.random.default_rng([seed, epoch]).permutation(images)[:used].astype(np.int32)


def _train_epoch(run: _Run, state: TrainState, epoch: int) -> tuple[TrainState, float]:
  """Trains to the end of the epoch, or to a loss that is not finite; returns the epoch's mean loss."""
  batch_size, count = run.config.train.batch_size, run.steps_per_epoch
  images = run.data.train.count
  batches = epoch_order(run.config.train.seed, epoch, images, count * batch_size).reshape(count, batch_size)
  step_key = jax.random.fold_in(run.key, 1)
  teaching = None if run.teacher is None else run.teacher.variables
  first = position = int(state.step) - epoch * count
  start: float | None = None
  loss = 0.0
  feed = run.data.train.batches(batches[position:])
  while position < count:
    steps = run.steps(epoch * count + position)
    control = steps.control(epoch * count + position)
    asked = time.monotonic()
    batch = next(feed)
    run.input_seconds += time.monotonic() - asked
    state = steps.train(state, *batch, step_key, control, teaching)
    position += 1
    if start is None:  # the first step of a process compiles
      jax.block_until_ready(state.step)
      start, first = time.monotonic(), position
    # The end of an epoch is saved by the caller, together with the epoch's record and fresh totals.
    ends_epoch = position == count
    stopping = not ends_epoch and run.should_stop()
    saving = stopping or (not ends_epoch and (epoch * count + position) % run.config.train.checkpoint_every == 0)
    if saving or ends_epoch or position % STEPS_BETWEEN_CHECKS == 0:
      loss = float(state.totals["loss"]) / position
      if not math.isfinite(loss):
        return state, loss
      rate = (position - first) * batch_size / max(time.monotonic() - start, 1e-9) if position > first else 0.0
      accuracy = float(state.totals["correct"]) / (position * batch_size)
      run.reporter(Progress(epoch, run.config.train.epochs, position, count, loss, accuracy, rate))
    if saving:
      run.checkpoints.save(state)
    if stopping:
      raise Interrupted
  return state, loss


def _end_epoch(run: _Run, state: TrainState, epoch: int) -> dict[str, Any]:
  count, batch_size = run.steps_per_epoch, run.config.train.batch_size
  last = run.reporter.last
  totals, params = jax.device_get((state.totals, state.params))
  steps = run.steps(int(state.step) - 1)
  validation = run.data.validation
  held_out = {} if validation is None else {"validation_accuracy": evaluate(steps, state, validation)}
  return {
    "epoch": epoch + 1,
    "step": int(state.step),
    "train_loss": float(totals["loss"]) / count,
    "train_accuracy": float(totals["correct"]) / (count * batch_size),
    "test_accuracy": evaluate(steps, state, run.data.test),
    **held_out,
    "learning_rate": steps.learning_rate(int(state.step) - 1),
    "images_per_second": last.images_per_second if last else 0.0,
    "gradient_rms": {layer: math.sqrt(float(value) / count) for layer, value in totals["gradient_squares"].items()},
    "input_seconds": run.input_seconds,
    "sign_flips": {layer: float(value) / count for layer, value in totals["flips"].items()},
    "weights": weight_statistics(params),
  }


def _probe(run: _Run, state: TrainState) -> None:
  """Records what the layers see, where they can be watched."""
  steps = run.steps(int(state.step) - 1)
  setting = steps.setting
  network = build_network(run.config.model, run.data.num_classes, setting, "emulated", is_forced=True)
  look = run.programs.probe(steps.program, lambda: build_probe(network, setting))
  if look is None:
    return
  count = min(PROBED_IMAGES, run.data.train.count)
  images, labels, indices = next(iter(run.data.train.batches(np.arange(count, dtype=np.int32)[None])))
  is_traced = steps.program.bits is None
  bits = jax.tree.map(lambda width: jnp.asarray(width, jnp.int32), setting.bits) if is_traced else None
  batch = to_unit(resize(jnp.asarray(images[indices]), steps.program.shape[:2]))
  found = look(state.variables, batch, jnp.asarray(labels[indices]), bits)
  write_json(run.directory / PROBE, describe(jax.device_get(found), jax.device_get(state.params)))


def evaluate(steps: Steps, state: TrainState | dict[str, Any], feed: Feed, step: int = 1) -> float:
  """The share of images that a network reads right.

  Args:
    steps: the trial's functions.
    state: of a training, or the network's variables.
    feed: images and labels.
    step: at which the numbers of the method are taken, where they change; a restored trial's end is at 1.

  Returns:
    Accuracy, 0 to 1.
  """
  variables = state.tested_variables if isinstance(state, TrainState) else state
  control = steps.control(int(state.step) if isinstance(state, TrainState) else step)
  total = feed.count
  order = np.arange(-(-total // EVALUATION_BATCH) * EVALUATION_BATCH, dtype=np.int32).reshape(-1, EVALUATION_BATCH)
  valid = order < total
  batches = zip(feed.batches(np.where(valid, order, 0)), valid)
  return sum(int(steps.evaluate(variables, *batch, mask, control)) for batch, mask in batches) / total


def _result(run: _Run, state: TrainState, epochs_done: int) -> dict[str, Any]:
  records = read_metrics(run.directory)
  if not len(records) == complete_epochs(records) == epochs_done:
    raise DataError(
      f"{run.directory / METRICS} holds the records of {len(records)} of {epochs_done} epochs, so that something else "
      "has changed it; run again to train the missing ones again"
    )
  best = max(records, key=lambda line: line["test_accuracy"], default=None)
  chosen = max(records, key=lambda line: line.get("validation_accuracy", 0.0), default=None)
  rates = [line["images_per_second"] for line in records if line.get("images_per_second")]
  by_validation = {}
  if run.data.validation is not None:
    by_validation = {
      "best_validation_accuracy": chosen["validation_accuracy"] if chosen else None,
      "test_accuracy_by_validation": chosen["test_accuracy"] if chosen else None,
      "epoch_by_validation": chosen["epoch"] if chosen else None,
    }
  return {
    "best_test_accuracy": best["test_accuracy"] if best else None,
    "best_epoch": best["epoch"] if best else None,
    "last_test_accuracy": records[-1]["test_accuracy"] if records else None,
    "last_train_loss": records[-1]["train_loss"] if records else None,
    **by_validation,
    "epochs": len(records),
    "steps": int(state.step),
    "images_per_second": float(np.median(rates)) if rates else None,
    "seconds": sum(line.get("seconds", 0.0) for line in records),
    "params_digest": digest(state.params),
    "parameters": int(sum(jnp.size(leaf) for leaf in jax.tree.leaves(state.params))),
    **describe_machine(),
  }


def _finish(tracker: Tracker | None, result: dict[str, Any]) -> None:
  if tracker is not None:
    tracker.finish(result)
