"""Parameters that come from elsewhere: a trial, an Orbax checkpoint, a msgpack file; and logits of a trial."""

import dataclasses
import json

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dorefa_study.config import DataConfig, TrainConfig, TrialConfig
from dorefa_study.data.loading import load_dataset
from dorefa_study.errors import UsageError
from dorefa_study.groups import to_record
from dorefa_study.models import ModelConfig
from dorefa_study.progress import Reporter
from dorefa_study.restore import restore_trial
from dorefa_study.starts import find_teacher, start_from
from dorefa_study.steps import Programs, build_steps
from dorefa_study.trial import run_trial

DATA = DataConfig("street_digits", train_size=64, test_size=20)
FLOAT = TrialConfig(
  "32,32,32", DATA, ModelConfig(width=0.03), TrainConfig(epochs=1, batch_size=16, brightness=0.0, contrast=(1.0, 1.0))
)


def train(config, directory, programs=None):
  directory.mkdir()
  result = run_trial(config, load_dataset(DATA), directory, reporter=Reporter(directory), programs=programs)
  (directory / "config.json").write_text(json.dumps(to_record(config)))
  return result


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
  directory = tmp_path_factory.mktemp("pretrained") / "float"
  train(FLOAT, directory)
  return directory


def starting(place, **fields):
  recipe = dataclasses.replace(FLOAT.train, init_from=str(place), **fields)
  return dataclasses.replace(FLOAT, bits="2,2,4", method="pact", train=recipe)


def fresh(config, num_classes=10):
  return build_steps(config, channels=3, num_classes=num_classes).init(jax.random.key(5))


def assert_same(found, wanted):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize("kind", ["trial", "orbax", "msgpack", "msgpack of params", "orbax of a state"])
def test_pretrained_float_to_quantized(pretrained, tmp_path, kind):
  variables = restore_trial(pretrained).variables
  place = tmp_path / "saved"
  if kind == "trial":
    place = pretrained
  elif kind == "msgpack":
    place.write_bytes(flax.serialization.to_bytes(variables))
  elif kind == "msgpack of params":
    place.write_bytes(flax.serialization.to_bytes(variables["params"]))
  else:
    tree = {"step": jnp.int32(3), "params": variables} if "state" in kind else variables
    checkpointer = ocp.StandardCheckpointer()
    checkpointer.save(place, tree)
    checkpointer.wait_until_finished()
  config = starting(place)
  state = fresh(config)
  started = start_from(config, state)
  assert_same(started.params, variables["params"])
  assert_same(started.quantizers, state.quantizers)  # the method's own are fresh
  if kind != "msgpack of params":
    assert_same(started.batch_stats, variables["batch_stats"])


def test_a_trial_trains_from_it_and_resumes_without_it(pretrained, tmp_path):
  config = dataclasses.replace(FLOAT, bits="1,2,4", train=dataclasses.replace(FLOAT.train, init_from=str(pretrained)))
  scratch = dataclasses.replace(FLOAT, bits="1,2,4")
  programs = Programs()
  first = train(config, tmp_path / "one", programs)
  assert first["status"] == "done"
  assert first["params_digest"] != train(scratch, tmp_path / "two", programs)["params_digest"]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"init_from": "/nowhere"}, "config.train.init_from: no file or directory '/nowhere'"),
    ({"init_from": "JUNK"}, "junk cannot be read as a trial, an Orbax checkpoint or a msgpack file of flax"),
    ({"init_from": "EMPTY"}, "empty cannot be read as a trial, an Orbax checkpoint"),
  ],
)
def test_what_is_no_start_is_named(tmp_path, change, message):
  (tmp_path / "junk").write_bytes(b"junk")
  (tmp_path / "empty").mkdir()
  places = {"JUNK": tmp_path / "junk", "EMPTY": tmp_path / "empty"}
  config = starting(places.get(change["init_from"], change["init_from"]))
  with pytest.raises(UsageError, match=message):
    start_from(config, fresh(config))


def test_other_shapes_are_named_and_may_stay_fresh(pretrained):
  config = starting(pretrained)
  state = fresh(config, num_classes=7)
  with pytest.raises(UsageError, match=r"params/fc/bias is \[10\] there, \[7\] here and 1 more\); name paths"):
    start_from(config, state)
  config = starting(pretrained, init_except="fc/")
  started = start_from(config, state)
  assert_same(started.params["fc"], state.params["fc"])
  assert_same(started.params["conv3"], restore_trial(pretrained).variables["params"]["conv3"])


def test_distillation_from_a_trial(pretrained):
  images = jnp.asarray(load_dataset(DATA).train.images[:16])
  labels, indices = jnp.zeros(16, jnp.int32), np.arange(16, dtype=np.int32)
  losses = {}
  for weight in (0.0, 1.0):
    recipe = dataclasses.replace(
      FLOAT.train, distill_from=str(pretrained), distill_weight=weight, distill_temperature=2.0
    )
    config = dataclasses.replace(FLOAT, train=recipe)
    teacher = find_teacher(config)
    steps = build_steps(config, channels=3, teacher=teacher)
    state = dataclasses.replace(
      steps.init(jax.random.key(0)), params=jax.tree.map(jnp.copy, teacher.variables["params"])
    )
    control = steps.control(0)
    trained = steps.train(state, images, labels, indices, jax.random.key(1), control, teacher.variables)
    losses[weight] = float(trained.totals["loss"])
  logits = np.asarray(teacher.steps.logits(teacher.variables, images, teacher.steps.control(0)), np.float64)
  assert losses[0.0] != losses[1.0]
  # A student with the teacher's weights and dropout of its own is near the entropy of the softened labels.
  p = np.exp(logits / 2 - np.log(np.exp(logits / 2).sum(1, keepdims=True)))
  assert losses[1.0] == pytest.approx(4 * -(p * np.log(p)).sum(1).mean(), rel=0.2)


def test_a_teacher_must_be_there_and_read_the_same_images(pretrained):
  recipe = dataclasses.replace(FLOAT.train, distill_from="/nowhere")
  with pytest.raises(UsageError, match="config.train.distill_from: /nowhere holds no config.json"):
    find_teacher(dataclasses.replace(FLOAT, train=recipe))
  recipe = dataclasses.replace(FLOAT.train, distill_from=str(pretrained))
  other = dataclasses.replace(FLOAT, train=recipe, data=dataclasses.replace(DATA, image_size=48))
  with pytest.raises(UsageError, match="images of 40 pixels there, 48 here"):
    find_teacher(other)


def test_a_moving_average_is_what_is_tested():
  recipe = dataclasses.replace(FLOAT.train, ema=0.5)
  steps = build_steps(dataclasses.replace(FLOAT, train=recipe), channels=3)
  state = steps.init(jax.random.key(0))
  images, labels = jnp.ones((16, 32, 32, 3), jnp.uint8), jnp.zeros(16, jnp.int32)
  start = jax.device_get(state.params)
  after = steps.train(state, images, labels, np.arange(16, dtype=np.int32), jax.random.key(1), steps.control(0))
  expected = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * np.asarray(b), start, after.params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after.tested_variables["params"], expected)
