"""The compiled parts of a trial: one training step and one evaluation batch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dorefa_jax.bits import FULL_PRECISION, BitWidths
from dorefa_jax.layer_bits import LayerBits
from dorefa_study.config import TrialConfig, parse_bits, parse_rules
from dorefa_study.data.augment import augment
from dorefa_study.data.images import resize, to_unit
from dorefa_study.errors import UsageError
from dorefa_study.methods import build_method, takes_traced_bits
from dorefa_study.models import ModelConfig, last_kernel, training_backend
from dorefa_study.networks import LEARNED, Network, Setting, Variables, build_network
from dorefa_study.programs import Program, program_config
from dorefa_study.programs import Programs as Programs
from dorefa_study.recipes import build_optimizer, learning_rate
from dorefa_study.schedules import parse_schedule, with_numbers
from dorefa_study.weights import flips, layer_kernels

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
    totals: sums over the epoch so far: "loss", "correct", "gradient_squares" and "flips" of signs of each layer.
    quantizers: what the method learns, {} for most.
    others: collections of other names that the network keeps.
    average: moving average of params and quantizers, {} where the recipe has none.
  """

  step: jax.Array
  params: Tree
  batch_stats: Tree
  opt_state: Tree
  totals: Tree
  quantizers: Tree = dataclasses.field(default_factory=dict)
  others: Tree = dataclasses.field(default_factory=dict)
  average: Tree = dataclasses.field(default_factory=dict)

  @property
  def variables(self) -> Variables:
    """The network's collections, as it trains."""
    parts = {"params": self.params, "batch_stats": self.batch_stats, "quantizers": self.quantizers}
    return {name: part for name, part in parts.items() if name == "params" or part} | dict(self.others)

  @property
  def tested_variables(self) -> Variables:
    """The network's collections, as it is tested: the moving average, where the recipe keeps one."""
    return self.variables | dict(self.average)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Control:
  """What a step is told: arguments of the compiled program, so that one serves all their values.

  Attributes:
    bits: traced bit widths; None where the program has its own.
    learning_rate: of this step.
    numbers: of the method, where they change while it trains.

  Both are scalars, float32.
  """

  bits: BitWidths | LayerBits | None
  learning_rate: Any
  numbers: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Steps:
  """A trial's functions, compiled when they are called; those of a `Program` are shared by all trials that have it.

  Attributes:
    init: (key, images or None) -> TrainState; a method that learns starts from the images.
    train: (state, images, labels, indices, key, control, teacher) -> TrainState; images and labels are gathered by
      indices; teacher is the variables of the network that is distilled from, None without one.
    logits: (variables, images, control) -> logits of uint8 images.
    evaluate: (variables, images, labels, indices, valid, control) -> correct predictions.
    learning_rate: step, from 0 -> learning rate.
    control: step, from 0 -> Control.
    network: the network.
    setting: its bit widths and method, static.
    program: what the functions are of.
  """

  init: Callable[..., TrainState]
  train: Callable[..., TrainState]
  logits: Callable[..., jax.Array]
  evaluate: Callable[..., jax.Array]
  learning_rate: Callable[[int], float]
  control: Callable[[int], Control]
  network: Network
  setting: Setting
  program: Program

  @property
  def learns(self) -> bool:
    """Whether the method learns something, from the first images on."""
    return bool(jax.eval_shape(self.init, jax.random.key(0)).quantizers)


class Teaching(Protocol):
  """A trained trial that another is distilled from.

  Attributes:
    config: its config.
    steps: its functions.
  """

  @property
  def config(self) -> TrialConfig:
    """See above."""
    ...

  @property
  def steps(self) -> Steps:
    """See above."""
    ...


def build_steps(
  config: TrialConfig,
  *,
  channels: int,
  total_steps: int = 1,
  num_classes: int = 10,
  size: tuple[int, int] = (32, 32),
  programs: Programs | None = None,
  teacher: Teaching | None = None,
) -> Steps:
  """The functions of a trial at one setting of bit widths.

  Args:
    config: the trial.
    channels: number of channels of an image.
    total_steps: length of the training, for what changes in it.
    num_classes: number of classes.
    size: height and width of the images, where the config leaves them as they are.
    programs: what other trials of the process have built; None for nothing.
    teacher: the trial that is distilled from.

  Returns:
    The functions.

  Raises:
    UsageError: the network takes no bit widths or no method where the trial has some.

  Example:
    >>> steps = build_steps(TrialConfig(model=ModelConfig(width=0.125)), channels=3)
    >>> int(steps.init(jax.random.key(0), None).step)
    0
  """
  widths = parse_rules(config.rules, "config.rules", parse_bits(config.bits, "config.bits"))
  schedule = parse_schedule(config.schedule, "config.schedule")
  quantizers = with_numbers(build_method(config.method), dict(schedule.numbers_at(0.0)))
  setting = Setting(widths if widths.rules else widths.default, quantizers)
  largest = BitWidths(*(max(column) for column in zip(*(_widths(bits) for bits in _all_bits(widths)))))
  backend = training_backend(config.model, largest, quantizers)
  side = config.data.image_size
  shape = (*((side, side) if side else size), channels)
  network = build_network(config.model, num_classes, setting, backend)
  _check_uses(config, network, setting)
  is_traced = _bits_are_traced(config.model, network, setting, backend)
  bits = None if is_traced else setting.bits
  program = Program(
    program_config(config), shape, num_classes, backend, bits, None if teacher is None else teacher.config
  )
  functions = (programs or Programs()).functions(
    program, lambda: _functions(program, network, setting, None if teacher is None else teacher.steps)
  )
  traced = jax.tree.map(lambda width: jnp.asarray(width, jnp.int32), setting.bits) if is_traced else None
  rate = learning_rate(config.train, total_steps)

  def control(step: int) -> Control:
    values = {name: np.float32(value) for name, value in schedule.numbers_at(min(1.0, step / total_steps)).items()}
    return Control(traced, np.float32(rate(step)), values)

  return Steps(**functions, learning_rate=rate, control=control, network=network, setting=setting, program=program)


def _all_bits(bits: LayerBits) -> list[BitWidths]:
  return [bits.default, *(widths for _, widths in bits.rules)]


def _widths(bits: BitWidths) -> tuple[int, ...]:
  return tuple(int(width) for width in dataclasses.astuple(bits))


def _bits_are_traced(model: ModelConfig, network: Network, setting: Setting, backend: str) -> bool:
  """Whether bit widths are arguments of the program.

  Layers whose backend nobody chooses run on the kernels where their widths are static.
  """
  chooses_itself = model.get("backend") is None and backend == "integer"
  return network.takes_bits and takes_traced_bits(setting.quantizers) and not chooses_itself


def _check_uses(config: TrialConfig, network: Network, setting: Setting) -> None:
  """Raises UsageError where a trial's bits, method or schedule reach no layer."""
  name = config.model.name
  if not network.uses_bits and set(jax.tree.leaves(setting.bits)) != {FULL_PRECISION}:
    raise UsageError(f"config.bits: {name} takes no bits, in its factory or its call; set 32,32,32, or take them")
  if not network.uses_quantizers and config.method != TrialConfig().method:
    raise UsageError(f"config.method: {name} takes no quantizers, in its factory or its call")
  if not network.takes_quantizers and parse_schedule(config.schedule, "config.schedule").numbers:
    raise UsageError(f"config.schedule: the call of {name} takes no quantizers, whose numbers could change")


def _functions(program: Program, network: Network, setting: Setting, teacher: Steps | None) -> dict[str, Any]:
  config, train = program.config, program.config.train
  side = (program.shape[0], program.shape[1])
  optimizer = build_optimizer(train)

  def setting_of(control: Control) -> Setting:
    bits = control.bits if program.bits is None else program.bits
    assert bits is not None
    return Setting(bits, with_numbers(setting.quantizers, control.numbers))

  def init(key: jax.Array, images: jax.Array | None = None) -> TrainState:
    batch = jnp.zeros((1, *program.shape)) if images is None else to_unit(resize(images, side))
    variables = network.init(key, batch, setting)
    learned = _learned(variables)
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=variables.pop("params"),
      batch_stats=variables.pop("batch_stats", {}),
      quantizers=variables.pop("quantizers", {}),
      others=variables,
      opt_state=optimizer.init(_trained(learned)),
      totals=zero_totals(learned["params"]),
      average=jax.tree.map(jnp.copy, learned) if train.ema else {},
    )

  def loss_of(
    learned: Tree, kept: Tree, images: jax.Array, labels: jax.Array, setting: Setting, keys: Any, targets: Any
  ) -> tuple[jax.Array, tuple[jax.Array, Tree]]:
    logits, updates = network.apply(learned | kept, images, setting, keys)
    loss = _cross_entropy(logits, labels, train.label_smoothing)
    if targets is not None:
      distance = _distance(logits, targets, train.distill_temperature)
      loss = (1 - train.distill_weight) * loss + train.distill_weight * distance
    kernel = last_kernel(config.model, learned["params"])
    if kernel is not None:
      loss = loss + 0.5 * train.last_layer_l2 * jnp.sum(kernel**2)
    return loss, (jnp.sum(logits.argmax(-1) == labels), updates)

  @functools.partial(jax.jit, donate_argnums=0)
  def train_step(
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    indices: jax.Array,
    key: jax.Array,
    control: Control,
    teaching: Variables | None = None,
  ) -> TrainState:
    jitter_key, gradient_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step), 3)
    batch = to_unit(augment(images[indices], jitter_key, side, train))
    keys = {"gradients": gradient_key, "dropout": dropout_key}
    keys["params"] = keys["default"] = jax.random.fold_in(dropout_key, 1)
    targets = None
    if teacher is not None:
      assert teaching is not None
      targets = teacher.network.apply(teaching, batch, teacher.setting)[0]
    learned = _learned(state.variables)
    kept = {name: part for name, part in state.variables.items() if name not in LEARNED}
    (loss, (correct, updated)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
      learned, kept, batch, labels[indices], setting_of(control), keys, targets
    )
    updates, opt_state = optimizer.update(_trained(gradients), state.opt_state, _trained(learned))
    changes = jax.tree.map(lambda update: control.learning_rate.astype(update.dtype) * update, updates)
    after = _collections(optax.apply_updates(_trained(learned), changes))
    if train.clip_weights:
      after = after | {"params": _clip_kernels(after["params"], train.clip_weights)}
    new = {"loss": loss, "correct": correct.astype(jnp.float32), "gradient_squares": _mean_squares(gradients["params"])}
    new["flips"] = flips(state.params, after["params"])
    kept = kept | updated
    return TrainState(
      step=state.step + 1,
      params=after["params"],
      batch_stats=kept.pop("batch_stats", {}),
      quantizers=after.get("quantizers", {}),
      others=kept,
      opt_state=opt_state,
      totals=jax.tree.map(jnp.add, state.totals, new),
      average=jax.tree.map(lambda old, new: train.ema * old + (1 - train.ema) * new, state.average, after)
      if train.ema
      else {},
    )

  @jax.jit
  def logits(variables: Variables, images: jax.Array, control: Control) -> jax.Array:
    return network.apply(variables, to_unit(resize(images, side)), setting_of(control))[0]

  @jax.jit
  def evaluate(
    variables: Variables, images: jax.Array, labels: jax.Array, indices: jax.Array, valid: jax.Array, control: Control
  ) -> jax.Array:
    return jnp.sum((logits(variables, images[indices], control).argmax(-1) == labels[indices]) & valid)

  # Random numbers of many shapes take LLVM longer to optimize than they ever run.
  quickly = jax.jit(init, compiler_options={"xla_backend_optimization_level": 0})
  return {"init": quickly, "train": train_step, "evaluate": evaluate, "logits": logits}


def _learned(variables: Variables) -> Variables:
  return {name: variables[name] for name in LEARNED if name in variables}


def _trained(learned: Variables) -> Tree:
  """What the optimizer sees: parameters alone where a method learns nothing."""
  return learned if "quantizers" in learned else learned["params"]


def _collections(trained: Tree) -> Variables:
  """The inverse of `_trained`."""
  return dict(trained) if "quantizers" in trained and "params" in trained else {"params": trained}


def _cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
  if not smoothing:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
  targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), smoothing)
  return optax.softmax_cross_entropy(logits, targets).mean()


def _distance(logits: jax.Array, targets: jax.Array, temperature: float) -> jax.Array:
  """Cross entropy to a teacher's probabilities, times the squared temperature, which keeps its gradient's size."""
  probabilities = jax.nn.softmax(targets / temperature)
  return optax.softmax_cross_entropy(logits / temperature, probabilities).mean() * temperature**2


def _clip_kernels(params: Tree, limit: float) -> Tree:
  return jax.tree.map(lambda leaf: jnp.clip(leaf, -limit, limit) if leaf.ndim >= 2 else leaf, params)


def zero_totals(params: Tree) -> Tree:
  """The totals at the start of an epoch.

  Example:
    >>> zero_totals({"fc": {"kernel": jnp.ones((2, 2))}})["gradient_squares"]["fc"].shape
    ()
  """

  def zero() -> jax.Array:  # an array each: their buffers are donated
    return jnp.zeros((), jnp.float32)

  layers = list(layer_kernels(params))
  each = {name: {layer: zero() for layer in layers} for name in ("gradient_squares", "flips")}
  return {"loss": zero(), "correct": zero(), **each}


def _mean_squares(gradients: Tree) -> dict[str, jax.Array]:
  return {layer: jnp.mean(kernel**2) for layer, kernel in layer_kernels(gradients).items()}
