import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

import dorefa_jax as dorefa
from dorefa_jax import BitWidths, LayerBits

IMAGES = jax.random.uniform(jax.random.key(7), (2, 40, 40, 3))


def test_the_first_matching_rule_counts():
  bits = LayerBits((("conv.", "8,8,8"), ("conv1", "2,2,2")), BitWidths(1, 2, 4))
  assert [str(bits.of(path)) for path in ("conv1", "conv12", "fc")] == ["8,8,8", "1,2,4", "1,2,4"]


@given(st.lists(st.tuples(st.sampled_from(["fc", "conv[0-9]", ".*/query"]), st.integers(1, 32))))
def test_text_reads_back(rules):
  bits = LayerBits(tuple((pattern, BitWidths(k, k, k)) for pattern, k in rules))
  assert LayerBits.parse(str(bits)) == bits


def test_leaves_are_widths_and_patterns_are_structure():
  bits = LayerBits((("fc", "8,8,32"),), BitWidths(1, 2, 4))
  assert jax.tree.leaves(bits) == [8, 8, 32, 1, 2, 4]
  assert jax.tree.map(lambda k: k, bits) == bits
  assert jax.tree.structure(bits) != jax.tree.structure(LayerBits((("conv", "8,8,32"),), BitWidths(1, 2, 4)))


@pytest.mark.parametrize("text", ["fc", "=1,2,4", "fc=1,2", "(=1,2,4"])
def test_bad_text_is_an_error(text):
  with pytest.raises(ValueError, match="rules|bit widths"):
    LayerBits.parse(text)


def test_rules_of_nothing_are_the_default():
  model = dorefa.models.SvhnConvNet(width=0.125)
  variables = model.init(jax.random.key(0), IMAGES)
  bits = BitWidths(2, 3, 32)
  mixed = model.apply(variables, IMAGES, bits=LayerBits((), bits))
  np.testing.assert_array_equal(mixed, model.apply(variables, IMAGES, bits=bits))


def test_exempt_layers_are_quantized_where_rules_name_them():
  plain = dorefa.models.SvhnConvNet(width=0.125)
  exempt = dorefa.models.SvhnConvNet(width=0.125, quantize_first=True, quantize_last=True)
  variables = plain.init(jax.random.key(0), IMAGES)
  bits = LayerBits((("conv0|fc", "2,3,32"),), BitWidths(2, 3, 32))
  mixed = plain.apply(variables, IMAGES, bits=bits)
  np.testing.assert_array_equal(mixed, exempt.apply(variables, IMAGES, bits=bits.default))
  layers = {layer.name: str(layer.bits) for layer in dorefa.summary(plain, IMAGES.shape, bits=bits).layers}
  assert layers["fc"] == "2,3,32"
  assert layers["conv0"] == "2,32,32"  # its input is pixels


def test_mixed_widths_freeze_and_train_in_one_program():
  model = dorefa.models.SvhnConvNet(width=0.125, backend="emulated")
  variables = model.init(jax.random.key(0), IMAGES)
  bits = LayerBits((("conv6", "8,8,8"), ("conv[12]", "1,1,4")), BitWidths(2, 2, 4))
  packed = dorefa.freeze(model, variables, bits=bits)
  np.testing.assert_allclose(packed(IMAGES), model.apply(variables, IMAGES, bits=bits), rtol=1e-4, atol=1e-5)

  @jax.jit
  def logits(bits):
    return model.apply(variables, IMAGES, bits=bits)

  traced = logits(jax.tree.map(jnp.asarray, bits))
  np.testing.assert_allclose(traced, model.apply(variables, IMAGES, bits=bits), rtol=1e-5, atol=1e-6)
  logits(jax.tree.map(lambda k: jnp.asarray(k + 1), bits))
  assert logits._cache_size() == 1


def test_a_network_of_ones_own():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x, bits):
      x = dorefa.linen.Dense(8, name="first")(x, bits=bits)
      return dorefa.linen.Dense(2, name="second")(x, bits=bits)

  x = jax.random.uniform(jax.random.key(1), (3, 4))
  bits = LayerBits((("first", "2,2,32"),))
  variables = Net().init(jax.random.key(0), x, bits)
  hidden = dorefa.linen.Dense(8).apply({"params": variables["params"]["first"]}, x, bits=BitWidths(2, 2, 32))
  expected = dorefa.linen.Dense(2).apply({"params": variables["params"]["second"]}, hidden)
  np.testing.assert_array_equal(Net().apply(variables, x, bits), expected)


def test_nnx_layers_are_assigned_theirs():
  model = nnx.Sequential(dorefa.nnx.Linear(4, 4, rngs=nnx.Rngs(0)), dorefa.nnx.Linear(4, 2, rngs=nnx.Rngs(1)))
  with pytest.raises(ValueError, match=r"'fc' names no layer; the quantized ones are layers/0, layers/1"):
    dorefa.nnx.assign_bits(model, LayerBits((("fc", "1,2,4"),)))
  with pytest.raises(ValueError, match="BitWidths"):
    model.layers[0](jnp.ones((1, 4)), bits=LayerBits(()))
