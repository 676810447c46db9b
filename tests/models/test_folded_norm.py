"""Batch norm as a line against flax's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dorefa_jax.models.folded_norm import FoldedBatchNorm


def test_it_is_flaxs_batch_norm_with_its_variables_and_gradients():
  x = jax.random.normal(jax.random.key(0), (5, 4, 3, 7)) * 3 + 1
  target = jax.random.normal(jax.random.key(1), x.shape)
  flax = nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-4)
  folded = FoldedBatchNorm(momentum=0.9, epsilon=1e-4)
  variables = flax.init(jax.random.key(0), x)
  scale = jnp.linspace(-1, 2, 7)
  variables = {**variables, "params": {"scale": scale, "bias": scale[::-1]}}
  assert jax.tree.structure(folded.init(jax.random.key(0), x)) == jax.tree.structure(variables)

  def loss(model, params, x):
    result, updates = model.apply({**variables, "params": params}, x, mutable=["batch_stats"])
    if model is folded:
      factor, offset = result
      result = x * factor.reshape(1, 1, 1, -1) + offset.reshape(1, 1, 1, -1)
    return jnp.sum(result * target), (result, updates)

  expected, got = (
    jax.value_and_grad(lambda params, x, model=model: loss(model, params, x), (0, 1), has_aux=True)(
      variables["params"], x
    )
    for model in (flax, folded)
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, expected)
