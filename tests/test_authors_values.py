"""Agreement with values that the authors' own TensorFlow functions gave, and each known difference from them.

`authors_values.json` says how the values were made. Where the numbers are not the same, a test states
by how much, or what is there and what is here.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import dorefa_jax as dorefa
from dorefa_jax.methods.stochastic_rounding import round_cotangent
from dorefa_jax.models.svhn import INITIALIZER
from dorefa_jax.ops.pooling import max_pool_2x2

VALUES = json.loads(pathlib.Path(__file__).with_suffix(".json").with_name("authors_values.json").read_text())
WEIGHTS, ACTIVATIONS, GRADIENTS = (VALUES[name] for name in ("weights", "activations", "gradients"))
BITS = (1, 2, 3, 4, 6, 8, 32)
LOW_BITS = BITS[:-1]
GRADIENT_TOLERANCE = 6e-7
"""Of the largest entry: the order of sums, and of factors in the chain rule, differs."""


def array(numbers, shape=(-1,)):
  return np.array([float(number) for number in numbers], np.float32).reshape(shape)


def assert_same(ours, authors):
  """Equal numbers at every element, NaN where NaN is; 0 and -0 are equal numbers."""
  np.testing.assert_array_equal(np.asarray(ours), authors, strict=True)


def with_gradient(function, x, cotangent):
  values, vjp = jax.vjp(function, jnp.asarray(x))
  return np.asarray(values), np.asarray(vjp(jnp.asarray(cotangent))[0])


def weights(name, bits):
  case = WEIGHTS[name]
  w, cotangent = (array(case[key], case["shape"]) for key in ("w", "cotangent"))
  authors = [array(case["outputs"][str(bits)][key], case["shape"]) for key in ("values", "gradient")]
  return with_gradient(lambda w: dorefa.quantize_weights(w, bits), w, cotangent), authors


def activations(bits, kind):
  case = ACTIVATIONS[str(bits)]
  x = array(case["x"])
  used = "relu" if bits == 32 and kind == "clip" else kind  # as in the authors' model
  ours = with_gradient(lambda x: dorefa.quantize_activations(dorefa.bound(x, used), bits), x, np.ones_like(x))
  return x, ours, [array(case[kind][key]) for key in ("values", "gradient")]


def gradients(name, bits):
  case = GRADIENTS[name]
  g, noise, authors = (array(v, case["shape"]) for v in (case["g"], case["noise"], case["outputs"][str(bits)]))
  # They round u + noise - 1/2; here a fraction is rounded up where it is at least the threshold.
  return g, np.asarray(round_cotangent(jnp.asarray(g), jnp.asarray(1 - noise), bits)), authors


def test_the_values_hold_what_is_hard():
  for bits in LOW_BITS:
    x = array(ACTIVATIONS[str(bits)]["x"])
    assert np.isnan(x).any()
    assert {np.inf, -np.inf, 0.0, 1.0} <= set(x[~np.isnan(x)].tolist())
    assert np.signbit(x[x == 0]).any()
    finite, steps = x[np.isfinite(x)], np.float32(2**bits - 1)
    assert (finite * steps % 1 == 0.5).sum() >= steps / 2  # ties
  assert array(["nan", "-inf", -0.0, 0.1]).tobytes() == np.array([np.nan, -np.inf, -0.0, 0.1], np.float32).tobytes()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", ["ties", "equal", "range"])
def test_weights(name, bits):
  (values, gradient), (authors, authors_gradient) = weights(name, bits)
  if bits == 1:  # the mean of magnitudes is summed in another order
    np.testing.assert_array_equal(np.sign(values), np.sign(authors))
    np.testing.assert_array_max_ulp(values, authors, 4)
  else:
    assert_same(values, authors)
  if bits in (1, 32):
    assert_same(gradient, authors_gradient)
  else:
    assert np.abs(gradient - authors_gradient).max() <= GRADIENT_TOLERANCE * np.abs(authors_gradient).max()


@pytest.mark.parametrize("bits", BITS)
def test_a_layer_of_zeros_is_nan_there_and_finite_here(bits):
  (values, gradient), (authors, authors_gradient) = weights("zero", bits)
  if bits in (1, 32):
    assert_same(values, authors)
    assert_same(gradient, authors_gradient)
  else:
    assert np.isnan(authors).all()
    assert np.isnan(authors_gradient).all()
    assert np.isfinite(values).all()
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("kind", ["clip", "abs_clip"])
@pytest.mark.parametrize("bits", BITS)
def test_activations(bits, kind):
  _, (values, _), (authors, _) = activations(bits, kind)
  assert_same(values, authors)


@pytest.mark.parametrize("bits", BITS)
def test_the_gradient_of_clip_differs_at_nan_alone(bits):
  x, (_, gradient), (_, authors) = activations(bits, "clip")
  assert_same(gradient[~np.isnan(x)], authors[~np.isnan(x)])
  assert (authors[np.isnan(x)] == 0).all()
  assert (gradient[np.isnan(x)] == (0 if bits == 32 else 1)).all()


@pytest.mark.parametrize("bits", BITS)
def test_the_gradient_of_abs_clip_differs_at_one_and_at_nan_alone(bits):
  x, (_, gradient), (_, authors) = activations(bits, "abs_clip")
  at_one = np.abs(x) == 1
  assert at_one.any()
  rest = ~np.isnan(x) & ~at_one
  assert_same(gradient[rest], authors[rest])
  assert (authors[at_one] == 0).all()
  assert_same(gradient[at_one], np.sign(x[at_one]))
  assert np.isnan(authors[np.isnan(x)]).all()
  assert (gradient[np.isnan(x)] == -1).all()


@pytest.mark.parametrize("bits", LOW_BITS)
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_with_their_noise(name, bits):
  g, ours, authors = gradients(name, bits)
  axes = tuple(range(1, g.ndim))
  largest = np.max(np.abs(g), axes, keepdims=True)
  zero = np.broadcast_to(largest == 0, g.shape)
  assert np.isnan(authors[zero]).all()  # an all-zero example is 0 / 0 there
  assert (ours[zero] == 0).all()
  assert_same(np.isnan(ours[~zero]), np.isnan(authors[~zero]))
  infinite = np.isinf(authors)
  assert_same(ours[infinite], authors[infinite])
  finite = np.isfinite(authors)
  # Levels are 2 / n apart, so that this finds each decision that differs.
  scaled = (np.broadcast_to(largest, g.shape)[finite], ours[finite], authors[finite])
  assert (np.abs(scaled[1] - scaled[2]) <= 1e-7 * scaled[0]).all()
  if bits == 1:
    assert_same(ours[finite], authors[finite])


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_of_32_bits_pass(name):
  case = GRADIENTS[name]
  assert_same(
    dorefa.quantize_gradients(jnp.asarray(array(case["g"], case["shape"])), None, 32),
    array(case["outputs"]["32"], case["shape"]),
  )


def test_the_running_variance_is_biased_here_and_unbiased_in_tensorflow():
  x = jax.random.normal(jax.random.key(0), (6, 1, 1, 4))
  norm = nn.BatchNorm(use_running_average=False, momentum=0.0)
  _, updates = norm.apply(norm.init(jax.random.key(0), x), x, mutable=["batch_stats"])
  biased = np.var(np.asarray(x, np.float64), axis=(0, 1, 2))
  np.testing.assert_allclose(updates["batch_stats"]["var"], biased, rtol=1e-5)
  np.testing.assert_allclose(np.var(np.asarray(x, np.float64), axis=(0, 1, 2), ddof=1) / biased, 1.2, rtol=1e-6)


def test_equal_maxima_share_the_gradient_of_pooling():
  tied = jnp.array([[1.0, 1.0, 3.0, 1.0], [0.0, 1.0, 1.0, 2.0]])[None, :, :, None]
  gradient = jax.grad(lambda x: max_pool_2x2(x).sum())(tied)[0, :, :, 0]
  np.testing.assert_allclose(gradient, [[1 / 3, 1 / 3, 1, 0], [0, 1 / 3, 0, 0]], rtol=1e-6)


def test_initial_weights_are_truncated_here():
  shape = (3, 3, 64, 64)
  w = np.asarray(INITIALIZER(jax.random.key(0), shape))
  standard_deviation = np.sqrt(2 / (3 * 3 * 64))
  assert w.std() == pytest.approx(standard_deviation, rel=0.01)
  assert 2.2 < np.abs(w).max() / standard_deviation < 2.28  # of 37,000 untruncated ones the largest is above 3.5
