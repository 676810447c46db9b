"""Where a trial's parameters come from when they are not fresh, and networks that it is distilled from."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import re
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np

from dorefa_study.checkpoints import by_path, read_tree
from dorefa_study.config import TrialConfig
from dorefa_study.errors import UsageError
from dorefa_study.networks import Variables
from dorefa_study.paths import PathError, expand
from dorefa_study.restore import restore_trial
from dorefa_study.results import CHECKPOINTS
from dorefa_study.steps import Steps, TrainState

COLLECTIONS = ("params", "batch_stats", "quantizers")


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A trained network whose logits another learns.

  Attributes:
    config: its trial.
    steps: its functions.
    variables: its variables.
  """

  config: TrialConfig
  steps: Steps
  variables: Variables


def find_teacher(config: TrialConfig) -> Teacher | None:
  """The network that a trial is distilled from, None where it is not.

  Args:
    config: the trial.

  Raises:
    UsageError: there is no trained trial of that name, or it reads other images.
  """
  if not config.train.distill_from:
    return None
  trained = restore_trial(_place(config.train.distill_from, "config.train.distill_from"), "config.train.distill_from")
  if trained.config.data.image_size != config.data.image_size:
    raise UsageError(
      f"config.train.distill_from: images of {trained.config.data.image_size} pixels there, "
      f"{config.data.image_size} here"
    )
  return Teacher(trained.config, trained.steps, trained.variables)


def start_from(config: TrialConfig, state: TrainState) -> TrainState:
  """A fresh state with the parameters that a trial starts from.

  Args:
    config: the trial.
    state: fresh; what `config.train.init_from` lacks of a method's own variables and statistics stays as it is, and so
      does what `init_except` names.

  Returns:
    The state.

  Raises:
    UsageError: there is nothing at that place, or parameters of other names or shapes.
  """
  where = "config.train.init_from"
  place = _place(config.train.init_from, where)
  found = read_variables(place, where)
  fresh = by_path({name: part for name, part in state.variables.items() if name in COLLECTIONS})
  skipped = re.compile(config.train.init_except) if config.train.init_except else None
  chosen: dict[str, Any] = {}
  problems = []
  for path, leaf in fresh.items():
    if skipped is not None and skipped.search(path):
      continue
    if path not in found:
      if path.startswith("params/"):
        problems.append(f"it has no {path}")
    elif tuple(found[path].shape) != tuple(leaf.shape):
      problems.append(f"{path} is {list(found[path].shape)} there, {list(leaf.shape)} here")
    else:
      chosen[path] = jnp.asarray(found[path], leaf.dtype)
  if problems or not chosen:
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    reason = f"{problems[0]}{more}" if problems else "none of its arrays has a name of this network's"
    raise UsageError(f"{where}: {place} does not fit ({reason}); name paths that stay fresh in init_except")

  def replaced(collection: str, tree: Any) -> Any:
    def pick(path: Any, leaf: Any) -> Any:
      return chosen.get(f"{collection}/{jax.tree_util.keystr(path, simple=True, separator='/')}", leaf)

    return jax.tree_util.tree_map_with_path(pick, tree)

  parts = {name: replaced(name, getattr(state, name)) for name in COLLECTIONS}
  learned = {name: parts[name] for name in ("params", "quantizers") if parts[name]}
  average = jax.tree.map(jnp.copy, learned) if state.average else {}
  return dataclasses.replace(state, **parts, average=average)


def read_variables(place: pathlib.Path, where: str) -> dict[str, np.ndarray]:
  """The arrays of a trained network, by path, such as "params/conv1/kernel".

  Args:
    place: directory of a trial, directory of an Orbax checkpoint of a dict, or a msgpack file of flax.
    where: name of the field, for messages.

  Raises:
    UsageError: it is none of them, or cannot be read.
  """
  if (place / CHECKPOINTS).is_dir():
    return _named(restore_trial(place, where).variables)
  if not place.exists():
    raise UsageError(f"{where}: no file or directory {str(place)!r}")
  try:
    if place.is_file():
      return _named(flax.serialization.msgpack_restore(place.read_bytes()))
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    folder = next((inner for inner in (place, place / "default") if (inner / "_METADATA").exists()), place)
    return _named(read_tree(folder.absolute()))
  except Exception as error:  # readers of damaged and other files raise many types
    line = " ".join(str(error).split())[:200]
    kind = "a trial, an Orbax checkpoint or a msgpack file of flax"
    raise UsageError(f"{where}: {place} cannot be read as {kind} ({type(error).__name__}: {line})") from error


def _named(tree: Any) -> dict[str, np.ndarray]:
  """Arrays by path; a tree of parameters alone is "params", and that of a train state is its own."""
  if not isinstance(tree, dict):
    raise ValueError(f"it holds a {type(tree).__name__}, not a dict of variables")
  tree = tree if "params" in tree else {"params": tree}
  if isinstance(tree["params"], dict) and "params" in tree["params"]:  # variables, kept as the params of a state
    tree = {**tree, **tree["params"]}
  return by_path({name: tree[name] for name in COLLECTIONS if name in tree})


def _place(text: str, where: str) -> pathlib.Path:
  try:
    return expand(text)
  except PathError as error:
    raise UsageError(f"{where}: {error}") from None
