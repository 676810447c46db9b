"""The compiled parts of a trial: one training step and one evaluation batch."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dorefa_jax import BitWidths
from dorefa_study.config import TrialConfig, parse_bits
from dorefa_study.data.images import jitter, resize, to_unit
from dorefa_study.models import build_model, last_kernel, training_backend

Tree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """All that a training step changes.

  Attributes:
    step: number of steps done.
    params: the model's parameters.
    batch_stats: running statistics of batch norm.
    opt_state: the optimizer's.
    totals: sums over the epoch so far: "loss", "correct", "gradient_squares" of each layer.
  """

  step: jax.Array
  params: Tree
  batch_stats: Tree
  opt_state: Tree
  totals: Tree


@dataclasses.dataclass(frozen=True)
class Steps:
  """A trial's compiled functions; one program serves every setting of bit widths.

  Attributes:
    init: key -> TrainState.
    train: (state, images, labels, indices, key, bits) -> TrainState.
    evaluate: (params, batch_stats, images, labels, indices, valid, bits) -> correct predictions.
    learning_rate: step -> learning rate.
  """

  init: Any
  train: Any
  evaluate: Any
  learning_rate: optax.Schedule


def build_steps(config: TrialConfig, *, channels: int, total_steps: int) -> Steps:
  """Builds, but does not yet compile, the functions of a trial.

  Args:
    config: the trial; its bits are arguments of the functions instead.
    channels: number of channels of an image.
    total_steps: length of the training, for the learning rate's schedule.

  Returns:
    The functions.

  Example:
    >>> from dorefa_study.models import ModelConfig
    >>> steps = build_steps(TrialConfig(model=ModelConfig(width=0.125)), channels=3, total_steps=10)
    >>> float(steps.learning_rate(0)), float(steps.learning_rate(5))
    (0.0010000000474974513, 0.0005000000237487257)
  """
  backend = training_backend(config.model, parse_bits(config.bits, "config.bits"))
  model, train = build_model(config.model).clone(backend=backend), config.train
  halvings: dict[int, float] = {}
  for fraction in train.halve_at:
    boundary = round(fraction * total_steps)
    halvings[boundary] = halvings.get(boundary, 1.0) * 0.5
  schedule = optax.piecewise_constant_schedule(train.learning_rate, halvings)
  optimizer = optax.adam(schedule, eps=train.adam_epsilon)

  def init(key: jax.Array) -> TrainState:
    size = config.data.image_size
    variables = model.init(key, jnp.zeros((1, size, size, channels)))
    params = variables["params"]
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      batch_stats=variables["batch_stats"],
      opt_state=optimizer.init(params),
      totals=zero_totals(params),
    )

  def loss_and_correct(
    params: Tree,
    batch_stats: Tree,
    images: jax.Array,
    labels: jax.Array,
    bits: BitWidths,
    keys: tuple[jax.Array, jax.Array],
  ) -> tuple[jax.Array, tuple[jax.Array, Tree]]:
    logits, updates = model.apply(
      {"params": params, "batch_stats": batch_stats},
      images,
      bits=bits,
      train=True,
      mutable=["batch_stats"],
      rngs={"gradients": keys[0], "dropout": keys[1]},
    )
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    loss = loss + 0.5 * train.last_layer_l2 * jnp.sum(last_kernel(params) ** 2)
    return loss, (jnp.sum(logits.argmax(-1) == labels), updates["batch_stats"])

  @functools.partial(jax.jit, donate_argnums=0)
  def train_step(
    state: TrainState, images: jax.Array, labels: jax.Array, indices: jax.Array, key: jax.Array, bits: BitWidths
  ) -> TrainState:
    jitter_key, gradient_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step), 3)
    batch = resize(images[indices], config.data.image_size)
    batch = to_unit(jitter(batch, jitter_key, train.brightness, train.contrast))
    (loss, (correct, batch_stats)), gradients = jax.value_and_grad(loss_and_correct, has_aux=True)(
      state.params, state.batch_stats, batch, labels[indices], bits, (gradient_key, dropout_key)
    )
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    new = {"loss": loss, "correct": correct.astype(jnp.float32), "gradient_squares": _mean_squares(gradients)}
    return TrainState(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=batch_stats,
      opt_state=opt_state,
      totals=jax.tree.map(jnp.add, state.totals, new),
    )

  @jax.jit
  def evaluate(
    params: Tree,
    batch_stats: Tree,
    images: jax.Array,
    labels: jax.Array,
    indices: jax.Array,
    valid: jax.Array,
    bits: BitWidths,
  ) -> jax.Array:
    batch = to_unit(resize(images[indices], config.data.image_size))
    logits = model.apply({"params": params, "batch_stats": batch_stats}, batch, bits=bits)
    return jnp.sum((logits.argmax(-1) == labels[indices]) & valid)

  return Steps(init=jax.jit(init), train=train_step, evaluate=evaluate, learning_rate=schedule)


def zero_totals(params: Tree) -> Tree:
  """The totals at the start of an epoch.

  Example:
    >>> zero_totals({"fc": {"kernel": jnp.ones(2)}})["gradient_squares"]["fc"].shape
    ()
  """

  def zero() -> jax.Array:  # an array each: their buffers are donated
    return jnp.zeros((), jnp.float32)

  return {"loss": zero(), "correct": zero(), "gradient_squares": {layer: zero() for layer in _layers(params)}}


def traced_bits(bits: BitWidths) -> BitWidths:
  """Bit widths as arrays, the form in which they are no part of a compiled program.

  Example:
    >>> int(traced_bits(BitWidths(1, 2, 4)).gradients)
    4
  """
  return jax.tree.map(lambda width: jnp.asarray(width, jnp.int32), bits)


def weight_statistics(params: Tree) -> dict[str, dict[str, float]]:
  """Root mean square, largest magnitude and share of positive weights of each layer.

  Example:
    >>> weight_statistics({"fc": {"kernel": jnp.array([3.0, -1.0])}})["fc"]["max"]
    3.0
  """
  statistics = {}
  for layer in _layers(params):
    kernel = params[layer]["kernel"]
    rms = jnp.sqrt(jnp.mean(kernel**2))
    largest = jnp.abs(kernel).max() + 0 * rms  # XLA's maximum drops NaN from large arrays on CPU
    values = {"rms": rms, "max": largest, "positive": jnp.mean(kernel >= 0)}
    statistics[layer] = {name: float(value) for name, value in values.items()}
  return statistics


def _layers(params: Tree) -> list[str]:
  return [name for name in sorted(params) if "kernel" in params[name]]


def _mean_squares(gradients: Tree) -> dict[str, jax.Array]:
  return {layer: jnp.mean(gradients[layer]["kernel"] ** 2) for layer in _layers(gradients)}
