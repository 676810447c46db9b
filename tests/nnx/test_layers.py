import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import dorefa_jax as dorefa

BITS = dorefa.BitWidths(1, 2, 4)

CONV_OPTIONS = [
  ((8, 8), {}),
  ((8, 8), {"strides": (2, 1), "padding": "VALID", "use_bias": False}),
  ((8, 8), {"kernel_dilation": 2}),
  ((8, 8), {"padding": "CIRCULAR"}),
  ((8, 8), {"padding": ((1, 2), (0, 3))}),
  ((8, 8), {"feature_group_count": 2}),
  ((8,), {"padding": "CAUSAL"}),
  ((4, 5, 6), {"strides": 2}),
]


def images(space, batch=(2,), channels=4):
  return jnp.asarray(np.random.default_rng(0).uniform(0, 1, (*batch, *space, channels)).astype(np.float32))


def model(library, rngs, **options):
  class Model(nnx.Module):
    def __init__(self):
      self.conv = library.Conv(4, 6, (3, 3), rngs=rngs, **options)
      self.fc = library.Linear(6, 3, rngs=rngs, **options)

    def __call__(self, x, **call):
      return self.fc(self.conv(x, **call), **call)

  return Model()


@pytest.mark.parametrize(("space", "options"), CONV_OPTIONS)
def test_same_initial_values_and_same_output_as_flax(space, options):
  x, kernel = images(space), (3,) * len(space)
  reference = nnx.Conv(4, 6, kernel, rngs=nnx.Rngs(0), **options)
  layer = dorefa.nnx.Conv(4, 6, kernel, rngs=nnx.Rngs(0), **options)
  np.testing.assert_array_equal(layer.kernel[...], reference.kernel[...])
  np.testing.assert_array_equal(layer(x), reference(x))
  layer.kernel[...] = dorefa.quantize_weights(layer.kernel[...], 1)
  reference.kernel[...] = layer.kernel[...]
  quantized = layer(x, bits=dorefa.BitWidths(1, 2, 4))
  # Quantized weights are a fixed point up to the rounding of their mean.
  np.testing.assert_allclose(quantized, reference(dorefa.quantize_activations(x, 2)), rtol=1e-5, atol=1e-6)


def test_every_layer_of_a_model_starts_as_flaxs_does():
  ours, reference = model(dorefa.nnx, nnx.Rngs(0)), model(nnx, nnx.Rngs(0))
  jax.tree.map(np.testing.assert_array_equal, nnx.state(ours, nnx.Param), nnx.state(reference, nnx.Param))


def test_float_checkpoint_loads_unchanged():
  x = images((5, 5))
  reference, ours = model(nnx, nnx.Rngs(7)), model(dorefa.nnx, nnx.Rngs(0), bits=BITS)
  nnx.update(ours, nnx.state(reference))
  np.testing.assert_array_equal(ours(x, bits=dorefa.BitWidths()), reference(x))


def test_linen_and_nnx_agree(key):
  x = images((5, 5))
  linen_layer = dorefa.linen.Conv(6, (3, 3), bits=BITS)
  variables = linen_layer.init(key, x)
  layer = dorefa.nnx.Conv(4, 6, (3, 3), bits=BITS, rngs=nnx.Rngs(0))
  layer.kernel[...], layer.bias[...] = variables["params"]["kernel"], variables["params"]["bias"]
  np.testing.assert_allclose(layer(x), linen_layer.apply(variables, x), rtol=1e-6)


@pytest.mark.parametrize("rngs", [nnx.Rngs(0), nnx.Rngs(params=0, gradients=1)])
def test_each_step_draws_new_noise_also_under_jit(rngs):
  x, net = images((5, 5)), None
  net = model(dorefa.nnx, rngs, bits=BITS)

  @nnx.jit
  def gradient(net, x):
    return nnx.grad(lambda net: jnp.sum(net(x) ** 2))(net)

  first, second = gradient(net, x), gradient(net, x)
  assert np.any(first["conv"]["kernel"][...] != second["conv"]["kernel"][...])


def test_a_key_given_in_the_call_decides(key):
  x = images((5, 5))
  net = model(dorefa.nnx, nnx.Rngs(params=0), bits=BITS)

  def gradient(rngs):
    return nnx.grad(lambda net, rngs: jnp.sum(net(x, rngs=rngs) ** 2))(net, rngs)["conv"]["kernel"][...]

  np.testing.assert_array_equal(gradient(key), gradient(key))
  assert np.any(gradient(key) != gradient(jax.random.key(1)))
  assert np.isfinite(gradient(nnx.Rngs(gradients=3))).all()
  assert np.isfinite(gradient(nnx.Rngs(3)["default"])).all()


def test_missing_key_raises_when_differentiated():
  x = images((5, 5))
  net = model(dorefa.nnx, nnx.Rngs(params=0), bits=BITS)
  net(x)
  with pytest.raises(ValueError, match=r"nnx.Rngs\(gradients=seed\)"):
    nnx.grad(lambda net: net(x).sum())(net)


def test_one_program_for_all_bits():
  x, net = images((5, 5)), model(dorefa.nnx, nnx.Rngs(0))
  count = 0

  @nnx.jit
  def forward(net, x, bits):
    nonlocal count
    count += 1
    return net(x, bits=bits)

  for bits in (BITS, dorefa.BitWidths(8, 8, 8), dorefa.BitWidths()):
    got = forward(net, x, jax.tree.map(jnp.int32, bits))
    np.testing.assert_allclose(got, net(x, bits=bits), rtol=1e-5, atol=1e-5)
  assert count == 1


def test_layers_draw_different_noise_also_where_parameters_have_a_stream_of_their_own():
  for rngs in (nnx.Rngs(0), nnx.Rngs(0, params=1), nnx.Rngs(params=0, gradients=1)):
    net = model(dorefa.nnx, rngs, bits=BITS)
    keys = [jax.random.key_data(layer.gradient_rngs.key[...]) for layer in (net.conv, net.fc)]
    assert np.any(keys[0] != keys[1])


def test_evaluation_draws_no_keys():
  x, net = images((5, 5)), model(dorefa.nnx, nnx.Rngs(0), bits=BITS)
  net.eval()
  np.testing.assert_allclose(jax.jit(lambda x: net(x))(x), net(x), rtol=1e-5, atol=1e-6)  # sums that cancel
  assert int(net.conv.gradient_rngs.count[...]) == 0
  with pytest.raises(ValueError, match="no PRNG key"):
    nnx.grad(lambda net: net(x).sum())(net)
  net.train()
  nnx.grad(lambda net: net(x).sum())(net)


def test_no_stream_is_needed_at_32_bits():
  net = model(dorefa.nnx, nnx.Rngs(params=0))
  nnx.grad(lambda net: net(images((5, 5)), rngs=nnx.Rngs(params=1)).sum())(net)


def test_quantized_parameters_load_into_flaxs_layers():
  ours, reference = model(dorefa.nnx, nnx.Rngs(7), bits=BITS), model(nnx, nnx.Rngs(0))
  nnx.update(reference, nnx.state(ours, nnx.Param))
  np.testing.assert_array_equal(reference.fc.kernel[...], ours.fc.kernel[...])


def test_split_merge_and_clone():
  net = model(dorefa.nnx, nnx.Rngs(0), bits=BITS)
  x = images((5, 5))
  graph, state = nnx.split(net)
  np.testing.assert_array_equal(nnx.merge(graph, state)(x), net(x))
  np.testing.assert_array_equal(nnx.clone(net)(x), net(x))


def test_masked_weights_stay_zero():
  mask = jnp.zeros((3, 3, 2, 3)).at[1, 1].set(1)
  layer = dorefa.nnx.Conv(2, 3, (3, 3), mask=mask, bits=BITS, use_bias=False, rngs=nnx.Rngs(0))
  x = jnp.ones((1, 4, 4, 2))
  expected = jnp.einsum("bhwi,io->bhwo", x, dorefa.quantize_weights(layer.kernel[...] * mask, 1)[1, 1])
  np.testing.assert_allclose(layer(x), expected, rtol=1e-6)


def test_bad_options_are_named():
  with pytest.raises(ValueError, match="dot_general of Linear is taken"):
    dorefa.nnx.Linear(3, 4, dot_general=jax.lax.dot_general, rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match="backend must be one of"):
    dorefa.nnx.Linear(3, 4, backend="fast", rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("base", "injected"), [(nnx.Conv, "conv_general_dilated"), (nnx.Linear, "dot_general")])
def test_flax_still_calls_the_attribute_that_is_injected(base, injected):
  assert f"self.{injected}(" in inspect.getsource(base.__call__)
