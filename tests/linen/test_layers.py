import functools
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dorefa_jax as dorefa

BITS = dorefa.BitWidths(1, 2, 4)

CONV_OPTIONS = [
  ((8, 8), {}),
  ((8, 8), {"strides": 2}),
  ((8, 8), {"strides": (2, 1), "padding": "VALID", "use_bias": False}),
  ((8, 8), {"kernel_dilation": 2}),
  ((8, 8), {"input_dilation": (2, 1), "padding": ((1, 2), (0, 3))}),
  ((8, 8), {"padding": ((1, 2), (0, 3))}),
  ((8, 8), {"padding": 1}),
  ((8, 8), {"padding": "CIRCULAR"}),
  ((8, 8), {"padding": "REFLECT"}),
  ((8, 8), {"feature_group_count": 2}),
  ((8,), {"padding": "CAUSAL"}),
  ((8,), {"strides": 3}),
  ((4, 5, 6), {"strides": (1, 2, 1)}),
]


def images(space, batch=(2,), channels=4, dtype=np.float32):
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.uniform(0, 1, (*batch, *space, channels)).astype(dtype))


@pytest.mark.parametrize(("space", "options"), CONV_OPTIONS)
def test_float_checkpoint_loads_unchanged_and_gives_the_same(space, options, key):
  x, kernel = images(space), (3,) * len(space)
  reference = nn.Conv(6, kernel, **options)
  variables = reference.init(key, x)
  layer = dorefa.linen.Conv(6, kernel, **options)
  jax.tree.map(np.testing.assert_array_equal, layer.init(key, x), variables)
  np.testing.assert_array_equal(layer.apply(variables, x), reference.apply(variables, x))


@pytest.mark.parametrize(("space", "options"), CONV_OPTIONS)
def test_quantized_conv_is_flaxs_with_quantized_operands(space, options, key):
  x, kernel = images(space), (3,) * len(space)
  layer = dorefa.linen.Conv(6, kernel, bits=BITS, **options)
  variables = layer.init(key, x)
  quantized = {**variables["params"], "kernel": dorefa.quantize_weights(variables["params"]["kernel"], 1)}
  expected = nn.Conv(6, kernel, **options).apply({"params": quantized}, dorefa.quantize_activations(x, 2))
  np.testing.assert_allclose(layer.apply(variables, x), expected, rtol=1e-6)

  def loss(variables, x):
    return jnp.sum(layer.apply(variables, x, rngs={"gradients": jax.random.key(1)}) ** 2)

  gradients = jax.grad(loss)(variables, x)
  assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_batch_dimensions(batch, key):
  x = images((5, 5), batch)
  layer = dorefa.linen.Conv(6, (3, 3), bits=BITS)
  variables = layer.init(key, x)
  assert layer.apply(variables, x).shape == (*batch, 5, 5, 6)
  dense = dorefa.linen.Dense(3, bits=BITS)
  variables = dense.init(key, x)
  gradient = jax.grad(lambda v: dense.apply(v, x, rngs={"gradients": key}).sum())(variables)
  assert np.isfinite(gradient["params"]["kernel"]).all()


def test_dense_checkpoint_loads_unchanged(key):
  x = images((5,))
  reference, layer = nn.Dense(7), dorefa.linen.Dense(7)
  variables = reference.init(key, x)
  jax.tree.map(np.testing.assert_array_equal, layer.init(key, x), variables)
  np.testing.assert_array_equal(layer.apply(variables, x), reference.apply(variables, x))


def test_module_names_are_flaxs(key):
  def tree(library):
    class Model(nn.Module):
      @nn.compact
      def __call__(self, x):
        x = library.Conv(4, (3, 3))(x)
        return library.Dense(3)(library.Dense(5)(x))

    return jax.tree.structure(Model().init(key, images((4, 4))))

  assert tree(dorefa.linen) == tree(nn)


def test_a_call_overrides_the_layers_bits_traced_or_not(key):
  x = images((5, 5))
  layer = dorefa.linen.Conv(6, (3, 3), bits=BITS)
  variables = layer.init(key, x)
  other = dorefa.BitWidths(8, 8, 8)
  expected = dorefa.linen.Conv(6, (3, 3), bits=other).apply(variables, x)
  np.testing.assert_array_equal(layer.apply(variables, x, bits=other), expected)
  traced = jax.jit(lambda bits: layer.apply(variables, x, bits=bits))(jax.tree.map(jnp.int32, other))
  np.testing.assert_allclose(traced, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("call_bits", [None, jax.tree.map(jnp.int32, BITS)])
def test_missing_key_raises_when_differentiated(call_bits, key):
  x = images((5, 5))
  layer = dorefa.linen.Conv(6, (3, 3), bits=BITS)
  variables = layer.init(key, x)
  layer.apply(variables, x, bits=call_bits)
  with pytest.raises(ValueError, match=r"rngs=\{'gradients': key\}"):
    jax.grad(lambda v: layer.apply(v, x, bits=call_bits).sum())(variables)


def test_gradients_depend_on_the_key_alone(key):
  x = images((5, 5))
  layer = dorefa.linen.Conv(6, (3, 3), bits=BITS)
  variables = layer.init(key, x)

  def gradient(key):
    return jax.grad(lambda v: jnp.sum(layer.apply(v, x, rngs={"gradients": key}) ** 2))(variables)["params"]["kernel"]

  np.testing.assert_array_equal(gradient(key), gradient(key))
  assert np.any(gradient(key) != gradient(jax.random.key(1)))


def test_two_layers_draw_different_noise(key):
  class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
      return [
        dorefa.linen.Dense(50, bits=dorefa.BitWidths(32, 32, 1), kernel_init=nn.initializers.ones)(x) for _ in range(2)
      ]

  x = images((3,))
  variables = Twice().init(key, x)
  weights = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, 50).astype(np.float32))

  def loss(variables):
    return sum(jnp.sum(y * weights[None, None]) for y in Twice().apply(variables, x, rngs={"gradients": key}))

  a, b = (leaf["kernel"] for leaf in jax.grad(loss)(variables)["params"].values())
  assert np.any(a != b)


def test_one_layer_may_be_called_twice(key):
  class Shared(nn.Module):
    def setup(self):
      self.dense = dorefa.linen.Dense(4, bits=BITS)

    def __call__(self, x):
      return self.dense(dorefa.bound(self.dense(x)))

  x = images((4,))
  variables = Shared().init(key, x)
  assert list(variables["params"]) == ["dense"]
  assert Shared().apply(variables, x).shape == (2, 4, 4)


def test_masked_weights_stay_zero(key):
  x = jnp.ones((1, 4, 4, 2))
  mask = jnp.zeros((3, 3, 2, 3)).at[1, 1].set(1)
  layer = dorefa.linen.Conv(3, (3, 3), mask=mask, bits=BITS, use_bias=False)
  variables = layer.init(key, x)
  kernel = variables["params"]["kernel"] * mask
  expected = jnp.einsum("bhwi,io->bhwo", x, dorefa.quantize_weights(kernel, 1)[1, 1])
  np.testing.assert_allclose(layer.apply(variables, x), expected, rtol=1e-6)


def test_bfloat16_runs_through(key):
  x = images((5, 5)).astype(jnp.bfloat16)
  layer = dorefa.linen.Conv(6, (3, 3), bits=BITS, dtype=jnp.bfloat16)
  variables = layer.init(key, x)
  assert variables["params"]["kernel"].dtype == jnp.float32
  assert layer.apply(variables, x).dtype == jnp.bfloat16
  gradients = jax.grad(lambda v: layer.apply(v, x, rngs={"gradients": key}).sum())(variables)
  assert gradients["params"]["kernel"].dtype == jnp.float32


def test_remat_and_vmap(key):
  x = images((5, 5), (3, 2))
  layer = dorefa.linen.Conv(6, (3, 3), bits=BITS)
  variables = layer.init(key, x[0])
  rows = jax.vmap(lambda x: layer.apply(variables, x))(x)
  np.testing.assert_allclose(rows[1], layer.apply(variables, x[1]), rtol=1e-5, atol=1e-6)

  def gradient(module):
    return jax.grad(lambda v: module.apply(v, x[0], rngs={"gradients": key}).sum())(variables)

  again = nn.remat(dorefa.linen.Conv)(6, (3, 3), bits=BITS)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), gradient(layer), gradient(again))


def test_bits_of_another_type_are_named(key):
  with pytest.raises(ValueError, match=r"bits must be a BitWidths.*got \(1, 2, 4\)"):
    dorefa.linen.Dense(3, bits=(1, 2, 4)).init(key, images((4,)))


def test_an_injected_product_is_refused(key):
  layer = dorefa.linen.Dense(3, dot_general=jax.lax.dot_general)
  with pytest.raises(ValueError, match="dot_general of Dense is taken"):
    layer.init(key, images((4,)))


def test_custom_weight_quantizer(key):
  x = images((4,))
  layer = dorefa.linen.Dense(
    3, use_bias=False, quantizers=dorefa.Quantizers(weights=lambda w, bits: jnp.zeros_like(w)), bits=BITS
  )
  assert not np.any(layer.apply(layer.init(key, x), x))


@pytest.mark.parametrize(
  ("base", "injected"),
  [(nn.Conv, "conv_general_dilated_cls"), (nn.Dense, "dot_general_cls"), (nn.Dense, "dot_general")],
)
def test_flax_still_has_the_field_that_is_injected(base, injected):
  assert injected in inspect.signature(base).parameters


BITS = dorefa.BitWidths(1, 2, 4)


def dense_general(quantizers=dorefa.Quantizers(), backend="auto", **options):
  product = functools.partial(dorefa.linen.DotGeneral, bits=BITS, quantizers=quantizers, backend=backend)
  return nn.DenseGeneral((4, 8), dot_general_cls=product, **options)


def test_dense_general_takes_the_product_at_its_injection_point():
  x = jax.random.uniform(jax.random.key(0), (5, 3, 32))
  layer = dense_general()
  variables = layer.init(jax.random.key(1), x)
  plain = nn.DenseGeneral((4, 8)).init(jax.random.key(1), x)
  jax.tree.map(np.testing.assert_array_equal, variables, plain)
  dense = dorefa.linen.Dense(32, bits=BITS)
  flat = {"params": jax.tree.map(lambda leaf: leaf.reshape(*leaf.shape[:-2], 32), variables["params"])}
  rngs = {"gradients": jax.random.key(2)}
  np.testing.assert_allclose(
    layer.apply(variables, x, rngs=rngs).reshape(5, 3, 32), dense.apply(flat, x, rngs=rngs), rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize("backend", ["emulated", "integer"])
def test_what_an_injected_product_learns_has_a_collection(backend):
  x = jax.random.uniform(jax.random.key(0), (16, 32))
  layer = dense_general(dorefa.methods.pact(), backend)
  variables = layer.init(jax.random.key(1), x)
  assert jax.tree.map(jnp.shape, variables["quantizers"]) == {"DotGeneral_0": {"activations": {"alpha": ()}}}
  gradients = jax.grad(lambda v: layer.apply(v, 9 * x, rngs={"gradients": jax.random.key(2)}).sum())(variables)
  assert float(jnp.abs(gradients["quantizers"]["DotGeneral_0"]["activations"]["alpha"])) > 0


def test_attention_quantizes_its_projections():
  product = functools.partial(dorefa.linen.DotGeneral, bits=BITS)
  x = jax.random.uniform(jax.random.key(0), (2, 6, 32))
  plain = nn.MultiHeadDotProductAttention(num_heads=4)
  layer = plain.clone(qkv_dot_general_cls=product, out_dot_general_cls=product)
  variables = layer.init(jax.random.key(1), x)
  jax.tree.map(np.testing.assert_array_equal, variables, plain.init(jax.random.key(1), x))
  rngs = {"gradients": jax.random.key(2)}
  got, gradients = jax.value_and_grad(lambda v: layer.apply(v, x, rngs=rngs).sum())(variables)
  assert abs(float(got) - float(plain.apply(variables, x).sum())) > 1e-3
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
  with pytest.raises(ValueError, match="gradients"):
    jax.grad(lambda v: layer.apply(v, x).sum())(variables)


@pytest.mark.parametrize(("layer", "plain"), [
  (dorefa.linen.Dense(4), nn.Dense(4)),
  (dorefa.linen.Conv(4, (3, 3)), nn.Conv(4, (3, 3))),
  (nn.DenseGeneral(4, dot_general_cls=dorefa.linen.DotGeneral), nn.DenseGeneral(4)),
])  # fmt: skip
def test_complex_inputs_pass_at_full_precision(layer, plain):
  x = jax.random.normal(jax.random.key(0), (2, 5, 5, 3), jnp.complex64)
  layer, plain = (one.clone(param_dtype=jnp.complex64) for one in (layer, plain))
  variables = plain.init(jax.random.key(1), x)
  np.testing.assert_array_equal(layer.apply(variables, x), plain.apply(variables, x))
  np.testing.assert_array_equal(
    *(
      jax.grad(lambda v, one=one: jnp.abs(one.apply(v, x)).sum())(variables)["params"]["kernel"]
      for one in (layer, plain)
    )
  )
