"""Anybody's network trains: linen and nnx, with bits and method in its call, its factory, or nowhere."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dorefa_study.config import DataConfig, TrainConfig, TrialConfig, read
from dorefa_study.data.feeds import DeviceFeed
from dorefa_study.data.loading import load_dataset
from dorefa_study.errors import UsageError
from dorefa_study.groups import to_record
from dorefa_study.models import ModelConfig
from dorefa_study.progress import Reporter
from dorefa_study.restore import restore_trial
from dorefa_study.steps import Programs, build_steps
from dorefa_study.trial import Interrupted, evaluate, run_trial

DATA = DataConfig("street_digits", train_size=64, test_size=20, image_size=16)
TRAIN = TrainConfig(epochs=2, batch_size=16, brightness=0.0, contrast=(1.0, 1.0))
NETWORKS = {
  "linen float": ("Plain", "32,32,32", "dorefa"),
  "linen in the call": ("Quantized", "1,2,4", "dorefa"),
  "linen, static bits": ("Quantized", "2,2,4", "lsq"),
  "linen, own method": ("Quantized", "1,2,4", "study.own_networks:method(scale=0.5)"),
  "nnx": ("Own", "1,2,4", "dorefa"),
  "nnx, learned": ("Own", "2,2,4", "pact"),
  "nnx, a function": ("make_own", "8,8,32", "dorefa"),
}


@pytest.fixture(scope="module")
def dataset():
  return load_dataset(DATA)


def config_of(name, bits="32,32,32", method="dorefa", **model):
  return TrialConfig(bits, DATA, ModelConfig(f"study.own_networks:{name}", **model), TRAIN, method)


@pytest.mark.parametrize("kind", NETWORKS)
def test_it_trains_resumes_to_the_bit_and_is_read_back(tmp_path, dataset, kind):
  config = config_of(*NETWORKS[kind])
  results, programs = [], Programs()
  for name, stops in (("whole", 0), ("stopped", 5)):
    directory = tmp_path / name
    directory.mkdir()
    for attempt in range(2 if stops else 1):
      stop = functools.partial(next, iter([False] * stops + [True] if stops and not attempt else [False] * 99))
      try:
        result = run_trial(
          config, dataset, directory, reporter=Reporter(directory), should_stop=stop, programs=programs
        )
      except Interrupted:
        assert attempt == 0
    results.append(result)
  assert results[0]["status"] == "done"
  assert results[0]["params_digest"] == results[1]["params_digest"]
  (tmp_path / "whole" / "config.json").write_text(json.dumps(to_record(config)))
  trained = restore_trial(tmp_path / "whole")
  feed = DeviceFeed.of(dataset.test)
  assert evaluate(trained.steps, trained.variables, feed) == results[0]["last_test_accuracy"]


@pytest.mark.parametrize(("name", "start"), [("Quantized", 0.0), ("Own", 0.0)])
def test_bits_reach_its_layers(name, start):
  """The forward pass differs between settings, and only the quantized layer's weights are rounded."""
  losses = set()
  images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)), jnp.uint8)
  for bits in ("1,1,32", "2,2,32", "32,32,32"):
    steps = build_steps(config_of(name, bits), channels=3)
    state = steps.init(jax.random.key(0))
    losses.add(float(jnp.sum(steps.logits(state.variables, images, steps.control(0)))))
  assert len(losses) == 3


def test_layers_that_name_no_backend_train_on_the_kernels():
  from dorefa_jax.kernels import available

  steps = build_steps(config_of("Quantized", "1,2,4"), channels=3)
  images, labels = jnp.zeros((8, 16, 16, 3), jnp.uint8), jnp.zeros(8, jnp.int32)
  state = jax.eval_shape(steps.init, jax.random.key(0))
  text = steps.train.lower(
    state, images, labels, np.arange(8, dtype=np.int32), jax.random.key(0), steps.control(0), None
  ).as_text()
  assert ("dorefa" in text) == (available().is_compiled and jax.default_backend() == "cpu")


@pytest.mark.parametrize(
  ("config", "message"),
  [
    (config_of("Plain", "1,2,4"), "config.bits: study.own_networks:Plain takes no bits"),
    (config_of("Plain", method="lsq"), "config.method: study.own_networks:Plain takes no quantizers"),
    (config_of("no_network"), "must make a flax.linen or flax.nnx module, got int"),
    (
      dataclasses.replace(config_of("Own", "1,1,4", "fda_bnn"), schedule="noise=0.1..0"),
      "config.schedule: the call of study.own_networks:Own takes no quantizers",
    ),
    (dataclasses.replace(config_of("Own", "1,1,4"), rules="conv=8,8,8"), "'conv' names no layer"),
  ],
)
def test_what_reaches_no_layer_is_an_error(config, message):
  with pytest.raises((UsageError, ValueError), match=message):
    build_steps(config, channels=3).init(jax.random.key(0))


def test_arguments_of_a_factory_are_fields():
  values = {"model": {"name": "study.own_networks:Plain", "features": 4}, "data": {"image_size": 0}}
  assert read(TrialConfig, values).model.features == 4
  values["model"]["features"] = "many"
  with pytest.raises(UsageError, match=r"config.model.features must be an integer, got 'many'"):
    read(TrialConfig, values)
  with pytest.raises(UsageError, match="config.model: no field 'width'"):
    read(TrialConfig, {"model": {"name": "study.own_networks:Plain", "width": 0.5}})


def test_data_of_ones_own_with_its_own_size_and_classes(tmp_path):
  data = DataConfig("study.own_networks:images(count=40)", image_size=0, validation_size=6)
  dataset = load_dataset(data)
  assert dataset.train.images.shape == (26, 12, 10, 1)
  assert (dataset.num_classes, len(dataset.test.labels), len(dataset.validation.labels)) == (5, 8, 6)
  config = TrialConfig("32,32,32", data, ModelConfig("study.own_networks:Plain"), dataclasses.replace(TRAIN, epochs=8))
  result = run_trial(config, dataset, tmp_path, reporter=Reporter(tmp_path))
  assert result["test_accuracy_by_validation"] is not None
  assert 1 <= result["epoch_by_validation"] <= 8
  assert result["parameters"] == sum(
    leaf.size for leaf in jax.tree.leaves(build_steps(config, channels=1, num_classes=5).init(jax.random.key(0)).params)
  )
