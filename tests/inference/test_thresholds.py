"""Thresholds and lines against the functions that they stand for."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dorefa_jax.inference.compiler.epilogue import NoChain, narrow
from dorefa_jax.inference.compiler.thresholds import find_thresholds, find_valleys, ordered_to_float
from dorefa_jax.inference.lines import fit_affine, line_thresholds


def rounded(levels):
  return lambda x: jnp.round(x * levels)


def identity(x):
  return x


def float_keys(keys):
  return keys.astype(jnp.float32)


@given(seed=st.integers(0, 10**6), bits=st.integers(1, 4), high=st.integers(1, 3000))
def test_thresholds_and_lines_give_the_codes_of_any_batch_norm(seed, bits, high):
  rng = np.random.default_rng(seed)
  channels, levels = 5, 2**bits - 1
  factor = (rng.normal(size=(1, channels)) * rng.choice([0, 1e-3, 0.03, 1])).astype(np.float32)
  offset = rng.normal(size=(1, channels)).astype(np.float32)

  def codes(x):
    value = x * jnp.broadcast_to(factor, x.shape) + jnp.broadcast_to(offset, x.shape)
    return jnp.round(jnp.clip(value, 0, 1) * levels) / levels

  thresholds, falls = find_thresholds(codes, identity, float_keys, high, channels, levels, rounded(levels))
  sums = np.arange(-high, high + 1)
  expected = np.asarray(jnp.round(codes(jnp.asarray(np.repeat(sums[:, None], channels, 1), jnp.float32)) * levels))
  signed = np.where(falls, -1, 1) * sums[:, None]
  np.testing.assert_array_equal((signed[None] >= thresholds[:, None]).sum(0), expected)
  slope, start, is_exact = fit_affine(thresholds, levels, -high, high)
  line = np.clip(signed.astype(np.float32) * slope + start, 0, levels).astype(np.int64)
  np.testing.assert_array_equal(line[:, is_exact], expected[:, is_exact])
  back = line_thresholds(np.stack([slope, start]), levels, high)
  np.testing.assert_array_equal((signed[None] >= back[:, None]).sum(0), line)


@given(seed=st.integers(0, 10**6), bits=st.integers(1, 4), high=st.integers(1, 3000))
def test_valleys_give_the_codes_of_any_absolute_value(seed, bits, high):
  rng = np.random.default_rng(seed)
  channels, levels = 5, 2**bits - 1
  factor = (rng.normal(size=(1, channels)) * rng.choice([0, 1e-3, 0.03, 1])).astype(np.float32)
  offset = (rng.normal(size=(1, channels)) * rng.choice([0.1, 1, 100])).astype(np.float32)

  def operand(x):
    return x * jnp.broadcast_to(factor, x.shape) + jnp.broadcast_to(offset, x.shape)

  def codes(x):
    return jnp.round(jnp.clip(jnp.abs(x), 0, 1) * levels) / levels

  up, down, falls = find_valleys(operand, codes, identity, float_keys, high, channels, levels, rounded(levels))
  sums = np.arange(-high, high + 1)
  values = jnp.asarray(np.repeat(sums[:, None], channels, 1), jnp.float32)
  expected = np.asarray(jnp.round(codes(operand(values)) * levels))
  signed = np.where(falls, -1, 1) * sums[:, None]
  counted = (signed[None] >= up[:, None]).sum(0) + (signed[None] < down[:, None]).sum(0)
  np.testing.assert_array_equal(counted, expected)


def test_a_valley_that_is_none_is_refused():
  for second in (lambda x: x, lambda x: -jnp.abs(x)):
    with pytest.raises(NoChain, match="do not fall and rise"):
      find_valleys(identity, second, identity, float_keys, 10, 2, 3, rounded(3))
  with pytest.raises(NoChain, match=r"before \|x\|"):
    find_valleys(jnp.square, jnp.abs, identity, float_keys, 10, 2, 3, rounded(3))


def test_lines_fit_nearly_always():
  rng = np.random.default_rng(0)
  channels, levels, high = 500, 3, 2000
  factor = (rng.normal(size=(1, channels)) * 0.01).astype(np.float32)

  def codes(x):
    return jnp.round(jnp.clip(x * jnp.broadcast_to(factor, x.shape) + 0.3, 0, 1) * levels) / levels

  thresholds, _ = find_thresholds(codes, identity, float_keys, high, channels, levels, rounded(levels))
  assert fit_affine(thresholds, levels, -high, high)[2].mean() > 0.99


@pytest.mark.parametrize(
  ("inner", "outer", "message"),
  [
    (jnp.abs, identity, "neither only rise"),
    (identity, jnp.abs, "neither only rise"),
    (lambda x: x / 0, identity, "not finite"),
    (lambda x: -x, lambda x: -x, "neither only rise"),
  ],
)
def test_functions_that_are_no_thresholds_are_refused(inner, outer, message):
  with pytest.raises(NoChain, match=message):
    find_thresholds(inner, outer, float_keys, 10, 2, 3, rounded(3))


def test_keys_are_in_the_order_of_floats():
  values = np.array([-1e30, -1.0, -1e-30, 0.0, 1e-30, 1.0, 1e30], np.float32)
  keys = np.where(values < 0, -np.abs(values).view(np.int32).astype(np.int64), values.view(np.int32)).astype(np.int32)
  assert (np.diff(keys.astype(np.int64)) > 0).all()
  np.testing.assert_array_equal(ordered_to_float(jnp.asarray(keys)), values)


def test_narrow_keeps_what_varies():
  rows = np.arange(3, dtype=np.float32).reshape(1, 3, 1) * np.ones((2, 1, 4), np.float32)
  assert narrow(rows).shape == (1, 3, 1)
  nan = np.full((2, 2), np.nan, np.float32)
  assert narrow(nan).shape == (1, 1)


def test_lanes_of_padding_have_the_code_zero_at_every_sum():
  from dorefa_jax.inference.graph import Conv
  from dorefa_jax.inference.runtime import pack_layer
  from dorefa_jax.kernels.packing import Format
  from dorefa_jax.kernels.program import Output

  codes = np.zeros((1, 1, 4, 3), np.uint8)
  valley = np.repeat(np.array([[5], [-5]], np.int32), 3, axis=1)
  layer = Conv("", codes, 8, 8, (1, 1), (1, 1), ((0, 0), (0, 0)), 1, Output.VALLEY, valley, input_zero=255)
  rising, falling = pack_layer(layer, Format.BYTES)[1][0][:, 3:]
  lowest, highest = np.iinfo(np.int32).min, np.iinfo(np.int32).max
  assert (rising == highest).all()  # no sum of zeros, doubled modulo 2^32, reaches it
  assert (falling == lowest).all()  # and none lies below
