"""Parameters of flax's layers, held for other operations."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dorefa_jax as dorefa
from dorefa_jax.linen.parameters import BatchNormVariables
from tests.kernels import native


def normalize(x, epsilon):
  def run(norm):
    mean = x.mean((0, 1, 2))
    var = jnp.square(x - mean.reshape(1, 1, 1, -1)).mean((0, 1, 2))
    z = (x - mean.reshape(1, 1, 1, -1)) * jax.lax.rsqrt(var + epsilon).reshape(1, 1, 1, -1)
    return z * norm[0].reshape(1, 1, 1, -1) + norm[1].reshape(1, 1, 1, -1), jnp.stack([mean, var])

  return run


def test_they_are_flaxs_batch_norms():
  x = jax.random.normal(jax.random.key(0), (5, 4, 3, 7)) * 3 + 1
  flax = nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-4)
  held = BatchNormVariables(7, momentum=0.9)
  variables = flax.init(jax.random.key(0), x)
  held_variables = held.init(jax.random.key(0), normalize(x, 1e-4))
  jax.tree.map(np.testing.assert_array_equal, held_variables, variables)
  scale = jnp.linspace(-1, 2, 7)
  variables = {**variables, "params": {"scale": scale, "bias": scale[::-1]}}
  expected = flax.apply(variables, x, mutable=["batch_stats"])
  got = held.apply(variables, normalize(x, 1e-4), mutable=["batch_stats"])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, expected)


@pytest.mark.skipif(not native.paths(), reason="no compiled library")
def test_a_model_has_the_same_variables_however_it_is_initialized():
  model = dorefa.models.SvhnConvNet(width=0.125, bits=dorefa.BitWidths(1, 2, 4))
  key, images = jax.random.key(0), jnp.zeros((2, 40, 40, 3))
  rngs = dict.fromkeys(("params", "gradients", "dropout"), key)
  expected = model.init(rngs, images)
  for backend in ("emulated", "integer"):
    jax.tree.map(np.testing.assert_array_equal, model.clone(backend=backend).init(rngs, images, train=True), expected)
