"""What a probe sees is what a network does: its inputs, its gradients, and their quantization noise."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dorefa_study.config import DataConfig, TrainConfig, TrialConfig
from dorefa_study.models import ModelConfig
from dorefa_study.networks import build_network
from dorefa_study.probe import build_probe, describe, histogram
from dorefa_study.steps import build_steps

CONFIG = TrialConfig(
  "2,2,2", DataConfig("street_digits"), ModelConfig(width=0.03, dropout_rate=0.0), TrainConfig(batch_size=8)
)


@pytest.fixture(scope="module")
def probed():
  steps = build_steps(CONFIG, channels=3)
  variables = steps.init(jax.random.key(0)).variables
  network = build_network(CONFIG.model, 10, steps.setting, "emulated", is_forced=True)
  images = jax.random.uniform(jax.random.key(1), (8, 40, 40, 3))
  labels = jnp.arange(8) % 10
  found = build_probe(network, steps.setting)(variables, images, labels, None)
  return steps, network, variables, images, labels, jax.device_get(found)


def test_every_layer_is_seen_and_exempt_ones_quantize_no_gradient(probed):
  *_, found = probed
  assert set(found) == {*(f"conv{index}" for index in range(7)), "fc"}
  assert {name: int(part["G"]) for name, part in found.items()} == {
    "conv0": 32, **{f"conv{index}": 2 for index in range(1, 7)}, "fc": 32,
  }  # fmt: skip
  assert found["conv0"]["noise"] == 0
  assert found["conv3"]["noise"] > 0


def test_inputs_are_the_layers_own(probed):
  *_, images, _, found = probed
  np.testing.assert_array_equal(found["conv0"]["inputs"], images)
  assert found["conv3"]["inputs"].min() >= 0
  assert found["conv3"]["inputs"].max() <= 1


def test_the_last_layers_gradient_is_that_of_the_loss(probed):
  steps, network, variables, images, labels, found = probed
  keys = {name: jax.random.key(0) for name in ("gradients", "dropout", "params", "default")}
  logits, _ = network.apply(variables, images, steps.setting, keys)
  expected = (jax.nn.softmax(logits) - jax.nn.one_hot(labels, 10)) / len(labels)
  np.testing.assert_allclose(found["fc"]["gradients"], expected, atol=1e-6)


def test_records_are_finite_and_count_everything(probed):
  *_, variables, _, _, found = probed
  record = describe(found, jax.device_get(variables["params"]))
  for name, part in record.items():
    for kind in ("weights", "activations", "gradients"):
      assert sum(part[kind]["counts"]) > 0, name
    assert 0 <= part["at_zero"] + part["at_one"] <= 1
  assert sum(record["fc"]["weights"]["counts"]) == variables["params"]["fc"]["kernel"].size
  assert record["conv0"]["gradient_to_noise"] is None
  assert record["conv6"]["gradient_to_noise"] > 0


def test_a_network_that_cannot_be_watched_is_left_out():
  config = dataclasses.replace(CONFIG, bits="1,2,4", model=ModelConfig("study.own_networks:Own"))
  steps = build_steps(dataclasses.replace(config, data=DataConfig("street_digits", image_size=16)), channels=3)
  assert build_probe(steps.network, steps.setting) is None


def test_histograms_leave_out_what_is_not_finite():
  found = histogram(np.array([0.0, np.nan, 1.0, np.inf]))
  assert (found["low"], found["high"], sum(found["counts"])) == (0.0, 1.0, 2)
  assert histogram(np.array([np.nan]))["counts"] == []
