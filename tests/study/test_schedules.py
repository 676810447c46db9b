"""Schedules: what they say, what a trial makes of them, and rules by layer."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dorefa_jax import BitWidths
from dorefa_study.config import DataConfig, TrainConfig, TrialConfig, phase
from dorefa_study.errors import UsageError
from dorefa_study.methods import build_method
from dorefa_study.models import ModelConfig
from dorefa_study.schedules import parse_schedule, with_numbers
from dorefa_study.steps import Programs, build_steps

SMALL = TrialConfig("1,1,4", DataConfig("street_digits"), ModelConfig(width=0.03), TrainConfig(batch_size=8))


def test_ramps():
  numbers = parse_schedule("noise=0.1..0:cosine terms=9..18", "x").numbers_at
  assert numbers(0.0) == {"noise": 0.1, "terms": 9.0}
  assert numbers(0.5) == {"noise": pytest.approx(0.05), "terms": 13.5}
  assert numbers(1.0) == {"noise": 0.0, "terms": 18.0}


@given(st.text(alphabet="bits=noise0123,.@: -e", max_size=40))
def test_any_text_is_read_or_refused(text):
  with contextlib.suppress(UsageError):
    parse_schedule(text, "config.schedule").numbers_at(0.5)


def test_bits_change_for_all_layers():
  config = dataclasses.replace(SMALL, rules="fc=8,8,8", schedule="bits=2,2,4@0.5 bits=32,32,32@0.9")
  assert [(phase(config, at).bits, phase(config, at).rules) for at in (0.0, 0.5, 0.95)] == [
    ("1,1,4", "fc=8,8,8"), ("2,2,4", ""), ("32,32,32", ""),
  ]  # fmt: skip


def test_numbers_go_into_every_part_or_one():
  method = with_numbers(build_method("fda_bnn"), {"terms": 12.0, "activations.noise": 0.5})
  assert (method.weights.terms, method.activations.terms) == (12.0, 12.0)
  assert (method.weights.noise, method.activations.noise) == (0.0, 0.5)


def test_a_methods_numbers_are_arguments_of_one_program():
  programs = Programs()
  config = dataclasses.replace(SMALL, method="fda_bnn", schedule="terms=9..18 noise=0.1..0:cosine")
  steps = build_steps(config, channels=3, total_steps=10, programs=programs)
  images, labels = jnp.ones((8, 32, 32, 3), jnp.uint8), jnp.zeros(8, jnp.int32)
  state = steps.init(jax.random.key(0))
  assert "weights" in state.quantizers["conv1"]  # the noise that is learned
  controls = [steps.control(step) for step in (0, 5, 10)]
  assert [float(control.numbers["terms"]) for control in controls] == [9.0, 13.5, 18.0]
  for control in controls:
    state = steps.train(state, images, labels, np.arange(8, dtype=np.int32), jax.random.key(1), control)
  assert steps.train._cache_size() == 1


def test_rules_reach_layers_of_the_network():
  images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)), jnp.uint8)
  programs, logits = Programs(), []
  for rules in ("", "conv6=8,8,8", "conv6=8,8,8 fc=2,2,8"):
    config = dataclasses.replace(SMALL, rules=rules)
    steps = build_steps(config, channels=3, programs=programs)
    logits.append(np.asarray(steps.logits(steps.init(jax.random.key(0)).variables, images, steps.control(0))))
  assert np.abs(logits[0] - logits[1]).max() > 1e-6
  assert np.abs(logits[1] - logits[2]).max() > 1e-6


def test_a_method_must_be_defined_at_all_bits_that_come():
  with pytest.raises(UsageError, match="config.schedule: bnn at bits 2,2,4"):
    dataclasses.replace(SMALL, method="bnn", schedule="bits=2,2,4@0.5").check("config")
  assert phase(SMALL, 0.5) is SMALL
  assert str(parse_schedule("", "x").bits_at(1.0, BitWidths(1, 1, 4))) == "1,1,4"
