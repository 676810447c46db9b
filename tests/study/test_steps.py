import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dorefa_study.config import DataConfig, TrainConfig, TrialConfig
from dorefa_study.models import ModelConfig
from dorefa_study.steps import Programs, build_steps
from dorefa_study.weights import weight_statistics

CONFIG = TrialConfig(model=ModelConfig(width=0.03), train=TrainConfig(batch_size=8))
GRID = [(1, 1, 2), (1, 2, 4), (8, 8, 8), (1, 2, 32), (32, 32, 32)]


@pytest.fixture(scope="module")
def steps():
  return build_steps(CONFIG, channels=3, total_steps=10)


def data(n=16):
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.integers(0, 256, (n, 32, 32, 3)).astype(np.uint8))
  return images, jnp.asarray(rng.integers(0, 10, n).astype(np.int32))


def at(bits, **changes):
  """A control of the program that all settings share."""
  config = dataclasses.replace(CONFIG, bits=",".join(map(str, bits)), **changes)
  return build_steps(config, channels=3, total_steps=10).control(0)


def test_one_compiled_program_serves_the_whole_grid(steps, key):
  batch, indices = data(), np.arange(8, dtype=np.int32)
  everywhere = np.ones(8, bool)
  losses = []
  for bits in GRID:
    state = steps.train(steps.init(key), *batch, indices, key, at(bits))
    losses.append(float(state.totals["loss"]))
    steps.evaluate(state.variables, *batch, indices, everywhere, at(bits))
  assert steps.train._cache_size() == 1
  assert steps.evaluate._cache_size() == 1
  assert np.isfinite(losses).all()
  assert len(set(losses)) >= 4  # bits do matter; (1,2,4) and (1,2,32) share the forward pass


def test_a_step_is_a_pure_function_of_its_arguments(steps, key):
  batch, indices, bits = data(), np.arange(8, dtype=np.int32), at((1, 2, 4))

  def run(step_key):
    state = steps.init(key)
    for _ in range(2):
      state = steps.train(state, *batch, indices, step_key, bits)
    return jax.device_get(state.params)

  jax.tree.map(np.testing.assert_array_equal, run(key), run(key))
  other = run(jax.random.key(1))
  assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(run(key)), jax.tree.leaves(other)))


def test_totals_are_sums_over_the_epoch(steps, key):
  batch, indices, bits = data(), np.arange(8, dtype=np.int32), at((32, 32, 32))
  state = steps.train(steps.init(key), *batch, indices, key, bits)
  first = float(state.totals["loss"])
  state = steps.train(state, *batch, indices, key, bits)
  assert int(state.step) == 2
  assert float(state.totals["loss"]) > first
  assert 0 <= float(state.totals["correct"]) <= 16
  assert set(state.totals["gradient_squares"]) == {*(f"conv{i}" for i in range(7)), "fc"}


def test_evaluation_leaves_out_what_is_not_valid(steps, key):
  state, (images, labels) = steps.init(key), data()
  bits, indices = at((32, 32, 32)), np.arange(8, dtype=np.int32)

  def count(valid):
    return int(steps.evaluate(state.variables, images, labels, indices, valid, bits))

  each = [count(np.arange(8) == i) for i in range(8)]
  assert sum(each) == count(np.ones(8, bool))
  assert count(np.zeros(8, bool)) == 0


def test_learning_rate_is_halved_where_the_recipe_says():
  def rates(halve_at, total=200):
    config = dataclasses.replace(CONFIG, train=TrainConfig(halve_at=halve_at))
    schedule = build_steps(config, channels=3, total_steps=total).learning_rate
    return [round(float(schedule(step)) * 1e3, 6) for step in (0, 99, 100, 149, 150, 199)]

  assert rates((0.5,)) == [1, 1, 0.5, 0.5, 0.5, 0.5]
  assert rates((0.5, 0.75)) == [1, 1, 0.5, 0.5, 0.25, 0.25]
  assert rates((0.5, 0.5)) == [1, 1, 0.25, 0.25, 0.25, 0.25]
  assert rates(()) == [1] * 6


def test_only_the_last_layer_decays(key):
  """With a huge penalty the loss grows by half the squared weights of fc, and of nothing else."""
  batch, indices, bits = data(), np.arange(8, dtype=np.int32), at((32, 32, 32))

  def loss(l2):
    config = dataclasses.replace(CONFIG, train=TrainConfig(batch_size=8, last_layer_l2=l2))
    built = build_steps(config, channels=3, total_steps=10)
    state = built.init(key)
    squared = float(jnp.sum(state.params["fc"]["kernel"] ** 2))
    return float(built.train(state, *batch, indices, key, bits).totals["loss"]), squared

  (plain, squared), (decayed, _) = loss(0.0), loss(10.0)
  assert decayed - plain == pytest.approx(5 * squared, rel=1e-4)


def test_gray_images_run():
  config = dataclasses.replace(CONFIG, data=DataConfig("fashion_mnist"))
  built = build_steps(config, channels=1, total_steps=1)
  shapes = jax.eval_shape(built.init, jax.random.key(0))
  assert shapes.params["conv0"]["kernel"].shape[2] == 1


def test_weight_statistics():
  params = {"conv": {"kernel": jnp.array([[3.0, -4.0, 0.0, 0.0]])}, "bn": {"scale": jnp.ones(2)}}
  assert weight_statistics(params) == {"conv": {"rms": 2.5, "max": 4.0, "positive": 0.75}}


def test_trials_share_programs_that_differ_in_arguments_alone(key):
  programs = Programs()

  def build(**changes):
    return build_steps(dataclasses.replace(CONFIG, **changes), channels=3, total_steps=10, programs=programs)

  first = build(bits="1,2,4")
  slow = dataclasses.replace(CONFIG.train, learning_rate=1e-4, seed=3, epochs=7, schedule="cosine", warmup=1.0)
  assert build(bits="8,8,8", train=slow).train is first.train
  assert build(bits="32,32,32").train is not first.train  # floats are no work for the kernels
  assert build(bits="1,2,4", method="xnor_net", model=ModelConfig(width=0.03)).train is not first.train
  flipped = dataclasses.replace(CONFIG.train, flip=True)
  assert build(bits="1,2,4", train=flipped).train is not first.train


def test_the_learning_rate_is_an_argument(key):
  batch, indices = data(), np.arange(8, dtype=np.int32)
  steps = build_steps(CONFIG, channels=3, total_steps=10)
  control = steps.control(0)
  moved = []
  for rate in (1e-3, 2e-3):
    before = steps.init(key)
    start = np.asarray(before.params["fc"]["kernel"])
    after = steps.train(before, *batch, indices, key, dataclasses.replace(control, learning_rate=np.float32(rate)))
    moved.append(np.asarray(after.params["fc"]["kernel"]) - start)
  np.testing.assert_allclose(moved[1], 2 * moved[0], rtol=1e-3, atol=1e-6)
  assert steps.train._cache_size() == 1
