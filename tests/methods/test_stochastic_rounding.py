"""The stochastic quantizer: exact statements about its noise, not samples of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import quantize_gradients as reference

import dorefa_jax as dorefa
from dorefa_jax.methods.stochastic_rounding import quantize_cotangent, round_cotangent

BITS = [1, 2, 3, 4, 6, 8]
cotangents = hnp.arrays(np.float32, (3, 4, 5), elements=st.floats(-8, 8, width=32, allow_subnormal=False))


def normal(shape=(4, 6, 5), seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32))


def pull_back(g, key, bits):
  _, vjp = jax.vjp(lambda x: dorefa.quantize_gradients(x, key, bits), jnp.zeros_like(g))
  return vjp(g)[0]


def codes(quantized, g, bits):
  """Grid positions 0..n of quantized cotangents."""
  largest = np.abs(np.asarray(g, np.float64)).max(axis=tuple(range(1, g.ndim)), keepdims=True)
  return (np.asarray(quantized, np.float64) / np.where(largest == 0, 1, largest) + 1) / 2 * (2**bits - 1)


@pytest.mark.parametrize("bits", [*BITS, 32])
def test_forward_is_the_identity(bits, key):
  x = normal()
  np.testing.assert_array_equal(dorefa.quantize_gradients(x, key, bits), x)


@given(cotangents, st.sampled_from(BITS), st.integers(0, 9))
def test_only_the_two_neighbouring_levels(g, bits, seed):
  quantized = np.asarray(quantize_cotangent(jnp.asarray(g), jax.random.key(seed), bits))
  position, exact = codes(quantized, g, bits), codes(g, g, bits)
  zero = np.abs(g).max((1, 2), keepdims=True) == 0
  assert (np.abs(position - np.round(position)) < 1e-3).all() or zero.any()
  assert ((np.abs(position - exact) < 1 + 1e-3) | zero).all()


@pytest.mark.parametrize("bits", BITS)
def test_probability_of_rounding_up_is_the_fraction(bits):
  """All noise values of a 12-bit generator, so that nothing is left to chance."""
  count, n = 4096, 2**bits - 1
  thresholds = (np.arange(count, dtype=np.float32) + 0.5) / count
  values = np.concatenate([np.random.default_rng(0).uniform(-1, 1, 30), [0.0, 1.0, -1.0]]).astype(np.float32)
  g = jnp.asarray(np.tile(values, (count, 1)))
  noise = jnp.asarray(np.tile(thresholds[:, None], (1, len(values))))
  quantized = np.asarray(round_cotangent(g, noise, bits), np.float64)
  exact = (values.astype(np.float64) + 1) / 2 * n
  ups = (codes(quantized, np.asarray(g), bits) > np.floor(exact) + 0.5).mean(0)
  fraction = exact - np.floor(exact)
  assert np.abs(ups - fraction).max() <= 0.5 / count + 1e-4
  # The expectation is the value itself, the two ends of the range included.
  assert np.abs(quantized.mean(0) - values).max() <= 2 / n * (0.5 / count + 1e-4)


@pytest.mark.parametrize("bits", BITS)
def test_ends_of_the_range_and_grid_points_never_move(bits):
  n = 2**bits - 1
  grid = jnp.asarray((2 * np.arange(n + 1) - n)[None] / n, jnp.float32)
  for threshold in (2.0**-24, 0.5, 1 - 2.0**-24):
    moved = np.asarray(round_cotangent(grid, jnp.full(grid.shape, threshold, jnp.float32), bits))
    np.testing.assert_array_equal(moved[0, [0, -1]], [-1, 1])
  middle = np.asarray(round_cotangent(grid, jnp.full(grid.shape, 0.5, jnp.float32), bits))
  np.testing.assert_allclose(middle, grid, rtol=1e-6)


@pytest.mark.parametrize("bits", BITS)
def test_is_the_papers_formula_with_the_same_noise(bits):
  g = np.asarray(normal(), np.float64)
  threshold = np.random.default_rng(1).uniform(0.01, 0.99, g.shape)
  expected = reference(g, bits, 0.5 - threshold)
  got = np.asarray(round_cotangent(jnp.asarray(g, jnp.float32), jnp.asarray(threshold, jnp.float32), bits))
  position = codes(g, g, bits)
  clear = np.abs(position - np.floor(position) - threshold) > 1e-4
  np.testing.assert_allclose(got[clear], expected[clear], rtol=1e-5, atol=1e-6)


def test_scale_is_per_example(key):
  g = normal((3, 50)) * jnp.array([[1.0], [1000.0], [1e-6]])
  quantized = np.asarray(pull_back(g, key, 2))
  for row, original in zip(quantized, np.asarray(g)):
    levels = np.abs(original).max() * np.array([-1, -1 / 3, 1 / 3, 1], np.float32)
    assert np.isclose(row[:, None], levels, rtol=1e-5).any(1).all()


def test_an_all_zero_example_gives_zeros_and_no_nan(key):
  g = normal((3, 5)).at[1].set(0)
  quantized = np.asarray(pull_back(g, key, 3))
  np.testing.assert_array_equal(quantized[1], np.zeros(5))
  assert np.isfinite(quantized).all()


def test_not_finite_stays_not_finite(key):
  g = normal((2, 5)).at[0, 0].set(jnp.nan)
  quantized = np.asarray(pull_back(g, key, 4))
  assert np.isnan(quantized[0]).any()
  assert np.isfinite(quantized[1]).all()


def test_keys_and_examples_are_independent():
  g = jnp.tile(normal((1, 4000)), (2, 1))
  first, second = pull_back(g, jax.random.key(0), 2), pull_back(g, jax.random.key(1), 2)
  np.testing.assert_array_equal(first, pull_back(g, jax.random.key(0), 2))
  noise = np.asarray(first - g)
  other = np.asarray(second - g)
  for a, b in ((noise[0], noise[1]), (noise[0], other[0])):
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(4000)


@pytest.mark.parametrize("bits", BITS)
def test_traced_bits_and_jit_equal_static_bits(bits, key):
  g = normal()
  static = jax.jit(lambda g: pull_back(g, key, bits))(g)
  np.testing.assert_array_equal(static, jax.jit(pull_back)(g, key, jnp.int32(bits)))


def test_traced_32_is_the_identity(key):
  g = normal()
  np.testing.assert_array_equal(jax.jit(pull_back)(g, key, jnp.int32(32)), g)


def test_works_under_vmap_scan_and_remat(key):
  g = normal((5, 3, 4))
  keys = jax.random.split(key, 5)
  rows = jax.vmap(lambda g, key: pull_back(g, key, 2))(g, keys)
  _, scanned = jax.lax.scan(lambda _, pair: (None, pull_back(pair[0], pair[1], 2)), None, (g, keys))
  np.testing.assert_allclose(rows, scanned, rtol=1e-6)

  @jax.checkpoint
  def layer(x):
    return dorefa.quantize_gradients(x * 2.0, key, 2)

  plain = jax.vjp(lambda x: dorefa.quantize_gradients(x * 2.0, key, 2), g)[1](g)[0]
  np.testing.assert_array_equal(jax.vjp(layer, g)[1](g)[0], plain)


def test_raw_keys_work():
  g = normal()
  assert pull_back(g, jax.random.PRNGKey(0), 2).shape == g.shape


@pytest.mark.parametrize("bits", [4, jnp.int32(4)])
def test_missing_key_raises_when_differentiated_and_only_then(bits):
  x = normal()
  np.testing.assert_array_equal(dorefa.quantize_gradients(x, None, bits), x)
  with pytest.raises(ValueError, match="no PRNG key"):
    jax.grad(lambda x: dorefa.quantize_gradients(x, None, bits).sum())(x)


def test_no_key_needed_at_32_bits():
  gradient = jax.grad(lambda x: dorefa.quantize_gradients(x, None, 32).sum())(normal())
  np.testing.assert_array_equal(gradient, np.ones_like(gradient))


def test_a_scalar_has_no_batch_axis(key):
  with pytest.raises(ValueError, match="batch on axis 0"):
    dorefa.quantize_gradients(jnp.float32(1), key, 4)


def test_bfloat16_cotangents_keep_their_dtype(key):
  g = normal().astype(jnp.bfloat16)
  assert pull_back(g, key, 4).dtype == jnp.bfloat16


def test_float64_keeps_its_precision(key):
  with jax.enable_x64(True):
    g = jnp.asarray(np.random.default_rng(0).normal(0, 1, (2, 5)))
    assert pull_back(g, key, 4).dtype == jnp.float64


def test_forward_mode_is_refused(key):
  with pytest.raises(TypeError):
    jax.jvp(lambda x: dorefa.quantize_gradients(x, key, 4), (normal(),), (normal(),))
