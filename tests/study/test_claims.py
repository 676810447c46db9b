"""Claims: what invented studies of known laws say of them."""

import math
import random

import pytest

from dorefa_study.axes import Axes
from dorefa_study.claims import FAILS, HOLDS, OPEN, examine
from dorefa_study.plan import GridConfig, SweepConfig, plan_trials
from dorefa_study.runner import load_states

BITS = tuple(f"{w},{a},{g}" for w in (1, 2, 4) for a in (1, 2, 4) for g in (2, 4, 8, 32)) + ("32,32,32",)


def study(tmp_path, law, noise=0.001, **fields):
  grid = GridConfig(bits=BITS, widths=(1.0, 0.5, 0.25), seeds=(0, 1))
  states = load_states(plan_trials(SweepConfig(grid=grid, **fields)), tmp_path)
  rng = random.Random(0)
  for state in states:
    bits = state.trial.bits
    accuracy = law(int(bits.weights), int(bits.activations), int(bits.gradients), state.trial) + rng.gauss(0, noise)
    state.status, state.result = "done", {"best_test_accuracy": accuracy}
  return {claim.statement.partition(" ")[0]: claim for claim in examine(states)}


def loss(k, size):
  return size * max(0.0, 3 - math.log2(k))


def papers(w, a, g, trial):
  width = trial.config.model.width
  return 0.97 - (loss(w, 0.002) + loss(a, 0.01) + loss(g, 0.04)) * (0.5 / width) ** 0.5


def test_the_papers_laws_hold(tmp_path):
  found = study(tmp_path, papers)
  assert {name: claim.verdict for name, claim in found.items()} == {
    "Accuracy": HOLDS, "Channels": HOLDS, "Gradients": HOLDS, "With": HOLDS,
  }  # fmt: skip
  assert "G +4." in found["Accuracy"].evidence
  assert "pairs" in found["Channels"].evidence


def test_other_laws_do_not(tmp_path):
  found = study(tmp_path, lambda w, a, g, trial: 0.9 - loss(w, 0.03) + loss(a, 0.01) - (0.05 if g == 8 else 0))
  assert found["Accuracy"].verdict == FAILS
  assert found["With"].verdict == FAILS
  assert found["Gradients"].verdict == FAILS


def test_noise_says_nothing(tmp_path):
  found = study(tmp_path, lambda *_: 0.9, noise=0.05)
  assert found["Accuracy"].verdict == OPEN
  assert found["Channels"].verdict != FAILS


def test_pretrained_against_scratch(tmp_path):
  vary = Axes(("train.init_from", ("", "runs/float")))
  found = study(tmp_path, lambda w, a, g, trial: 0.9 + 0.02 * bool(trial.config.train.init_from), vary=vary)
  assert found["Pretrained"].verdict == HOLDS
  assert "+2.0 points" in found["Pretrained"].evidence


@pytest.mark.parametrize("bits", [("32,32,32",), ("1,2,4",)])
def test_what_cannot_be_told_is_left_out(tmp_path, bits):
  states = load_states(plan_trials(SweepConfig(grid=GridConfig(bits=bits))), tmp_path)
  for state in states:
    state.status, state.result = "done", {"best_test_accuracy": 0.9}
  assert examine(states) == []
