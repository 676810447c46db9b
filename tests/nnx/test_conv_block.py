"""nnx's blocks against linen's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import dorefa_jax as dorefa
from tests.kernels import native

BITS = dorefa.BitWidths(1, 2, 4)


@pytest.mark.parametrize("backend", ["emulated", "integer"])
@pytest.mark.parametrize("pool", [None, 2])
def test_nnx_and_linen_agree(backend, pool):
  if backend == "integer" and not native.paths():
    pytest.skip("no compiled library")
  x = jax.random.uniform(jax.random.key(1), (3, 8, 8, 16), minval=-0.4, maxval=1.3)
  block = dorefa.nnx.ConvBlock(16, 20, 3, pool=pool, bits=BITS, backend=backend, rngs=nnx.Rngs(0))
  linen = dorefa.linen.ConvBlock(20, 3, pool=pool, bits=BITS, backend=backend)
  bn = {"scale": block.bn.scale[...], "bias": block.bn.bias[...]}
  variables = {
    "params": {"conv": {"kernel": block.conv.kernel[...]}, "bn": bn},
    "batch_stats": {"bn": {"mean": jnp.zeros(20), "var": jnp.ones(20)}},
  }
  key = jax.random.key(3)
  np.testing.assert_allclose(
    nnx.view(block, deterministic=True, use_running_average=True)(x), linen.apply(variables, x), rtol=1e-6, atol=1e-6
  )
  y = block(x, rngs=key)
  expected, updates = linen.apply(
    variables, x, train=True, mutable=["batch_stats"], rngs={"gradients": jax.random.key(3)}
  )
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(block.bn.mean[...], updates["batch_stats"]["bn"]["mean"], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(block.bn.var[...], updates["batch_stats"]["bn"]["var"], rtol=1e-5, atol=1e-6)


def test_what_is_learned_has_a_type_of_its_own():
  x = jax.random.uniform(jax.random.key(1), (3, 8, 8, 16))
  block = dorefa.nnx.ConvBlock(
    16, 20, 3, bits=dorefa.BitWidths(2, 2, 4), quantizers=dorefa.methods.lsq(), rngs=nnx.Rngs(0)
  )
  assert len(jax.tree.leaves(nnx.state(block, dorefa.nnx.QuantizerParam))) == 2
  assert "quantizer_state" not in str(nnx.state(block, nnx.Param))
  wanted = nnx.Any(nnx.Param, dorefa.nnx.QuantizerParam)
  gradients = nnx.grad(lambda block: block(x).sum(), argnums=nnx.DiffState(0, wanted))(block)
  steps = jax.tree.leaves(
    nnx.state(gradients, dorefa.nnx.QuantizerParam) if False else gradients["conv"]["quantizer_state"]
  )
  assert all(float(jnp.abs(step)) > 0 for step in steps)
  before = block.conv.quantizer_state["activations"]["step"][...]
  dorefa.nnx.initialize_quantizers(block.conv, 3 * x, nnx.Rngs(0))
  assert float(block.conv.quantizer_state["activations"]["step"][...]) != float(before)
