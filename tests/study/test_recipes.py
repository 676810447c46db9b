"""Optimizers against optax's own, learning rates over a training, and what decays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dorefa_study.config import TrainConfig
from dorefa_study.recipes import build_optimizer, decay_mask, learning_rate

PARAMS = {
  "conv": {"kernel": jnp.linspace(-1, 1, 2 * 2 * 3 * 4).reshape(2, 2, 3, 4), "bias": jnp.ones(4)},
  "bn": {"scale": jnp.full(4, 2.0), "bias": jnp.ones(4)},
  "fc": {"kernel": jnp.linspace(-1, 1, 8).reshape(4, 2)},
}
GRADIENTS = jax.tree.map(lambda leaf: jnp.sin(7 * leaf) + 0.1, PARAMS)


def moved(train, rate=0.1, steps=3):
  optimizer = build_optimizer(train)
  params, state = PARAMS, optimizer.init(PARAMS)
  for _ in range(steps):
    updates, state = optimizer.update(GRADIENTS, state, params)
    params = optax.apply_updates(params, jax.tree.map(lambda update: rate * update, updates))
  return params


def reference(optimizer, steps=3):
  params, state = PARAMS, optimizer.init(PARAMS)
  for _ in range(steps):
    updates, state = optimizer.update(GRADIENTS, state, params)
    params = optax.apply_updates(params, updates)
  return params


KERNELS = decay_mask(PARAMS, ("kernel",))


@pytest.mark.parametrize(
  ("train", "optimizer"),
  [
    (TrainConfig(), optax.adam(0.1, eps=1e-5)),
    (TrainConfig(optimizer="adam(b1=0.5)", adam_epsilon=1e-3), optax.adam(0.1, b1=0.5, eps=1e-3)),
    (TrainConfig(optimizer="sgd(momentum=0.9, nesterov=True)"), optax.sgd(0.1, 0.9, nesterov=True)),
    (
      TrainConfig(optimizer="sgd(momentum=0.9)", weight_decay=0.01),
      optax.chain(optax.add_decayed_weights(0.01, KERNELS), optax.sgd(0.1, 0.9)),
    ),
    (
      TrainConfig(optimizer="adamw", weight_decay=0.02, adam_epsilon=1e-8),
      optax.adamw(0.1, weight_decay=0.02, mask=KERNELS),
    ),
    (TrainConfig(optimizer="lion", weight_decay=0.0), optax.lion(0.1, weight_decay=0.0)),
    (TrainConfig(optimizer="sgd", clip_norm=0.5), optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1))),
  ],
)
def test_optimizers_are_optaxs_at_any_rate(train, optimizer):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), moved(train), reference(optimizer))


def test_muon_sees_kernels_as_matrices_with_outputs_last():
  params = moved(TrainConfig(optimizer="muon"))
  flat = {"k": PARAMS["conv"]["kernel"].reshape(12, 4)}
  optimizer = optax.contrib.muon(0.1, weight_decay=0.0)
  state = optimizer.init(flat)
  expected = flat
  for _ in range(3):
    updates, state = optimizer.update({"k": GRADIENTS["conv"]["kernel"].reshape(12, 4)}, state, expected)
    expected = optax.apply_updates(expected, updates)
  np.testing.assert_allclose(params["conv"]["kernel"].reshape(12, 4), expected["k"], rtol=1e-4, atol=1e-5)


def test_kinds_of_parameters():
  tree = {"params": PARAMS, "quantizers": {"conv": {"weights": {"step": jnp.ones(())}}}}
  kinds = {kind: decay_mask(tree, (kind,)) for kind in ("kernel", "bias", "norm", "quantizer")}
  true = {
    kind: [jax.tree_util.keystr(p) for p, v in jax.tree.leaves_with_path(mask) if v] for kind, mask in kinds.items()
  }
  assert true["bias"] == ["['params']['conv']['bias']"]
  assert true["norm"] == ["['params']['bn']['bias']", "['params']['bn']['scale']"]
  assert true["kernel"] == ["['params']['conv']['kernel']", "['params']['fc']['kernel']"]
  assert true["quantizer"] == ["['quantizers']['conv']['weights']['step']"]


def rates(**fields):
  train = dataclasses.replace(TrainConfig(learning_rate=1.0, epochs=10), **fields)
  rate = learning_rate(train, 100)
  return [round(rate(step), 6) for step in (0, 9, 49, 50, 74, 75, 99)]


def test_learning_rates():
  assert rates() == [1, 1, 1, 0.5, 0.5, 0.5, 0.5]
  assert rates(halve_at=(0.5, 0.75)) == [1, 1, 1, 0.5, 0.5, 0.25, 0.25]
  assert rates(schedule="constant") == [1] * 7
  assert rates(schedule="step(at=(0.5, 0.75), factor=0.1)") == [1, 1, 1, 0.1, 0.1, 0.01, 0.01]
  assert rates(schedule="linear")[3] == 0.5
  assert rates(schedule="linear(end=0.5)")[-1] == 0.505
  assert rates(schedule="cosine")[3] == 0.5
  assert rates(schedule="constant", warmup=1.0)[:2] == [0.1, 1.0]
