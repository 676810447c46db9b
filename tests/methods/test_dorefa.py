import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import quantize_k as reference_k
from reference import quantize_weights as reference_weights

import dorefa_jax as dorefa

BITS = [1, 2, 3, 4, 6, 8]
unit = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=9), elements=st.floats(0, 1, width=32))
reals = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=9), elements=st.floats(-4, 4, width=32))


def uniform(shape=(6, 7, 5), low=0.0, high=1.0, seed=0):
  values = np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)
  values.ravel()[::7] = 0.0
  return jnp.asarray(values)


@pytest.mark.parametrize("bits", BITS)
def test_level_sets(bits):
  n = 2**bits - 1
  for level in range(n + 1):
    inside = np.linspace((level - 0.499) / n, (level + 0.499) / n, 21, dtype=np.float32).clip(0, 1)
    expected = np.float32(level) / np.float32(n)
    np.testing.assert_array_equal(dorefa.quantize_k(jnp.asarray(inside), bits), np.full(21, expected))


@pytest.mark.parametrize("bits", BITS)
def test_halves_go_to_the_even_level(bits):
  n = 2**bits - 1
  level = np.arange(n)
  halves = jnp.asarray((level + 0.5) / n, jnp.float32)
  exact = np.asarray(halves, np.float64) * n == level + 0.5
  got = np.round(np.asarray(dorefa.quantize_k(halves, bits), np.float64) * n)
  np.testing.assert_array_equal(got[exact], (level + level % 2)[exact])


@given(unit, st.integers(1, 16))
def test_quantize_k_is_the_papers_to_float_rounding(r, k):
  n = np.float32(2**k - 1)
  expected = (np.round(r * n) / n).astype(np.float32)
  np.testing.assert_array_equal(dorefa.quantize_k(jnp.asarray(r), k), expected)
  assert np.abs(expected - reference_k(r.astype(np.float64), k)).max() <= 1.0 / n + 1e-6


@given(unit, st.integers(1, 8))
def test_quantize_k_moves_by_half_a_step_at_most_and_only_once(r, k):
  once = dorefa.quantize_k(jnp.asarray(r), k)
  assert np.abs(np.asarray(once) - r).max() <= 0.5 / (2**k - 1) + 1e-6
  np.testing.assert_array_equal(dorefa.quantize_k(once, k), once)


@given(unit, st.integers(1, 8))
def test_quantize_k_is_monotonic(r, k):
  quantized = np.asarray(dorefa.quantize_k(jnp.sort(jnp.asarray(r).ravel()), k))
  assert (np.diff(quantized) >= 0).all()


@pytest.mark.parametrize("bits", [*BITS, 32])
def test_quantize_k_passes_the_cotangent_straight_through(bits):
  x, g = uniform(), uniform(low=-3, high=3, seed=1)
  _, vjp = jax.vjp(lambda x: dorefa.quantize_activations(x, bits), x)
  np.testing.assert_array_equal(vjp(g)[0], g)


@given(reals, st.integers(1, 8))
def test_weights_are_the_papers_to_a_level(w, k):
  if not np.abs(np.tanh(w)).max() > 1e-6:
    return
  w = np.where(np.abs(w) < np.finfo(np.float32).tiny, np.float32(0), w)  # as XLA takes what is denormal
  got = np.asarray(dorefa.quantize_weights(jnp.asarray(w), k), np.float64)
  expected = reference_weights(w.astype(np.float64), k)
  # A value that float32 puts on the other side of a boundary may come out one step away.
  step = 2 / (2**k - 1) if k > 1 else 0.0
  difference = np.abs(got - expected)
  assert ((difference < 1e-5) | (np.abs(difference - step) < 1e-5)).all()


@pytest.mark.parametrize("bits", BITS)
def test_weights_match_the_paper_away_from_boundaries(bits):
  w = np.random.default_rng(0).normal(0, 1, (3, 3, 8, 16))
  t = np.tanh(w)
  position = (t / (2 * np.abs(t).max()) + 0.5) * (2**bits - 1)
  clear = np.abs(position % 1 - 0.5) > 1e-3
  got = np.asarray(dorefa.quantize_weights(jnp.asarray(w, jnp.float32), bits))
  np.testing.assert_allclose(got[clear], reference_weights(w, bits)[clear], rtol=1e-6, atol=1e-7)


def test_one_bit_weights_have_one_scale_and_plus_for_zero():
  w = jnp.array([[0.5, -0.0, 0.0], [-1.5, 2.0, -2.0]])
  np.testing.assert_array_equal(dorefa.quantize_weights(w, 1), [[1.0, 1.0, 1.0], [-1.0, 1.0, -1.0]])


def test_one_bit_weights_pass_the_gradient_and_none_through_the_scale():
  w, g = uniform(low=-1), uniform(low=-3, high=3, seed=1)
  _, vjp = jax.vjp(lambda w: dorefa.quantize_weights(w, 1), w)
  np.testing.assert_array_equal(vjp(g)[0], g)


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("stop", [False, True])
def test_gradient_of_k_bit_weights_is_the_closed_form(bits, stop):
  w, g = uniform((4, 5), -1.5, 1.5), uniform((4, 5), -1, 1, seed=1)
  _, vjp = jax.vjp(lambda w: dorefa.quantize_weights(w, bits, stop_max_gradient=stop), w)
  t = np.tanh(np.asarray(w, np.float64))
  slope, largest = 1 - t**2, np.abs(t).max()
  expected = np.asarray(g) * slope / largest
  if not stop:  # d/dmax of t / max is -t / max^2, and lands where the maximum is
    top = np.abs(t) == largest
    expected = expected - top * np.sign(t) * slope * (np.asarray(g) * t).sum() / largest**2 / top.sum()
  np.testing.assert_allclose(vjp(g)[0], expected, rtol=2e-5, atol=1e-6)


def test_ties_share_the_gradient_of_the_maximum():
  w = jnp.array([2.0, -2.0, 0.5])
  gradient = jax.grad(lambda w: dorefa.quantize_weights(w, 2).sum())(w)
  stopped = jax.grad(lambda w: dorefa.quantize_weights(w, 2, stop_max_gradient=True).sum())(w)
  slope = 1 - np.tanh(2.0) ** 2
  total = np.tanh(np.asarray(w)).sum()
  share = slope * total / np.tanh(2.0) ** 2 / 2
  np.testing.assert_allclose(np.asarray(stopped - gradient), [share, -share, 0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_all_zero_weights_stay_finite(bits):
  value, gradient = jax.value_and_grad(lambda w: dorefa.quantize_weights(w, bits).sum())(jnp.zeros((3, 2)))
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-20, 1e-10])
@pytest.mark.parametrize("bits", [1, 2, 8, 32])
def test_tiny_weights_have_finite_gradients_static_and_traced(bits, scale):
  w = jnp.array([0.5, -1.0, 0.25]) * scale
  gradient = jax.grad(lambda w, bits: dorefa.quantize_weights(w, bits).sum())
  static, traced = gradient(w, bits), gradient(w, jnp.int32(bits))
  assert np.isfinite(static).all()
  np.testing.assert_allclose(static, traced, rtol=1e-6)


def test_bound_and_its_gradients_with_zeros_and_ties():
  x = jnp.array([-2.0, -1.0, -0.3, 0.0, 0.4, 1.0, 1.5])
  for kind, values, slopes in (
    ("clip", [0, 0, 0, 0, 0.4, 1, 1], [0, 0, 0, 1, 1, 1, 0]),
    ("abs_clip", [1, 1, 0.3, 0, 0.4, 1, 1], [0, -1, -1, 0, 1, 1, 0]),
    ("relu", [0, 0, 0, 0, 0.4, 1, 1.5], [0, 0, 0, 0, 1, 1, 1]),
  ):
    got, vjp = jax.vjp(lambda x, kind=kind: dorefa.bound(x, kind), x)
    np.testing.assert_array_equal(got, np.float32(values))
    np.testing.assert_array_equal(vjp(jnp.full_like(x, 3))[0], 3 * np.float32(slopes))


@pytest.mark.parametrize("kind", ["clip", "abs_clip", "relu"])
def test_bound_keeps_nan(kind):
  assert np.isnan(dorefa.bound(jnp.array([jnp.nan]), kind)).all()


@pytest.mark.parametrize("bits", [*BITS, 16, 31, 32])
@pytest.mark.parametrize("function", [dorefa.quantize_k, dorefa.quantize_weights, dorefa.quantize_activations])
def test_traced_bits_equal_static_bits(function, bits):
  x, g = uniform(low=-1.0 if function is dorefa.quantize_weights else 0.0), uniform(low=-1, seed=1)

  def value_and_vjp(x, g, bits):
    value, vjp = jax.vjp(lambda x: function(x, bits), x)
    return value, vjp(g)[0]

  static = jax.jit(lambda x, g: value_and_vjp(x, g, bits))(x, g)
  traced = jax.jit(value_and_vjp)(x, g, jnp.int32(bits))
  np.testing.assert_array_equal(static[0], traced[0])
  np.testing.assert_allclose(static[1], traced[1], rtol=1e-6, atol=1e-6)
  if bits == 32:
    np.testing.assert_array_equal(traced[0], x)
    np.testing.assert_array_equal(traced[1], g)


class VariantsTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True, with_device=True)
  def test_jit_and_device_agree(self):
    x = uniform()
    for bits in BITS:
      n = np.float32(2**bits - 1)
      got = self.variant(lambda x, bits=bits: dorefa.quantize_k(x, bits))(x)
      np.testing.assert_array_equal(got, np.round(np.asarray(x) * n) / n)


def test_vmap_over_bits_scan_and_remat():
  x = uniform((20,))
  rows = jax.vmap(lambda bits: dorefa.quantize_k(x, bits))(jnp.array([1, 2, 8, 32]))
  for row, bits in zip(rows, (1, 2, 8, 32)):
    np.testing.assert_array_equal(row, dorefa.quantize_k(x, bits))
  _, scanned = jax.lax.scan(lambda _, v: (None, dorefa.quantize_k(v, 3)), None, x)
  np.testing.assert_array_equal(scanned, dorefa.quantize_k(x, 3))
  gradient = jax.grad(lambda x: jax.checkpoint(lambda x: dorefa.quantize_k(x, 3))(x).sum())(x)
  np.testing.assert_array_equal(gradient, np.ones(20))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("bits", [1, 2, 8])
def test_dtype_is_kept_and_levels_are_the_nearest(dtype, bits):
  x = uniform().astype(dtype)
  n = 2**bits - 1
  quantized = dorefa.quantize_k(x, bits)
  assert quantized.dtype == dtype
  expected = jnp.asarray(np.round(np.asarray(x, np.float32) * np.float32(n)) / np.float32(n)).astype(dtype)
  np.testing.assert_array_equal(np.asarray(quantized, np.float32), np.asarray(expected, np.float32))
  assert dorefa.quantize_weights(x, bits).dtype == dtype


@pytest.mark.parametrize("function", [dorefa.quantize_k, dorefa.quantize_weights, dorefa.quantize_activations])
def test_bad_input_is_named(function):
  with pytest.raises(ValueError, match="bits must be an integer from 1 to 32"):
    function(jnp.ones(3), 1.5)
  with pytest.raises(ValueError, match="floating-point array, got dtype int32"):
    function(jnp.ones(3, jnp.int32), 2)


def test_unknown_bound_is_named():
  with pytest.raises(ValueError, match=r"'clip', 'abs_clip', 'relu', got 'tanh'"):
    dorefa.bound(jnp.ones(3), "tanh")
