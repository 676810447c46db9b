"""The paper's claims, tested on the data of a study: statements with an effect, its interval, and how many pairs."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from dorefa_study.runner import TrialState
from dorefa_study.statistics import Mean, mean

FLOAT = (32, 32, 32)
HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"


@dataclasses.dataclass(frozen=True)
class Claim:
  """A statement and what a study says of it.

  Attributes:
    statement: what is claimed.
    verdict: "holds", "does not hold" or "undecided".
    evidence: what was measured, in words and numbers.
  """

  statement: str
  verdict: str
  evidence: str


@dataclasses.dataclass(frozen=True)
class Point:
  """A trial that is done.

  Attributes:
    bits: W, A and G.
    rest: all else that is varied, seeds included.
    width: channel width, None where the network has none.
    accuracy: best test accuracy.
  """

  bits: tuple[int, int, int]
  rest: tuple[tuple[str, Any], ...]
  width: float | None
  accuracy: float


def examine(states: Sequence[TrialState]) -> list[Claim]:
  """What a study says of the paper's claims; those that its settings cannot tell of are left out.

  Args:
    states: of all trials.

  Returns:
    Statements, each from pairs of trials that differ in one thing alone.
  """
  points = [_point(state) for state in states if state.status == "done" and state.result is not None]
  tests = (_sensitivity, _channels, _saturation, _activations, _pretrained)
  return [claim for test in tests if (claim := test(points)) is not None]


def _point(state: TrialState) -> Point:
  config = state.trial.config
  rest = tuple((field, value) for field, value in state.trial.point if field not in ("bits", "model.width"))
  bits = state.trial.bits
  widths = (int(bits.weights), int(bits.activations), int(bits.gradients))
  assert state.result is not None
  return Point(widths, rest, config.model.get("width"), state.result["best_test_accuracy"])


def _pairs(
  points: Iterable[Point], key: Callable[[Point], Hashable], level: Callable[[Point], Any]
) -> list[tuple[Point, Point]]:
  """Pairs of points that are alike but for their level, the lower level first."""
  groups = collections.defaultdict(list)
  for point in points:
    groups[key(point)].append(point)
  pairs = []
  for group in groups.values():
    ordered = sorted(group, key=level)
    pairs += [(a, b) for a, b in itertools.combinations(ordered, 2) if level(a) != level(b)]
  return pairs


def _sensitivity(points: Sequence[Point]) -> Claim | None:
  """Sensitivity to the bits of gradients, activations and weights, in this order: the loss when they are halved."""
  effects: dict[str, Mean] = {}
  few = [point for point in points if max(point.bits) <= 8]
  for index, name in enumerate(("W", "A", "G")):
    losses = _losses_of_halving(few, index)
    if losses:
      effects[name] = mean(losses)
  if len(effects) < 2:
    return None
  wanted = [name for name in ("G", "A", "W") if name in effects]
  ordered = all(effects[a].value > effects[b].value for a, b in itertools.pairwise(wanted))
  apart = all(effects[a].low > effects[b].high for a, b in itertools.pairwise(wanted))
  against = any(effects[a].high < effects[b].low for a, b in itertools.pairwise(wanted))
  verdict = HOLDS if ordered and apart else FAILS if against else OPEN
  evidence = ", ".join(f"{name} {_points(effects[name])}" for name in wanted)
  names = {"G": "gradients", "A": "activations", "W": "weights"}
  statement = f"Accuracy is the more sensitive to bits of {', then of '.join(names[name] for name in wanted)}"
  return Claim(statement, verdict, f"lost when these bits are halved, up to 8 bits: {evidence}")


def _losses_of_halving(points: Sequence[Point], index: int) -> list[float]:
  """What is lost when the bits of weights (0), activations (1) or gradients (2) are halved, pair by pair."""
  pairs = _pairs(
    points,
    lambda p: ((*p.bits[:index], *p.bits[index + 1 :]), p.rest, p.width),
    lambda p: p.bits[index],
  )
  return [(b.accuracy - a.accuracy) / math.log2(b.bits[index] / a.bits[index]) for a, b in pairs]


def _channels(points: Sequence[Point]) -> Claim | None:
  """Channels buy insensitivity: wide networks lose less to quantization than narrow ones."""
  floats = {(p.rest, p.width): p.accuracy for p in points if p.bits == FLOAT}
  losses = {
    (p.bits, p.rest, p.width): floats[p.rest, p.width] - p.accuracy
    for p in points
    if p.bits != FLOAT and (p.rest, p.width) in floats and p.width is not None
  }
  by_setting: dict[Hashable, dict[float, float]] = collections.defaultdict(dict)
  for (bits, rest, width), loss in losses.items():
    by_setting[bits, rest][width] = loss
  gains = [
    (widths[a] - widths[b]) / math.log2(b / a)
    for widths in by_setting.values()
    for a, b in itertools.pairwise(sorted(widths))
  ]
  if not gains:
    return None
  effect = mean(gains)
  evidence = f"with twice the channels, the loss against float of the same width is smaller by {_points(effect)}"
  return Claim("Channels buy insensitivity to bit widths", _sign(effect), evidence)


def _saturation(points: Sequence[Point]) -> Claim | None:
  """Accuracy saturates near 8 gradient bits."""
  pairs = _pairs(
    [p for p in points if p.bits[2] in (8, 32) and max(p.bits[:2]) <= 8],
    lambda p: (p.bits[:2], p.rest, p.width),
    lambda p: p.bits[2],
  )
  if not pairs:
    return None
  gain = mean([b.accuracy - a.accuracy for a, b in pairs])
  verdict = HOLDS if gain.high < 0.01 else FAILS if gain.low > 0.01 else OPEN
  return Claim("Gradients of 8 bits are as good as float ones", verdict, f"32 bits over 8 bits: {_points(gain)}")


def _activations(points: Sequence[Point]) -> Claim | None:
  """With 1-bit weights, activations of 2 bits beat those of 1, and those of 4 beat those of 2."""
  ones = [p for p in points if p.bits[0] == 1]
  effects = []
  for low, high in ((1, 2), (2, 4)):
    pairs = _pairs(
      [p for p in ones if p.bits[1] in (low, high)], lambda p: (p.bits[2], p.rest, p.width), lambda p: p.bits[1]
    )
    if pairs:
      effects.append((f"A {low} to {high}", mean([b.accuracy - a.accuracy for a, b in pairs])))
  if not effects:
    return None
  verdicts = {_sign(effect) for _, effect in effects}
  verdict = HOLDS if verdicts == {HOLDS} else FAILS if FAILS in verdicts else OPEN
  evidence = ", ".join(f"{name}: {_points(effect)}" for name, effect in effects)
  return Claim("With 1-bit weights, more bits of activations help", verdict, evidence)


def _pretrained(points: Sequence[Point]) -> Claim | None:
  """A pretrained float network is a better start than random parameters."""
  field = "train.init_from"
  pairs = _pairs(
    [p for p in points if field in dict(p.rest)],
    lambda p: (p.bits, tuple(pair for pair in p.rest if pair[0] != field), p.width),
    lambda p: bool(dict(p.rest)[field] not in ("", "none")),
  )
  if not pairs:
    return None
  gain = mean([b.accuracy - a.accuracy for a, b in pairs])
  return Claim("Pretrained parameters are a better start", _sign(gain), f"over a start from scratch: {_points(gain)}")


def _sign(effect: Mean) -> str:
  if effect.count == 1:
    return OPEN
  return HOLDS if effect.low > 0 else FAILS if effect.high < 0 else OPEN


def _points(effect: Mean) -> str:
  """An effect in points of accuracy, with its interval."""
  interval = "" if effect.half_width is None else f" [{100 * effect.low:+.1f}, {100 * effect.high:+.1f}]"
  return f"{100 * effect.value:+.1f} points{interval} ({effect.count} {'pair' if effect.count == 1 else 'pairs'})"
