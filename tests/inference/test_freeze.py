"""Frozen models against the emulation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import dorefa_jax as dorefa
from dorefa_jax.inference.graph import Conv, MaxPool, Segment
from tests.kernels import native
from tests.on_path import call_on_path

PATHS = [*native.paths(), "xla"]
RNG = np.random.default_rng(0)


def images(shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).random(shape, np.float32))


def spread(variables, seed=0):
  """Batch norms as training leaves them, and worse: negative and zero scales, any mean."""
  rng = np.random.default_rng(seed)

  def change(path, leaf):
    name = jax.tree_util.keystr(path)
    if "mean" in name:
      return rng.normal(0, 0.3, leaf.shape)
    if "var" in name:
      return rng.uniform(0.3, 2, leaf.shape)
    if "scale" in name:
      return np.where(rng.random(leaf.shape) < 0.1, 0, rng.normal(0.5, 1, leaf.shape))
    if "bias" in name:
      return rng.normal(0.3, 0.5, leaf.shape)
    return leaf

  return jax.tree_util.tree_map_with_path(lambda path, leaf: jnp.asarray(change(path, leaf), jnp.float32), variables)


def check(packed, expected, x, *, tolerance=1e-5, paths=(*PATHS[:1], "xla")):
  scale = float(jnp.abs(expected).max()) + 1e-6
  for path in paths:
    got = call_on_path(path, packed, x)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=tolerance * scale, rtol=0, err_msg=path)


def segments(packed):
  return [node for node in packed.graph.nodes if isinstance(node, Segment)]


@pytest.mark.parametrize("bits", [(1, 1), (1, 2), (2, 2)])
def test_an_svhn_model_is_one_segment_equal_to_the_emulation(bits):
  bits = dorefa.BitWidths(*bits, 32)
  model = dorefa.models.SvhnConvNet(width=0.25, backend="emulated")
  x = images((8, 40, 40, 3))
  variables = spread(model.init(jax.random.key(0), x[:1]))
  packed = dorefa.freeze(model, variables, bits=bits)
  (segment,) = segments(packed)
  assert [type(layer) for layer in segment.layers].count(Conv) == 7
  assert [type(layer) for layer in segment.layers].count(MaxPool) == 2
  assert packed.graph.notes == {}
  expected = jax.jit(lambda x: model.apply(variables, x, bits=bits))(x)
  check(packed, expected, x, paths=PATHS if bits.activations == 2 else PATHS[:1])


def test_models_on_kernels_freeze_as_their_emulation_does():
  model = dorefa.models.SvhnConvNet(width=0.5, bits=dorefa.BitWidths(1, 2, 32))
  x = images((4, 40, 40, 3))
  variables = spread(model.init(jax.random.key(0), x[:1]))
  packed = dorefa.freeze(model, variables)
  assert len(segments(packed)) == 1
  check(packed, model.clone(backend="emulated").apply(variables, x), x, paths=PATHS[:1])


@pytest.mark.parametrize("kind", ["abs_clip", "clip"])
@pytest.mark.parametrize("quantize_ends", [False, True])
def test_variants_of_the_svhn_model(kind, quantize_ends):
  bits = dorefa.BitWidths(1, 3, 32)
  model = dorefa.models.SvhnConvNet(
    width=0.125, bound=kind, quantize_first=quantize_ends, quantize_last=quantize_ends, backend="emulated"
  )
  x = images((4, 40, 40, 3))
  variables = spread(model.init(jax.random.key(0), x[:1]))
  packed = dorefa.freeze(model, variables, bits=bits)
  check(packed, jax.jit(lambda x: model.apply(variables, x, bits=bits))(x), x, paths=PATHS[:1])
  assert not packed.graph.notes  # no floats are stored between layers


class Sequential(nn.Module):
  """Strides, dilation, groups, any pooling, two dense layers."""

  bits: dorefa.BitWidths

  @nn.compact
  def __call__(self, x, train=False):
    conv = dorefa.linen.Conv
    x = nn.relu(nn.Conv(64, (5, 5), strides=2)(x))
    x = conv(64, (3, 3), padding=((1, 0), (2, 1)), feature_group_count=2, bits=self.bits, backend="emulated")(x)
    x = dorefa.bound(nn.BatchNorm(use_running_average=not train)(x))
    x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
    x = conv(70, (3, 3), kernel_dilation=2, bits=self.bits, backend="emulated")(x)
    x = nn.max_pool(nn.BatchNorm(use_running_average=not train)(x), (2, 2), (2, 2))
    x = dorefa.linen.Dense(20, bits=self.bits, backend="emulated")(x.reshape(x.shape[0], -1))
    x = nn.sigmoid(nn.BatchNorm(use_running_average=not train)(x))
    return nn.Dense(5)(dorefa.linen.Dense(33, bits=self.bits, backend="emulated")(x))


@pytest.mark.parametrize("bits", [(1, 2), (3, 4), (8, 8)])
def test_a_users_sequential_model(bits):
  model = Sequential(dorefa.BitWidths(*bits, 32))
  x = images((5, 20, 23, 3))
  variables = spread(model.init(jax.random.key(0), x[:1]), 1)
  packed = dorefa.freeze(model, variables, input_shape=x.shape[1:])
  (segment,) = segments(packed)
  assert sum(isinstance(layer, Conv) for layer in segment.layers) == 5
  # At 8 bits a rounding of the first float layer moves a code by one, which later layers spread.
  check(packed, model.apply(variables, x), x, tolerance=1e-5 if bits == (1, 2) else 0.02)


class Residual(nn.Module):
  """A shortcut of floats around two quantized layers, between which codes pass."""

  @nn.compact
  def __call__(self, x):
    bits = dorefa.BitWidths(1, 2, 32)
    x = nn.Conv(16, (3, 3))(x)
    for _ in range(2):
      y = nn.BatchNorm(use_running_average=True)(x)
      y = dorefa.linen.Conv(16, (3, 3), bits=bits, backend="emulated")(y)
      y = nn.BatchNorm(use_running_average=True)(y)
      x = x + dorefa.linen.Conv(16, (3, 3), bits=bits, backend="emulated")(y)
    return nn.Dense(4)(x.mean((1, 2)))


def test_a_users_residual_model():
  x = images((3, 8, 8, 3))
  model = Residual()
  variables = spread(model.init(jax.random.key(0), x[:1]))
  packed = dorefa.freeze(model, variables, input_shape=x.shape[1:])
  assert [len(segment.layers) for segment in segments(packed)] == [2, 2]
  assert set(packed.graph.notes) == {"Conv_1", "Conv_3"}
  assert "elsewhere" in packed.graph.notes["Conv_1"]
  assert "sum of branches" in packed.graph.notes["Conv_3"]
  check(packed, model.apply(variables, x), x)


class NnxModel(nnx.Module):
  def __init__(self, rngs):
    bits = dorefa.BitWidths(2, 2, 32)
    self.first = dorefa.nnx.Conv(2, 24, (3,), bits=bits, backend="emulated", rngs=rngs)
    self.norm = nnx.BatchNorm(24, rngs=rngs)
    self.second = dorefa.nnx.Linear(24 * 9, 6, bits=bits, backend="emulated", rngs=rngs)

  def __call__(self, x):
    x = self.norm(self.first(x))
    return self.second(x.reshape(x.shape[0], -1))


def test_an_nnx_model_of_one_dimension():
  model = NnxModel(nnx.Rngs(0))
  x = images((4, 9, 2))
  packed = dorefa.freeze(model, input_shape=(9, 2))
  model.eval()
  assert len(segments(packed)) == 1
  check(packed, model(x), x)


def test_a_function_of_dense_layers():
  layer = dorefa.linen.Dense(300, bits=dorefa.BitWidths(1, 1, 32), backend="emulated")
  variables = layer.init(jax.random.key(0), jnp.zeros((1, 100)))
  x = images((7, 100))
  packed = dorefa.freeze(lambda x: layer.apply(variables, x), input_shape=(100,))
  check(packed, layer.apply(variables, x), x)


def test_a_sum_exactly_on_a_boundary_rounds_as_the_emulation_does():
  """All sums are multiples of a quarter, and so are the boundaries."""

  class OnBoundaries(nn.Module):
    @nn.compact
    def __call__(self, x):
      bits = dorefa.BitWidths(1, 1, 32)
      x = dorefa.linen.Conv(32, (1, 1), bits=bits, use_bias=False, backend="emulated", name="first")(x)
      scale = jnp.where(jnp.arange(32) % 2 == 0, 0.25, -0.25)
      offset = jnp.arange(32, dtype=jnp.float32) / 8
      x = x * jnp.broadcast_to(scale, x.shape) + jnp.broadcast_to(offset, x.shape)
      return dorefa.linen.Conv(8, (1, 1), bits=bits, use_bias=False, backend="emulated", name="second")(x)

  model = OnBoundaries()
  x = images((4, 6, 6, 8))
  variables = model.init(jax.random.key(0), x[:1])
  ones = jax.tree.map(lambda w: jnp.where(w > 0, 1.0, -1.0), variables)
  packed = dorefa.freeze(model, ones, input_shape=x.shape[1:])
  expected = model.apply(ones, x)
  for path in PATHS:
    np.testing.assert_array_equal(call_on_path(path, packed, x), expected)


def test_an_image_that_is_not_finite_gives_nan_for_it_alone():
  model = dorefa.models.SvhnConvNet(width=0.125)
  x = images((3, 40, 40, 3))
  variables = model.init(jax.random.key(0), x[:1])
  packed = dorefa.freeze(model, variables, bits=dorefa.BitWidths(1, 2, 4))
  for bad in (jnp.nan, jnp.inf):
    broken = x.at[1, 20, 20, 1].set(bad)
    for path in PATHS:
      got = call_on_path(path, packed, broken)
      assert jnp.isnan(got[1]).all()
      np.testing.assert_array_equal(got[jnp.array([0, 2])], call_on_path(path, packed, x)[jnp.array([0, 2])])


BITS = dorefa.BitWidths(1, 2, 32)


def emulated(features, kernel=None, bits=BITS):
  if kernel is None:
    return dorefa.linen.Dense(features, bits=bits, backend="emulated")
  return dorefa.linen.Conv(features, kernel, bits=bits, backend="emulated")


def freeze_chain(layers, shape, seed=0):
  """A model that applies functions and layers in turn, frozen and not."""

  class Chain(nn.Module):
    @nn.compact
    def __call__(self, x):
      for layer in layers():
        x = layer(x)
      return x

  x = images((4, *shape))
  model = Chain()
  variables = spread(model.init(jax.random.key(seed), x[:1]), seed)
  return dorefa.freeze(model, variables, input_shape=shape), model.apply(variables, x), x


@pytest.mark.parametrize("first", [lambda: emulated(32), lambda: nn.Dense(32)])
def test_a_dense_layer_on_pixels_keeps_them(first):
  def norm():
    return nn.BatchNorm(use_running_average=True)

  packed, expected, x = freeze_chain(lambda: [first(), norm(), emulated(16, (3, 3))], (8, 8, 16))
  check(packed, expected, x)


@pytest.mark.parametrize("window", [(2, 2), (3, 3)])
@pytest.mark.parametrize("is_pooled_first", [False, True])
@pytest.mark.parametrize("activation_bits", [1, 2, 4])
def test_a_chain_that_turns_at_its_absolute_value(window, is_pooled_first, activation_bits):
  bits = dorefa.BitWidths(1, activation_bits, 32)

  def pool(x):
    return nn.max_pool(x, window, (2, 2))

  def fold(x):
    return dorefa.bound(x, "abs_clip")

  def layers():
    some = [pool, fold] if is_pooled_first else [fold, pool]
    layers = [nn.Conv(32, (3, 3)), nn.BatchNorm(use_running_average=True), fold, emulated(40, (3, 3), bits)]
    return [*layers, nn.BatchNorm(use_running_average=True), *some, emulated(6, (3, 3), bits)]

  packed, expected, x = freeze_chain(layers, (8, 8, 3))
  check(packed, expected, x, paths=PATHS)
  # A maximum that is folded must be found among the sums, which kernels do in windows side by side.
  is_beyond = is_pooled_first and window == (3, 3)
  assert [len(node.layers) for node in segments(packed)] == ([2, 1] if is_beyond else [4])
  assert bool(packed.graph.notes) == is_beyond


@pytest.mark.parametrize("scale", [1.0, None])
def test_a_constant_that_alone_gives_the_shape_keeps_it(scale):
  scales = jnp.linspace(0.5, 2, 16)[None] if scale is None else jnp.full((1, 16), scale)

  def scaled_mean(x):
    return jax.nn.log_softmax(x.mean(-1, keepdims=True) * scales + x)

  packed, expected, x = freeze_chain(lambda: [emulated(16), scaled_mean], (24,))
  check(packed, expected, x)


def test_a_chain_that_turns_within_few_of_many_sums_is_no_chain():
  bits = dorefa.BitWidths(8, 8, 32)

  def fold(x):
    return dorefa.bound(jnp.square(x))

  packed, expected, x = freeze_chain(lambda: [emulated(8, bits=bits), fold, emulated(6, bits=bits)], (4608,))
  assert len(segments(packed)) == 2
  check(packed, expected, x, tolerance=1e-4)


def test_a_reshape_that_transposes_is_refused():
  def turned(x):
    return jax.lax.reshape(x, (x.shape[0], 4 * 4 * 16), (0, 3, 1, 2))

  with pytest.raises(dorefa.FreezeError, match="'reshape' with dimensions"):
    freeze_chain(lambda: [emulated(16, (3, 3)), turned, emulated(6)], (4, 4, 16))


def test_a_pooling_window_of_padding_alone_is_pooled_as_the_model_does():
  def pool(x):
    return nn.max_pool(x, (2, 2), (2, 2), ((2, 0), (2, 0)))

  def raised(x):
    return jnp.clip(x, 0.5, 1)

  packed, expected, x = freeze_chain(lambda: [emulated(16, (3, 3)), pool, raised, emulated(6, (2, 2))], (6, 6, 16))
  check(packed, expected, x)


def test_other_dtypes_than_float32_are_named():
  layer = dorefa.linen.Dense(4, bits=BITS, dtype=jnp.bfloat16, backend="emulated")
  with jax.numpy_dtype_promotion("standard"):
    variables = layer.init(jax.random.key(0), jnp.zeros((1, 8)))
    with pytest.raises(dorefa.FreezeError, match="bfloat16; packed models compute in float32"):
      dorefa.freeze(layer, variables, input_shape=(8,))


def test_weights_that_are_not_finite_are_refused():
  model = dorefa.models.SvhnConvNet(width=0.125)
  variables = model.init(jax.random.key(0), jnp.zeros((1, 40, 40, 3)))
  variables["params"]["conv0"]["kernel"] = variables["params"]["conv0"]["kernel"].at[0, 0, 0, 0].set(jnp.inf)
  with pytest.raises(dorefa.FreezeError, match="conv0.*not finite"):
    dorefa.freeze(model, variables, bits=BITS)


def test_the_users_nnx_model_stays_in_training():
  class Model(nnx.Module):
    def __init__(self):
      self.layer = dorefa.nnx.Linear(4, 3, bits=BITS, rngs=nnx.Rngs(0))
      self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    def __call__(self, x):
      return self.norm(self.layer(x))

  model = Model()
  dorefa.freeze(model, input_shape=(4,))
  assert not model.norm.use_running_average
  assert not model.layer.deterministic


def test_what_cannot_be_frozen_is_named_with_its_layer():
  class Sorted(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(3)(Sort(name="sorter")(x))

  class Sort(nn.Module):
    @nn.compact
    def __call__(self, x):
      return jnp.sort(x, axis=-1)

  model = Sorted()
  variables = model.init(jax.random.key(0), jnp.zeros((1, 4)))
  with pytest.raises(dorefa.FreezeError, match="sorter: operation 'sort'"):
    dorefa.freeze(model, variables, input_shape=(4,))


@pytest.mark.parametrize("x", [jnp.zeros((2, 5)), jnp.zeros((4,)), jnp.zeros((2, 4), jnp.int32)])
def test_images_of_another_shape_are_refused(x):
  model = dorefa.linen.Dense(3, bits=dorefa.BitWidths(1, 2, 32))
  packed = dorefa.freeze(model, model.init(jax.random.key(0), jnp.zeros((1, 4))), input_shape=(4,))
  with pytest.raises(ValueError, match=r"images must be floating \[batch, 4\]"):
    packed(x)


def test_the_summary_names_layers_widths_and_floats():
  x = images((1, 8, 8, 3))
  model = Residual()
  text = dorefa.freeze(model, model.init(jax.random.key(0), x), input_shape=x.shape[1:]).summary()
  assert "W1A2" in text
  assert "reads floats: its input is also used elsewhere" in text


class Signs(nn.Module):
  """Activations of +-1, which have no code for the zeros that they are padded with."""

  quantizers: dorefa.Quantizers

  @nn.compact
  def __call__(self, x, train=False):
    options = {"quantizers": self.quantizers, "bits": dorefa.BitWidths(1, 1, 32), "backend": "emulated"}
    x = dorefa.linen.ConvBlock(64, 3, quantizers=self.quantizers, backend="emulated")(x, train=train)
    x = dorefa.linen.ConvBlock(64, 3, pool=2, **options)(x, train=train)
    x = dorefa.linen.ConvBlock(64, 3, strides=2, feature_group_count=2, **options)(x, train=train)
    x = dorefa.linen.ConvBlock(20, (5, 3), padding=((2, 3), (0, 1)), **options)(x, train=train)
    return dorefa.linen.Dense(7, **options)(x.reshape(x.shape[0], -1))


@pytest.mark.parametrize("method", ["bnn", "xnor_net", "bi_real", "fda_bnn"])
def test_signs_padded_with_zeros_are_integers(method, tmp_path):
  model = Signs(getattr(dorefa.methods, method)())
  x = images((3, 13, 15, 3))
  variables = spread(model.init(jax.random.key(0), x[:1]), 2)
  packed = dorefa.freeze(model, variables, input_shape=x.shape[1:])
  (segment,) = segments(packed)
  assert [layer.input_zero for layer in segment.layers if isinstance(layer, Conv)] == [None, 1, 1, 1, None]
  assert packed.graph.notes == {}
  expected = model.apply(variables, x)
  check(packed, expected, x, paths=PATHS)
  packed.save(tmp_path / "signs.dorefa")
  check(dorefa.load(tmp_path / "signs.dorefa"), expected, x, paths=PATHS[:1])
