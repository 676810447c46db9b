import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dorefa_jax as dorefa
from dorefa_jax.methods.dorefa import DorefaActivations
from dorefa_jax.methods.method import NO_STATE, quantizer
from dorefa_jax.models.svhn import MODEL_WIDTHS, scaled_features
from dorefa_jax.ops.pooling import max_pool_2x2

BITS = dorefa.BitWidths(1, 2, 4)
# (M multiply-accumulates, weights) of models A to D
SIZES = {"A": (41.74, 2_080_272), "B": (11.60, 522_248), "C": (3.48, 131_652), "D": (1.16, 33_458)}


def images(batch=2, size=40):
  return jnp.asarray(np.random.default_rng(0).uniform(0, 1, (batch, size, size, 3)).astype(np.float32))


@pytest.mark.parametrize("name", SIZES)
def test_size_of_the_papers_models(name):
  table = dorefa.summary(dorefa.models.SvhnConvNet(width=MODEL_WIDTHS[name]), (1, 40, 40, 3))
  macs, weights = SIZES[name]
  assert table.macs / 1e6 == pytest.approx(macs, abs=0.005)
  assert table.weights == weights


def test_parameters_are_those_of_the_paper(key):
  shapes = jax.eval_shape(lambda: dorefa.models.SvhnConvNet().init(key, images()))
  params = shapes["params"]
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 2_080_272 + 58 + 2048
  assert [name for name in params if "bias" in params[name] and name.startswith("conv")] == ["conv0"]
  assert sorted(shapes["batch_stats"]) == [f"bn{i}" for i in range(1, 7)]


@pytest.fixture(scope="module")
def trained():
  model = dorefa.models.SvhnConvNet(width=0.125)
  return model, model.init(jax.random.key(0), images())


def layer_bits(model, bits):
  return {layer.name: str(layer.bits) for layer in dorefa.summary(model, (1, 40, 40, 3), bits=bits).layers}


def test_first_and_last_layer_are_exempt_unless_asked_for():
  def bits(**flags):
    found = layer_bits(dorefa.models.SvhnConvNet(width=0.125, **flags), BITS)
    assert {found[f"conv{i}"] for i in range(1, 7)} == {"1,2,4"}
    return found["conv0"], found["fc"]

  assert bits() == ("32,32,32", "32,32,32")
  assert bits(quantize_first=True) == ("1,32,4", "32,32,32")
  assert bits(quantize_last=True) == ("32,32,32", "1,2,4")


def test_default_is_the_float_model_and_a_call_overrides(trained):
  model, variables = trained
  x = images()
  np.testing.assert_array_equal(model.apply(variables, x), model.apply(variables, x, bits=dorefa.BitWidths()))
  own = dorefa.models.SvhnConvNet(width=0.125, bits=BITS)
  np.testing.assert_array_equal(own.apply(variables, x), model.apply(variables, x, bits=BITS))
  assert np.any(own.apply(variables, x) != model.apply(variables, x))


def test_train_step_updates_statistics_and_has_finite_gradients(trained):
  model, variables = trained

  def loss(params):
    logits, updates = model.apply(
      {**variables, "params": params},
      images(),
      bits=BITS,
      train=True,
      mutable=["batch_stats"],
      rngs={"gradients": jax.random.key(1), "dropout": jax.random.key(2)},
    )
    return jnp.sum(logits**2), updates

  gradients, updates = jax.grad(loss, has_aux=True)(variables["params"])
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
  assert all(np.any(gradients[name]["kernel"]) for name in gradients if "kernel" in gradients[name])
  assert np.any(updates["batch_stats"]["bn1"]["mean"] != 0)


def test_missing_gradient_key_raises(trained):
  model, variables = trained
  with pytest.raises(ValueError, match="no PRNG key"):
    jax.grad(lambda p: model.apply({**variables, "params": p}, images(), bits=BITS).sum())(variables["params"])


def test_one_program_for_all_bits(trained):
  model, variables = trained
  forward = jax.jit(lambda bits: model.apply(variables, images(), bits=bits))
  for bits in (BITS, dorefa.BitWidths(8, 8, 8), dorefa.BitWidths()):
    np.testing.assert_allclose(
      forward(jax.tree.map(jnp.int32, bits)), model.apply(variables, images(), bits=bits), rtol=1e-4, atol=1e-4
    )
  assert forward._cache_size() == 1


def test_dropout_keeps_the_last_convolutions_input_on_the_grid(trained):
  """The factor 1 / (1 - rate) follows the product: the input has k-bit values, dropped ones are zero."""
  seen = []

  @quantizer
  class Watched(DorefaActivations):
    def __call__(self, x, bits, state=NO_STATE):
      seen.append((x, super().__call__(x, bits)))
      return seen[-1][1]

  model, variables = trained
  model = model.clone(backend="emulated", quantizers=dorefa.Quantizers(activations=Watched()))
  model.apply(variables, images(8), bits=BITS, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})
  before, after = seen[5]  # of the last convolution; the first quantizes no input
  assert (np.isclose(np.asarray(after)[..., None] * 3, np.arange(4)).any(-1)).all()
  assert float(before.max()) <= 1
  assert 0.3 < float((np.asarray(before) == 0).mean()) < 1


def test_dropout_keeps_the_expectation():
  model = dorefa.models.SvhnConvNet(width=0.125, dropout_rate=0.5)
  x = images(2)
  variables = model.init(jax.random.key(0), x)

  def conv6(key):
    _, state = model.apply(variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": key})
    return state["batch_stats"]["bn6"]["mean"]

  means = jnp.stack([conv6(jax.random.key(i)) for i in range(40)])
  without = dorefa.models.SvhnConvNet(width=0.125, dropout_rate=0.0)
  _, state = without.apply(variables, x, train=True, mutable=["batch_stats"])
  expected = state["batch_stats"]["bn6"]["mean"]
  error = np.abs(np.asarray(means.mean(0) - expected))
  assert (error < 5 * np.asarray(means.std(0)) / np.sqrt(40) + 1e-6).mean() > 0.98


@pytest.mark.parametrize("size", [41, 48])
def test_larger_images(size):
  model = dorefa.models.SvhnConvNet(width=0.125)
  x = images(1, size)
  assert model.apply(model.init(jax.random.key(0), x), x).shape == (1, 10)


def test_pooling_is_flaxs(key):
  import flax.linen as nn

  for shape in ((2, 6, 8, 3), (2, 5, 7, 3)):
    x = jax.random.normal(key, shape)
    np.testing.assert_array_equal(max_pool_2x2(x), nn.max_pool(x, (2, 2), (2, 2), "SAME"))
    ours = jax.grad(lambda x: jnp.sum(max_pool_2x2(x) ** 2))(x)
    flaxs = jax.grad(lambda x: jnp.sum(nn.max_pool(x, (2, 2), (2, 2), "SAME") ** 2))(x)
    np.testing.assert_allclose(ours, flaxs, rtol=1e-6)


def test_bfloat16(trained):
  variables = trained[1]
  model = dorefa.models.SvhnConvNet(width=0.125, dtype=jnp.bfloat16)
  with jax.numpy_dtype_promotion("standard"):  # flax's own batch norm mixes dtypes
    assert model.apply(variables, images(), bits=BITS).dtype == jnp.float32


@pytest.mark.parametrize("width", [0, -1, 0.01, "1"])
def test_width_without_channels_is_named(width):
  with pytest.raises(ValueError, match="width must be"):
    scaled_features(width)


@pytest.mark.parametrize(
  "bad", [jnp.zeros((1, 32, 32, 3)), jnp.zeros((40, 40, 3)), jnp.zeros((1, 40, 40, 3), jnp.uint8)]
)
def test_wrong_images_are_named(bad, key):
  with pytest.raises(ValueError, match="images must be"):
    dorefa.models.SvhnConvNet(width=0.125).init(key, bad)
