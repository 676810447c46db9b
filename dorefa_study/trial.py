"""One trial: training with evaluation, checkpoints and records, resumed bit by bit."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

import dorefa_jax
from dorefa_study.checkpoints import Checkpoints, digest
from dorefa_study.config import TrialConfig, parse_bits
from dorefa_study.data import DataError, Dataset, Split
from dorefa_study.data.cache import record
from dorefa_study.progress import Progress, Reporter
from dorefa_study.records import append_line, read_object, seal, write_json, write_lines
from dorefa_study.results import METRICS, RESULT, complete_epochs, read_metrics
from dorefa_study.steps import Steps, TrainState, build_steps, traced_bits, weight_statistics, zero_totals

CHECKPOINTS, DATA = "checkpoints", "data.json"
EVALUATION_BATCH = 500
STEPS_BETWEEN_CHECKS = 20
"""The loss is read, and found to be finite or not, once in so many steps: reading waits for the device."""


class Interrupted(Exception):
  """The trial was asked to stop, and has saved where it stands."""


@dataclasses.dataclass
class _Run:
  """What the parts of a running trial share."""

  config: TrialConfig
  directory: pathlib.Path
  steps: Steps
  bits: dorefa_jax.BitWidths
  key: jax.Array
  train: tuple[jax.Array, jax.Array]
  test: tuple[jax.Array, jax.Array]
  steps_per_epoch: int
  checkpoints: Checkpoints
  reporter: Reporter
  should_stop: Callable[[], bool]


def run_trial(
  config: TrialConfig,
  dataset: Dataset,
  directory: pathlib.Path,
  *,
  reporter: Reporter,
  should_stop: Callable[[], bool] = lambda: False,
  open_writer: Callable[[int], Any] | None = None,
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
    open_writer: makes a TensorBoard writer, told the step that training goes on from.

  Returns:
    The result: status "done", or "diverged" with a reason; accuracies; digests.

  Raises:
    Interrupted: `should_stop` said so; a checkpoint is saved.
    DataError: there are fewer training images than a batch has, or other images than before; or a record is damaged.
    CheckpointError: a checkpoint cannot be read, and is not known to be damaged.
  """
  run = _start(config, dataset, directory, reporter, should_stop)
  status: dict[str, Any] = {"status": "done"}
  try:
    state = _resume(run)
    writer = open_writer(int(state.step)) if open_writer else None
    for epoch in range(int(state.step) // run.steps_per_epoch, config.train.epochs):
      state, loss = _train_epoch(run, state, epoch)
      if not math.isfinite(loss):
        status = {"status": "diverged", "reason": f"loss is {loss} by step {int(state.step)}, in epoch {epoch + 1}"}
        break
      metrics = _end_epoch(run, state, epoch)
      append_line(directory / METRICS, seal(metrics))
      _write_scalars(writer, metrics)
      state = dataclasses.replace(state, totals=zero_totals(state.params))
      run.checkpoints.save(state)
      if epoch + 1 < config.train.epochs and should_stop():
        raise Interrupted
  finally:
    run.checkpoints.close()
  result = status | _result(run, state, epochs_done=epoch if status["status"] == "diverged" else config.train.epochs)
  write_json(directory / RESULT, seal(result))
  return result


def _start(
  config: TrialConfig, dataset: Dataset, directory: pathlib.Path, reporter: Reporter, should_stop: Callable[[], bool]
) -> _Run:
  steps_per_epoch = len(dataset.train.labels) // config.train.batch_size
  if steps_per_epoch == 0:
    raise DataError(
      f"config.train.batch_size: {config.train.batch_size} is more than the {len(dataset.train.labels)} training images"
    )
  data, before = record(dataset, config.data), read_object(directory / DATA)
  if (directory / DATA).exists() and not (before and isinstance(before.get("digest"), str)):
    raise DataError(
      f"{directory / DATA} is damaged, which says what images this trial began on; delete it to go on on "
      f"{data['name']} ({data['source']})"
    )
  if before is not None and before["digest"] != data["digest"]:
    raise DataError(
      f"{directory}: this trial began on {before.get('name')} ({before.get('source')}) and would go on on "
      f"{data['name']} ({data['source']}), which holds other images; bring the first back, or name a new directory"
    )
  write_json(directory / DATA, data)

  def on_device(split: Split) -> tuple[jax.Array, jax.Array]:
    return jax.device_put(split.images), jax.device_put(split.labels)

  return _Run(
    config=config,
    directory=directory,
    steps=build_steps(
      config, channels=dataset.train.images.shape[-1], total_steps=steps_per_epoch * config.train.epochs
    ),
    bits=traced_bits(parse_bits(config.bits, "config.bits")),
    key=jax.random.key(config.train.seed),
    train=on_device(dataset.train),
    test=on_device(dataset.test),
    steps_per_epoch=steps_per_epoch,
    checkpoints=Checkpoints(directory / CHECKPOINTS),
    reporter=reporter,
    should_stop=should_stop,
  )


def _resume(run: _Run) -> TrainState:
  """The state that training goes on from, the records of its epochs on disk, and no others.

  An epoch whose record is lost is trained again, to the same bits: from the newest checkpoint before it.
  """
  key = jax.random.fold_in(run.key, 0)
  records = read_metrics(run.directory)
  recorded = complete_epochs(records)
  last = (recorded + 1) * run.steps_per_epoch - 1
  newest = run.checkpoints.latest_step()
  state = run.checkpoints.restore(jax.eval_shape(run.steps.init, key), at_most=last)
  if newest is not None and newest > last:
    print(
      f"{METRICS} has no record of epoch {recorded + 1}, which checkpoint {newest} has passed; training goes on "
      f"from step {0 if state is None else int(state.step)}",
      flush=True,
    )
  if state is None:
    state = run.steps.init(key)
  done = int(state.step) // run.steps_per_epoch
  if (run.directory / METRICS).exists():
    write_lines(run.directory / METRICS, records[:done])
  return state


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
  batches = epoch_order(run.config.train.seed, epoch, len(run.train[1]), count * batch_size).reshape(count, batch_size)
  step_key = jax.random.fold_in(run.key, 1)
  first = position = int(state.step) - epoch * count
  start: float | None = None
  loss = 0.0
  while position < count:
    state = run.steps.train(state, *run.train, batches[position], step_key, run.bits)
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
  totals = jax.device_get(state.totals)
  squares = {layer: float(value) / count for layer, value in totals["gradient_squares"].items()}
  return {
    "epoch": epoch + 1,
    "step": int(state.step),
    "train_loss": float(totals["loss"]) / count,
    "train_accuracy": float(totals["correct"]) / (count * batch_size),
    "test_accuracy": evaluate(run.steps, state, run.test, run.bits),
    "learning_rate": float(run.steps.learning_rate(int(state.step) - 1)),
    "images_per_second": last.images_per_second if last else 0.0,
    "gradient_rms": {layer: math.sqrt(value) for layer, value in squares.items()},
    "weights": weight_statistics(state.params),
  }


def evaluate(steps: Steps, state: TrainState, test: tuple[jax.Array, jax.Array], bits: dorefa_jax.BitWidths) -> float:
  """The share of test images that a state's model reads right.

  Args:
    steps: the trial's functions.
    state: parameters and statistics.
    test: images and labels, on the device.
    bits: traced bit widths.

  Returns:
    Accuracy, 0 to 1.
  """
  total = len(test[1])
  correct = 0
  for start in range(0, total, EVALUATION_BATCH):
    indices = np.arange(start, start + EVALUATION_BATCH, dtype=np.int32)
    valid = indices < total
    indices = np.where(valid, indices, 0)
    correct += int(steps.evaluate(state.params, state.batch_stats, *test, indices, valid, bits))
  return correct / total


def _result(run: _Run, state: TrainState, epochs_done: int) -> dict[str, Any]:
  records = read_metrics(run.directory)
  if not len(records) == complete_epochs(records) == epochs_done:
    raise DataError(
      f"{run.directory / METRICS} holds the records of {len(records)} of {epochs_done} epochs, so that something else "
      "has changed it; run again to train the missing ones again"
    )
  best = max(records, key=lambda line: line["test_accuracy"], default=None)
  rates = [line["images_per_second"] for line in records if line.get("images_per_second")]
  device = jax.devices()[0]
  return {
    "best_test_accuracy": best["test_accuracy"] if best else None,
    "best_epoch": best["epoch"] if best else None,
    "last_test_accuracy": records[-1]["test_accuracy"] if records else None,
    "epochs": len(records),
    "steps": int(state.step),
    "images_per_second": float(np.median(rates)) if rates else None,
    "params_digest": digest(state.params),
    "parameters": int(sum(jnp.size(leaf) for leaf in jax.tree.leaves(state.params))),
    "device": f"{device.platform}: {device.device_kind}",
    "versions": {"dorefa_jax": dorefa_jax.__version__, "jax": jax.__version__, "flax": flax.__version__},
  }


def _write_scalars(writer: Any, metrics: dict[str, Any]) -> None:
  if writer is None:
    return
  for name in ("train_loss", "train_accuracy", "test_accuracy", "learning_rate", "images_per_second"):
    writer.add_scalar(name, metrics[name], metrics["step"])
  for layer, value in metrics["gradient_rms"].items():
    writer.add_scalar(f"gradient_rms/{layer}", value, metrics["step"])
  for layer, statistics in metrics["weights"].items():
    for name, value in statistics.items():
      writer.add_scalar(f"weights/{layer}/{name}", value, metrics["step"])
  writer.flush()
