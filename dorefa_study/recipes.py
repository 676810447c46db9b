"""Recipes: optimizers of optax by name, learning rates over a training, and which parameters decay."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import optax
import optax.contrib

from dorefa_study.errors import UsageError, did_you_mean, require
from dorefa_study.objects import check_arguments, parse_call

if TYPE_CHECKING:
  from dorefa_study.config import TrainConfig

Optimizer = Callable[..., optax.GradientTransformation]
OPTIMIZERS: dict[str, Optimizer] = {
  "adam": optax.adam,
  "adamw": optax.adamw,
  "sgd": optax.sgd,
  "lion": optax.lion,
  "muon": optax.contrib.muon,
}
"""{name in config.train.optimizer: function of optax}."""
DECOUPLED = {"adamw": "mask", "lion": "mask", "muon": "weight_decay_mask"}
"""Optimizers that decay weights themselves, and how they name the mask of what decays."""
GIVEN = ("learning_rate", "weight_decay", "mask", "weight_decay_mask")
"""Arguments of optimizers that have fields of their own."""
KINDS = ("kernel", "bias", "norm", "quantizer")
RATES = ("halve", "constant", "cosine", "linear", "step")


def build_optimizer(train: TrainConfig) -> optax.GradientTransformation:
  """The optimizer of a recipe at learning rate 1: its updates are multiplied by the rate of a step.

  One compiled program then serves every learning rate.

  Args:
    train: the recipe.

  Returns:
    What maps gradients to updates; state and parameters are {"params": ..., "quantizers": ...} or `params` alone.
  """
  call = parse_call(train.optimizer, "config.train.optimizer")
  function, arguments = OPTIMIZERS[call.name], dict(call.arguments)
  if "eps" in inspect.signature(function).parameters and call.name in ("adam", "adamw"):
    arguments.setdefault("eps", train.adam_epsilon)
  chain = [optax.clip_by_global_norm(train.clip_norm)] if train.clip_norm else []

  def mask(params: Any) -> Any:
    return decay_mask(params, train.decay_kinds)

  if call.name == "muon":  # its default is for matrices alone
    arguments.setdefault("muon_weight_dimension_numbers", _matrices)
  if call.name in DECOUPLED:
    arguments |= {"weight_decay": train.weight_decay, DECOUPLED[call.name]: mask}
  elif train.weight_decay:
    chain.append(optax.add_decayed_weights(train.weight_decay, mask))
  optimizer = function(learning_rate=1.0, **arguments)
  return optax.chain(*chain, optimizer) if chain else optimizer


def _matrices(params: Any) -> Any:
  """How Muon sees kernels as matrices: outputs along the last axis; other parameters are Adam's."""

  def axes(leaf: jax.Array) -> Any:
    last = leaf.ndim - 1
    return optax.contrib.MuonDimensionNumbers(tuple(range(last)), last) if last >= 1 else None

  return jax.tree.map(axes, params)


def check_optimizer(text: str, where: str) -> None:
  """Raises UsageError for an optimizer that there is not, or arguments that it does not take.

  Example:
    >>> check_optimizer("sgd(momentum=0.9)", "config.train.optimizer")
  """
  call = parse_call(text, where)
  if call.name not in OPTIMIZERS:
    raise UsageError(f"{where}: no optimizer {call.name!r}" + did_you_mean(call.name, OPTIMIZERS))
  named = next((name for name, _ in call.arguments if name in GIVEN), None)
  if named is not None:
    raise UsageError(f"{where}: {named} of {call.name} is a field of config.train: leave it out here")
  check_arguments(OPTIMIZERS[call.name], dict(call.arguments), where, given=GIVEN)


def decay_mask(params: Any, kinds: tuple[str, ...]) -> Any:
  """Which parameters decay: a tree of bools.

  Args:
    params: parameters, or {"params": ..., "quantizers": ...}.
    kinds: kinds that decay.

  Example:
    >>> import jax.numpy as jnp
    >>> decay_mask({"fc": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}, ("kernel",))
    {'fc': {'bias': False, 'kernel': True}}
  """
  return jax.tree_util.tree_map_with_path(lambda path, leaf: kind_of(path, leaf, params) in kinds, params)


def kind_of(path: Any, leaf: Any, params: Any) -> str:
  """The kind of a parameter: "kernel", "bias", "norm" (scale and shift of a normalization) or "quantizer".

  Args:
    path: its path in `params`.
    leaf: the parameter.
    params: the tree that it is in.
  """
  names = [getattr(part, "key", getattr(part, "name", part)) for part in path]
  if names[0] == "quantizers":
    return "quantizer"
  if leaf.ndim >= 2:
    return "kernel"
  siblings: Any = params
  for name in names[:-1]:
    siblings = siblings[name]
  return "norm" if "scale" in siblings and "kernel" not in siblings else "bias"


def learning_rate(train: TrainConfig, total_steps: int) -> Callable[[int], float]:
  """The learning rate of every step.

  Args:
    train: the recipe.
    total_steps: steps of the training.

  Returns:
    step, from 0 -> rate.

  Example:
    >>> from dorefa_study.config import TrainConfig
    >>> rate = learning_rate(TrainConfig(), 10)
    >>> rate(4), rate(5)
    (0.001, 0.0005)
  """
  factor = _factor(train, total_steps)
  warmup_steps = round(train.warmup * total_steps / train.epochs)

  def rate(step: int) -> float:
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return train.learning_rate * warmup * factor(step)

  return rate


def _factor(train: TrainConfig, total_steps: int) -> Callable[[int], float]:
  call = parse_call(train.schedule, "config.train.schedule")
  arguments = dict(call.arguments)
  if call.name in ("halve", "step"):
    at = train.halve_at if call.name == "halve" else arguments["at"]
    boundaries = [round(share * total_steps) for share in at]
    by = 0.5 if call.name == "halve" else arguments.get("factor", 0.1)
    return lambda step: float(by ** sum(step >= boundary for boundary in boundaries))
  end = arguments.get("end", 0.0)
  if call.name == "cosine":
    return lambda step: end + (1 - end) * (1 + math.cos(math.pi * min(1.0, step / total_steps))) / 2
  if call.name == "linear":
    return lambda step: end + (1 - end) * (1 - min(1.0, step / total_steps))
  return lambda step: 1.0


def check_rate_schedule(text: str, where: str) -> None:
  """Raises UsageError for a schedule of the learning rate that there is not.

  Example:
    >>> check_rate_schedule("step(at=(0.5, 0.75), factor=0.1)", "config.train.schedule")
  """
  call = parse_call(text, where)
  known = {"halve": (), "constant": (), "cosine": ("end",), "linear": ("end",), "step": ("at", "factor")}
  if call.name not in known:
    raise UsageError(f"{where}: no schedule {call.name!r}" + did_you_mean(call.name, known))
  arguments = dict(call.arguments)
  for name in arguments:
    require(
      name in known[call.name], where, f"{call.name} with {' and '.join(known[call.name]) or 'no arguments'}", text
    )
  at = arguments.get("at", ())
  if call.name == "step":
    is_legal = isinstance(at, (tuple, list)) and len(at) > 0 and all(_is_number(f) and 0 <= f <= 1 for f in at)
    require(is_legal, where, "step(at=(0.5, 0.75), factor=0.1), fractions of the training", text)
  for name in ("end", "factor"):
    require(_is_number(arguments.get(name, 0)) and arguments.get(name, 0) >= 0, where, f"of a number {name}", text)


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)
