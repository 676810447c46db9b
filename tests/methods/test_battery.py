"""All methods, by the battery that users run on their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dorefa_jax as dorefa
from dorefa_jax import testing
from dorefa_jax.methods.bernoulli import StochasticBits
from tests.kernels import native

METHODS = {
  "dorefa 1,2,4": (dorefa.methods.dorefa(), (1, 2, 4)),
  "dorefa 3,3,6": (dorefa.methods.dorefa(stop_max_gradient=True), (3, 3, 6)),
  "dorefa 8,8,8": (dorefa.methods.dorefa(), (8, 8, 8)),
  "xnor_net": (dorefa.methods.xnor_net(), (1, 1, 4)),
  "xnor_net centered": (dorefa.methods.xnor_net(center=True), (1, 1, 4)),
  "bnn": (dorefa.methods.bnn(), (1, 1, 4)),
  "bi_real": (dorefa.methods.bi_real(), (1, 1, 4)),
  "pact": (dorefa.methods.pact(start=1.0), (2, 2, 4)),
  "lsq 2,2,4": (dorefa.methods.lsq(), (2, 2, 4)),
  "lsq 4,3,8": (dorefa.methods.lsq(), (4, 3, 8)),
  "balanced": (dorefa.methods.balanced(), (2, 2, 4)),
  "balanced max": (dorefa.methods.balanced(scale="max"), (3, 2, 4)),
  "ternary": (dorefa.methods.ternary(), (2, 2, 4)),
  "fda_bnn": (dorefa.methods.fda_bnn(), (1, 1, 4)),
  "stochastic_bits": (dorefa.methods.stochastic_bits(), (1, 1, 4)),
}
needs_library = pytest.mark.skipif(not native.paths(), reason="no compiled library")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("part", ["weights", "activations"])
def test_codes_are_the_values(name, part):
  quantizers, bits = METHODS[name]
  x = jax.random.normal(jax.random.key(2), (3, 3, 5, 6))
  x = x.at[0, 0, 0, :4].set(jnp.array([0.0, 1.0, -1.0, 0.5]))
  testing.check_quantizer(getattr(quantizers, part), x, getattr(dorefa.BitWidths(*bits), part))


RELATIVES = ("dorefa 8,8,8", "xnor_net centered", "balanced max", "lsq 4,3,8", "dorefa 3,3,6")


@needs_library
@pytest.mark.parametrize("name", [pytest.param(m, marks=pytest.mark.slow) if m in RELATIVES else m for m in METHODS])
def test_integers_blocks_and_packed_models_equal_the_emulation(name):
  quantizers, bits = METHODS[name]
  testing.check_method(quantizers, dorefa.BitWidths(*bits))


def surrogate(quantizer, x, bits=1, state=None):
  return jax.grad(lambda x: quantizer(x, bits, state or {}).sum())(x)


X = jnp.array([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0])


@pytest.mark.parametrize(
  ("quantizer", "slopes"),
  [
    (dorefa.methods.bnn().activations, [0, 1, 1, 1, 1, 1, 1, 0]),
    (dorefa.methods.bi_real().activations, [0, 0, 1, 2, 2, 1, 0, 0]),
    (dorefa.methods.dorefa().activations, [0, 0, 0, 1, 1, 1, 1, 0]),
    (dorefa.methods.stochastic_bits().activations, [0, 0, 0, 1, 1, 1, 1, 0]),
  ],
)
def test_surrogates_of_activations(quantizer, slopes):
  np.testing.assert_array_equal(surrogate(quantizer, X), slopes)
  np.testing.assert_array_equal(quantizer(X, 1, {})[3:5], quantizer(X, 1, {})[4])  # -0 is 0


def test_xnor_nets_gradient_is_the_papers():
  w = jax.random.normal(jax.random.key(0), (3, 3, 4, 5))
  scale = jnp.abs(w).mean((0, 1, 2))
  expected = 1 / 36 + scale[None] * (jnp.abs(w) <= 1).reshape(-1, 5).astype(jnp.float32)
  np.testing.assert_allclose(surrogate(dorefa.methods.xnor_net().weights, w).reshape(-1, 5), expected, rtol=1e-6)


@pytest.mark.parametrize("terms", [1, 4, 10])
def test_the_fourier_slope_is_the_series(terms):
  x = jnp.linspace(-1, 1, 101)
  series = sum(np.cos((2 * i + 1) * 0.1 * np.asarray(x)) for i in range(terms)) * 0.4 / np.pi
  got = surrogate(dorefa.methods.fda_bnn(terms=terms).activations, x)
  np.testing.assert_allclose(got, series, rtol=2e-5)
  traced = jax.jit(lambda n, x: surrogate(dorefa.methods.fda_bnn(terms=n).activations, x))(jnp.float32(terms), x)
  np.testing.assert_allclose(traced, series, rtol=2e-5)


def test_the_step_of_lsq_has_the_papers_gradient():
  x, step, bits = jnp.array([-3.0, -0.7, 0.2, 0.9, 5.0]), 0.5, 3
  quantizer = dorefa.methods.lsq().weights
  low, high = -4, 3
  inside = (x / step > low) & (x / step < high)
  terms = jnp.where(inside, jnp.round(x / step) - x / step, jnp.clip(x / step, low, high))
  expected = terms.sum() / np.sqrt(x.size * high)
  got = jax.grad(lambda s: quantizer(x, bits, {"step": s}).sum())(jnp.float32(step))
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  np.testing.assert_array_equal(surrogate(quantizer, x, bits, {"step": jnp.float32(step)}), inside)


def test_alpha_of_pact_has_the_papers_gradient():
  x, alpha = jnp.array([-1.0, 0.4, 2.5, 3.0, 9.0]), jnp.float32(3.0)
  quantizer = dorefa.methods.pact().activations
  got = jax.grad(lambda alpha: quantizer(x, 2, {"alpha": alpha}).sum())(alpha)
  assert float(got) == 2
  np.testing.assert_array_equal(surrogate(quantizer, x, 2, {"alpha": alpha}), [0, 1, 1, 0, 0])


def test_balanced_levels_are_equally_full():
  w = jax.random.normal(jax.random.key(0), (3, 3, 32, 48))
  counts = np.bincount(np.ravel(dorefa.methods.balanced().weights.codes(w, 2).codes), minlength=4)
  assert counts.max() < 1.4 * counts.min()


def test_stochastic_bits_are_unbiased_and_pass_gradients():
  p = jnp.linspace(0, 1, 11)
  keys = jax.random.split(jax.random.key(0), 4000)
  mean = jax.vmap(lambda key: StochasticBits(key)(p, 1))(keys).mean(0)
  np.testing.assert_allclose(mean, p, atol=0.03)
  assert mean[0] == 0
  assert mean[-1] == 1
  np.testing.assert_array_equal(surrogate(StochasticBits(keys[0]), p), jnp.ones(11))


def test_luq_gives_unbiased_powers_of_two():
  from dorefa_jax.methods.luq import round_logarithmically

  g = jnp.array([[1.0, -0.3, 0.02, 0.0, 0.6]])
  keys = jax.random.split(jax.random.key(0), 8000)
  drawn = jax.vmap(lambda key: round_logarithmically(g, key, 3))(keys)
  levels = set(np.unique(np.abs(np.asarray(drawn))).tolist())
  assert levels <= {0.0, 0.25, 0.5, 1.0}
  np.testing.assert_allclose(drawn.mean(0), g, atol=0.02)


def test_noise_of_fda_bnn_is_emulated_and_ends_with_the_schedule():
  x = jax.random.normal(jax.random.key(0), (2, 5, 5, 64))
  noisy, quiet = dorefa.methods.fda_bnn(noise=0.1), dorefa.methods.fda_bnn()
  layer = dorefa.linen.Conv(16, (3, 3), bits=dorefa.BitWidths(1, 1, 32), quantizers=noisy)
  variables = layer.init(jax.random.key(0), x)
  assert set(variables["quantizers"]) == {"weights", "activations"}
  apply = jax.jit(lambda q, x: layer.apply(variables, x, quantizers=q))
  with_noise, without = (apply(dorefa.methods.fda_bnn(noise=jnp.float32(a)), x) for a in (0.1, 0.0))
  assert apply._cache_size() == 1
  assert float(jnp.abs(with_noise - without).max()) > 0.1
  plain = {"params": variables["params"]}
  np.testing.assert_allclose(without, layer.apply(plain, x, quantizers=quiet), rtol=1e-5, atol=1e-5)
  with pytest.raises(ValueError, match="FourierSign, has no codes"):
    layer.clone(backend="integer").apply(variables, x)


@pytest.mark.parametrize(
  ("quantizers", "bits", "message"),
  [
    (dorefa.methods.lsq(), (1, 2, 4), "weights: SignedStep is defined for 2 to 31 bits, or 32 for none; got 1"),
    (dorefa.methods.bnn(), (1, 2, 4), "activations: Sign is defined for 1 bits, or 32 for none; got 2"),
    (dorefa.methods.ternary(), (1, 2, 4), "weights: TernaryWeights is defined for 2 bits"),
  ],
)
def test_widths_that_a_method_does_not_define_are_refused(quantizers, bits, message):
  layer = dorefa.linen.Conv(8, (3, 3), bits=dorefa.BitWidths(*bits), quantizers=quantizers)
  with pytest.raises(ValueError, match=message):
    layer.init(jax.random.key(0), jnp.ones((1, 5, 5, 3)))


def test_learned_variables_are_missing_or_of_another_shape():
  x, bits = jnp.ones((1, 5, 5, 3)), dorefa.BitWidths(2, 2, 4)
  layer = dorefa.linen.Conv(8, (3, 3), bits=bits, quantizers=dorefa.methods.lsq(), name="conv")
  variables = layer.init(jax.random.key(0), x)
  with pytest.raises(ValueError, match="what SignedStep learned of its weights is not in the collection 'quantizers'"):
    layer.apply({"params": variables["params"]}, x)
  wrong = {**variables, "quantizers": {**variables["quantizers"], "weights": {"step": jnp.ones(3)}}}
  with pytest.raises(ValueError, match=r"has shapes \{'step': \(3,\)\}, where \{'step': \(\)\} are needed"):
    layer.apply(wrong, x)


def test_parameters_stay_flaxs_own():
  import flax.linen as nn

  x, bits = jnp.ones((1, 5, 5, 3)), dorefa.BitWidths(1, 1, 4)
  expected = nn.Conv(8, (3, 3)).init(jax.random.key(0), x)
  for quantizers in (dorefa.methods.dorefa(), dorefa.methods.bnn(), dorefa.methods.lsq()):
    layer = dorefa.linen.Conv(8, (3, 3), bits=dorefa.BitWidths() if "Lsq" in repr(quantizers) else bits)
    variables = layer.clone(quantizers=quantizers, bits=dorefa.BitWidths()).init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, variables["params"], expected["params"])


def test_masked_weights_stay_zero_on_integers():
  x = jax.random.uniform(jax.random.key(1), (2, 7, 7, 16))
  mask = (jax.random.uniform(jax.random.key(2), (3, 3, 16, 18)) < 0.5).astype(jnp.float32)
  results = []
  for backend in ("emulated", "integer"):
    layer = dorefa.linen.Conv(18, (3, 3), mask=mask, bits=dorefa.BitWidths(1, 2, 4), backend=backend)
    variables = layer.init(jax.random.key(0), x)
    rngs = {"gradients": jax.random.key(3)}
    y, vjp = jax.vjp(lambda v, x, run=layer.apply, rngs=rngs: run(v, x, rngs=rngs), variables, x)
    results.append((y, vjp(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))))
  for one, other in zip(jax.tree.leaves(results[0]), jax.tree.leaves(results[1]), strict=True):
    np.testing.assert_allclose(one, other, atol=2e-6 * float(jnp.abs(one).max()) + 1e-6)
  gradient = results[1][1][0]["params"]["kernel"]
  assert not np.asarray(gradient)[np.asarray(mask) == 0].any()
