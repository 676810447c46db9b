"""Operations of common layers between quantized ones."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import dorefa_jax as dorefa
from tests.inference.test_freeze import check, emulated, freeze_chain


@pytest.mark.parametrize(
  "function",
  [
    lambda x: jnp.concatenate(jnp.split(x, [3, 7], -1)[::-1], -1),
    lambda x: jnp.concatenate(jnp.array_split(x, 3, -1)[::-1], -1),
    lambda x: sum(jnp.unstack(x, axis=1)),
    nn.glu,
    lambda x: jax.lax.optimization_barrier((x, 2 * x))[1],
    lambda x: jnp.stack([x, 2 * x], 1),
    lambda x: jnp.tile(x, (1, 1, 2)),
    lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 0)), mode="edge"),
    lambda x: nn.gelu(x, approximate=False),
    lambda x: jnp.where(jnp.any(x > 1, -1, keepdims=True), x, -x),
    lambda x: jax.nn.one_hot(jnp.argmin(x, -1), 12),
  ],
)
def test_operations_that_are_others_together(function):
  packed, expected, x = freeze_chain(lambda: [nn.Dense(12), function, emulated(4)], (4, 12))
  check(packed, expected, x, tolerance=1e-4)


@pytest.mark.parametrize(
  "layer",
  [
    lambda x: nn.MultiHeadDotProductAttention(4, deterministic=True)(x, x),
    lambda x: nn.DenseGeneral(16, axis=(-2, -1))(x),
    lambda x: nn.DenseGeneral((4, 3), axis=-1)(x),
  ],
)
def test_float_products_over_several_axes(layer):
  def layers():
    return [emulated(16), nn.BatchNorm(use_running_average=True), nn.sigmoid, layer, dorefa.bound, emulated(4)]

  packed, expected, x = freeze_chain(layers, (4, 8))
  check(packed, expected, x, tolerance=1e-4)


def test_operations_on_random_keys_are_refused_by_name():
  with pytest.raises(dorefa.FreezeError, match="operation 'scan' on activations"):
    freeze_chain(lambda: [emulated(12), nn.RNN(nn.SimpleCell(8)), emulated(4)], (4, 12))


@pytest.mark.parametrize("dtype", ["bfloat16", "int16", "uint16"])
def test_constants_that_no_file_holds_are_refused_by_name(dtype):
  class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = dorefa.linen.Dense(16, bits=dorefa.BitWidths(1, 2, 32), name="fc")(dorefa.bound(x))
      return (x.astype(dtype) + jnp.arange(16)[None].astype(dtype)).astype(jnp.float32)

  model = Model()
  variables = model.init(jax.random.key(0), jnp.ones((1, 8)))
  with pytest.raises(dorefa.FreezeError, match=f"operation 'add' has a constant of dtype {dtype}"):
    dorefa.freeze(model, variables, input_shape=(8,))
