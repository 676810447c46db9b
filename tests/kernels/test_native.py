"""Compiled products against NumPy integers, on every path, without JAX in between."""

import contextlib
import itertools
import os
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dorefa_jax.kernels import packing, winograd
from dorefa_jax.kernels.packing import Format
from dorefa_jax.kernels.program import Kind, Op, Output
from tests.kernels import native

pytestmark = pytest.mark.skipif(not native.paths(), reason="no compiled library")
PATHS = list(native.paths())
sizes = st.integers(1, 3)


def product(x, codes, bits, format, path, threads=1, groups=1, **geometry):
  """The integer convolution on a path: factor 1 and offset 0."""
  op = native.conv_op(x, codes, format, bits, groups, **geometry)
  outputs = codes.shape[3]
  arrays = [
    native.pack(codes.reshape(-1, *codes.shape[2:]), format, bits[0], groups),
    native.parameters([np.float32(1), np.float32(0)], outputs, groups),
  ]
  if op.input_zero:
    zero = None if op.weight_zero < 0 else op.weight_zero
    sums = native.signed(codes, bits[0], zero).sum(2).astype(np.int32).reshape(-1, outputs)
    arrays.append(np.stack([native.parameters(part, part.shape[1]) for part in np.split(sums, groups, 1)]))
  return native.run(x, [op], arrays, path, threads).reshape(len(x), *op.out_shape)


def expected(x, codes, bits, groups=1, zero=None, input_zero=0, **geometry):
  x = native.quantize(x, bits[1])
  x = 2 * x - input_zero if input_zero else x
  return native.convolve(x, native.signed(codes, bits[0], zero), groups=groups, **geometry)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("format", [Format.BITS, Format.BYTES])
def test_every_pair_of_widths_is_exact(path, format):
  rng = np.random.default_rng(0)
  for weight_bits, input_bits in itertools.product(range(1, 9), repeat=2):
    bits = weight_bits, input_bits
    x = rng.uniform(-0.2, 1.2, (2, 4, 5, 37)).astype(np.float32)
    codes = native.random_codes(rng, (3, 2, 37, 19), weight_bits)
    np.testing.assert_array_equal(product(x, codes, bits, format, path), expected(x, codes, bits), err_msg=str(bits))


@pytest.mark.parametrize("path", PATHS)
@given(data=st.data())
def test_any_geometry_is_exact(path, data):
  draw = data.draw
  groups, inputs, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 70)), draw(st.integers(1, 90))
  kernel, strides, dilation = [(draw(sizes), draw(sizes)) for _ in range(3)]
  padding = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(2))
  reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
  size = [draw(st.integers(max(1, r - sum(p)), r + 4)) for r, p in zip(reach, padding)]
  format = draw(st.sampled_from([Format.BITS, Format.BYTES, Format.TABLES]))
  bits = draw(st.integers(1, 8)), draw(st.integers(1, 8))
  if format is Format.TABLES:
    bits = 1, draw(st.integers(1, packing.MAX_TABLE_BITS))
    outputs = draw(st.integers(1, 530))  # up to panels by fours
  rng = np.random.default_rng(draw(st.integers(0, 2**32)))
  x = rng.uniform(-0.2, 1.2, (draw(st.integers(1, 4)), *size, groups * inputs)).astype(np.float32)
  codes = native.random_codes(rng, (*kernel, inputs, groups * outputs), bits[0])
  geometry = {"strides": strides, "dilation": dilation, "padding": padding, "groups": groups}
  zero = draw(st.integers(0, 2 * (2 ** bits[0] - 1)))
  geometry["input_zero"] = draw(st.one_of(st.just(0), st.integers(1, 2 * (2 ** bits[1] - 1))))
  got = product(x, codes, bits, format, path, threads=draw(st.integers(1, 3)), weight_zero=zero, **geometry)
  np.testing.assert_array_equal(got, expected(x, codes, bits, zero=zero, **geometry))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("bits", "channels"), [(1, 65535), (2, 21845), (4, 4369), (5, 2114)])
def test_tables_reach_the_largest_sums(path, bits, channels):
  x = np.ones((1, 1, 5, channels), np.float32)
  codes = np.ones((1, 1, channels, 65), np.uint8)
  got = product(x, codes, (1, bits), Format.TABLES, path)
  np.testing.assert_array_equal(got, np.float32((2**bits - 1) * channels))


@pytest.mark.parametrize(("bits", "channels"), [((2, 2), 4), ((1, 6), 4), ((1, 5), 2115)])
def test_tables_refuse_what_they_cannot_compute(bits, channels):
  x, w = np.zeros((1, 1, 4, channels), np.float32), np.zeros((1, 1, channels, 8), np.uint8)
  op = native.conv_op(x, w, Format.TABLES, bits)
  with pytest.raises(ValueError, match="tables need weights of 1 bit"):
    native.run(x, [op], [np.zeros(10**6, np.uint32), np.zeros(32, np.float32)], PATHS[-1])


@pytest.mark.parametrize("path", PATHS)
def test_extreme_codes_reach_the_bounds_of_the_sum(path):
  x = np.ones((1, 1, 1, 30000), np.float32)
  for code, sign in ((255, 1), (0, -1)):
    codes = np.full((1, 1, 30000, 3), code, np.uint8)
    for format in (Format.BITS, Format.BYTES):
      got = product(x, codes, (8, 8), format, path)
      np.testing.assert_array_equal(got, np.float32(sign * 255 * 255 * 30000))


@pytest.mark.parametrize("path", PATHS)
def test_rounding_of_the_input_is_half_to_even_and_clipped(path):
  x = np.array([0.5, 1.5, 2.5, 3.5, 250.5, 254.5, -3, 300, np.inf, -np.inf], np.float32)[None, None, None] / 255
  codes = np.full((1, 1, x.size, 1), 1, np.uint8)
  for format in (Format.BITS, Format.BYTES):
    got = [product(x[..., i : i + 1], codes[:, :, :1], (1, 8), format, path).item() for i in range(x.size)]
    assert got == native.quantize(x, 8).ravel().tolist()


@pytest.mark.parametrize("path", PATHS)
def test_an_image_with_nan_gives_nan_and_the_others_do_not(path):
  rng = np.random.default_rng(0)
  codes = native.random_codes(rng, (2, 2, 40, 5), 2)
  for where in (0, 39, -1):
    x = rng.uniform(0, 1, (3, 4, 4, 40)).astype(np.float32)
    clean = x.copy()
    x[1, -1, -1, where] = np.nan
    for format in (Format.BITS, Format.BYTES):
      got = product(x, codes, (2, 3), format, path)
      assert np.isnan(got[1]).all()
      np.testing.assert_array_equal(got[[0, 2]], expected(clean, codes, (2, 3))[[0, 2]])


@pytest.mark.parametrize("path", PATHS)
def test_floats_are_convolved_as_numpy_does(path):
  rng = np.random.default_rng(0)
  x, w = rng.normal(size=(2, 9, 8, 3)).astype(np.float32), rng.normal(size=(5, 3, 3, 20)).astype(np.float32)
  geometry = {"strides": (2, 1), "padding": ((1, 2), (0, 1))}
  op = native.conv_op(x, w, Format.FLOATS, (1, 1), **geometry)
  words = packing.pack_weights(w.reshape(15, 3, 20), Format.FLOATS, 1)
  factor, offset = rng.normal(size=(2, 20)).astype(np.float32)
  got = native.run(x, [op], [words, native.parameters([factor, offset], 20)], path)
  want = native.convolve(x.astype(np.float64), w.astype(np.float64), **geometry) * factor + offset
  np.testing.assert_allclose(got.reshape(want.shape), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", PATHS)
@given(data=st.data())
def test_winograd_differs_from_plain_sums_by_rounding(path, data):
  draw = data.draw
  width = draw(st.integers(winograd.MIN_WIDTH, winograd.MAX_WIDTH))
  columns = draw(st.integers(1, 9)) * winograd.tile_outputs(width)
  left = draw(st.integers(0, 2))
  right = draw(st.integers(0, min(2, columns + width - 2 - left)))
  kernel, strides, dilation = (draw(sizes), width), (draw(sizes), 1), (draw(sizes), 1)
  shape = 5, columns + width - 1 - left - right, draw(st.integers(1, 9))
  rng = np.random.default_rng(draw(st.integers(0, 2**32)))
  x = rng.uniform(-1, 1, (draw(st.integers(1, 3)), *shape)).astype(np.float32)
  w = rng.uniform(-1, 1, (*kernel, shape[2], draw(st.integers(1, 70)))).astype(np.float32)
  geometry = {"strides": strides, "dilation": dilation, "padding": ((2, 1), (left, right))}
  op = native.conv_op(x, w, Format.WINOGRAD, (1, 1), **geometry)
  words = packing.pack_weights(winograd.transform_weights(w), Format.WINOGRAD, 1)
  params = native.parameters([np.float32(1), np.float32(0)], w.shape[3])
  got = native.run(x, [op], [words, params], path).reshape(len(x), *op.out_shape)
  want = native.convolve(x.astype(np.float64), w.astype(np.float64), **geometry)
  np.testing.assert_allclose(got, want, atol=2e-6 * kernel[0] * width * shape[2])
  x[-1, 0, 0, 0] = np.inf
  bad = native.run(x, [op], [words, params], path)
  assert np.isnan(bad[-1]).all()
  np.testing.assert_array_equal(bad[:-1], got.reshape(bad.shape)[:-1])


@pytest.mark.parametrize("geometry", [{"strides": (1, 2)}, {"dilation": (1, 2)}, {"padding": ((0, 0), (0, 1))}])
def test_winograd_refuses_what_it_cannot_compute(geometry):
  x, w = np.zeros((1, 5, 12, 3), np.float32), np.zeros((3, 5, 3, 16), np.float32)
  op = native.conv_op(x, w, Format.WINOGRAD, (1, 1), **geometry)
  with pytest.raises(ValueError, match="rows of whole tiles"):
    native.run(x, [op], [np.zeros(3 * 18 * 16, np.float32), np.zeros(32, np.float32)], PATHS[-1])


@pytest.mark.parametrize("format", [Format.BITS, Format.BYTES, Format.TABLES])
@given(
  bits=st.integers(1, 8),
  taps=st.integers(1, 4),
  channels=st.integers(1, 70),
  outputs=st.integers(1, 140),
  groups=st.integers(1, 3),
)
def test_packing_is_the_one_in_numpy(format, bits, taps, channels, outputs, groups):
  codes = native.random_codes(np.random.default_rng(0), (taps, channels, outputs * groups), bits)
  bits = 1 if format is Format.TABLES else bits
  codes = codes & (2**bits - 1)
  expected = packing.pack_weights(codes, format, bits, groups)
  np.testing.assert_array_equal(native.pack(codes, format, bits, groups), expected)


POOLS = {  # (kind, window, strides, padding): windows that overlap, and windows side by side
  "none": None,
  "overlapping": (Kind.POOL, (3, 2), (2, 2), ((1, 0), (0, 1))),
  "side by side": (Kind.POOL, (2, 3), (2, 3), ((0, 0), (0, 0))),
  "of sums": (Kind.POOL_SUMS, (2, 3), (2, 3), ((0, 0), (0, 0))),
}


def chain(rng, bits, format, output, groups, channels, pool, next_padding):
  """Two convolutions with codes between them, and a pooling if asked; (ops, arrays, reference)."""
  weight_bits, input_bits = bits
  levels = 2**input_bits - 1
  middle = 64 if groups > 1 else channels
  first = Op(Kind.CONV, format, weight_bits, input_bits, 7, 8, channels, (3, 2), (1, 1), (1, 1), ((1, 1), (0, 1)),
             groups, middle, output)  # fmt: skip
  height, width, _ = first.out_shape
  ops = [first]
  if pool:
    kind, size, strides, padding = pool
    window = Op(kind, format, weight_bits, input_bits, height, width, middle, size, strides, (1, 1),
                padding, groups, middle)  # fmt: skip
    ops.append(window)
    height, width, _ = window.out_shape
  last = Op(Kind.CONV, format, weight_bits, input_bits, height, width, middle, (2, 2), (1, 1), (1, 1),
            next_padding, groups, 24)  # fmt: skip
  ops.append(last)
  first_codes = native.random_codes(rng, (3, 2, channels // groups, middle), weight_bits)
  last_codes = native.random_codes(rng, (2, 2, middle // groups, 24), weight_bits)
  if output is Output.AFFINE:
    factor = np.abs(rng.normal(size=middle)).astype(np.float32) / np.float32(40)  # lines rise: see freeze
    offset = rng.normal(size=middle).astype(np.float32) + np.float32(levels / 2)
    rows = [factor, offset]
  else:
    rows = np.sort(rng.integers(-200, 200, (levels, middle)), axis=0).astype(np.int32)
  if output is Output.VALLEY:
    up = np.sort(rng.integers(0, 200, (levels, middle)), axis=0).astype(np.int32)
    rows = np.concatenate([up, -up])
  one = [np.float32(1), np.float32(0)]
  never = [2**31 - 1] * levels + [-(2**31)] * levels  # thresholds of padded channels, whose code is zero
  arrays = [
    native.pack(first_codes.reshape(6, -1, middle), format, weight_bits, groups),
    native.parameters(rows, middle, groups, None if output is Output.AFFINE else never[: len(rows)]),
    native.pack(last_codes.reshape(4, -1, 24), format, weight_bits, groups),
    native.parameters(one, 24, groups),
  ]

  def to_codes(sums):
    if output is Output.AFFINE:
      values = sums.astype(np.float32) * rows[0] + rows[1]
      return np.clip(values, 0, levels).astype(np.int64)
    codes = (sums[None] >= rows[:levels, None, None, None]).sum(0)
    return codes + (sums[None] < rows[levels:, None, None, None]).sum(0)

  def maxima(values):
    padded = np.pad(values, ((0, 0), *padding, (0, 0)))
    views = np.lib.stride_tricks.sliding_window_view(padded, size, (1, 2))
    return views[:, :: strides[0], :: strides[1]].max((-1, -2))

  def reference(x):
    x = native.quantize(x, input_bits)
    sums = native.convolve(x, native.signed(first_codes, weight_bits), padding=first.padding, groups=groups)
    if pool and kind is Kind.POOL_SUMS:
      sums = maxima(sums)
    codes = to_codes(sums)
    if pool and kind is Kind.POOL:
      codes = maxima(codes)
    return native.convolve(codes, native.signed(last_codes, weight_bits), padding=next_padding, groups=groups)

  return ops, arrays, reference


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("format", [Format.BITS, Format.BYTES, Format.TABLES])
@pytest.mark.parametrize("output", [Output.AFFINE, Output.THRESHOLDS, Output.VALLEY])
@pytest.mark.parametrize(("groups", "channels"), [(1, 3), (1, 35), (1, 70), (2, 64)])
def test_codes_pass_between_convolutions(path, format, output, groups, channels):
  rng = np.random.default_rng(0)
  widths = [(1, 1), (1, 2), (1, 4), (2, 3), (3, 5), (8, 8)]
  if format is Format.TABLES:
    widths = widths[:3]
  for bits, pool in itertools.product(widths, POOLS):
    ops, arrays, reference = chain(rng, bits, format, output, groups, channels, POOLS[pool], ((1, 0), (1, 2)))
    x = rng.uniform(0, 1, (3, 7, 8, channels)).astype(np.float32)
    want = reference(x)
    for threads in (1, 3):
      got = native.run(x, ops, arrays, path, threads).reshape(want.shape)
      np.testing.assert_array_equal(got, want.astype(np.float32), err_msg=f"{bits} pool={pool}")


@given(data=st.data())
def test_a_damaged_program_is_refused_or_harmless(data):
  rng = np.random.default_rng(0)
  ops, arrays, _ = chain(rng, (2, 3), Format.BITS, Output.AFFINE, 1, 35, POOLS["overlapping"], ((1, 0), (1, 2)))
  words = native.encode(ops)
  for _ in range(data.draw(st.integers(1, 3))):
    at = data.draw(st.integers(0, len(words) - 1))
    words[at] = data.draw(st.one_of(st.integers(-(2**31), 2**31 - 1), st.integers(-2, 40)))
  x = rng.uniform(0, 1, (2, 7, 8, 35)).astype(np.float32)
  with contextlib.suppress(ValueError):
    native.run(x, ops, arrays, PATHS[0], words=words)


@pytest.mark.parametrize("cut", [0, 1, 23, 25, 71])
def test_a_cut_program_is_refused(cut):
  ops, arrays, _ = chain(
    np.random.default_rng(0), (1, 2), Format.BITS, Output.AFFINE, 1, 35, POOLS["overlapping"], ((0, 0), (0, 0))
  )
  with pytest.raises(ValueError, match="records of 24 words"):
    native.run(np.zeros((1, 7, 8, 35)), ops, arrays, PATHS[0], words=native.encode(ops)[:cut])


def test_no_images_give_no_results():
  codes = np.zeros((1, 1, 4, 2), np.uint8)
  assert product(np.zeros((0, 3, 3, 4), np.float32), codes, (1, 1), Format.BITS, PATHS[0]).shape == (0, 3, 3, 2)


def resident_megabytes():
  return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(native.LIBRARY_VARIABLE in os.environ, reason="sanitizers keep freed memory")
def test_the_memory_of_a_large_image_is_given_back():
  """A thread keeps what its calls need, and no more once 256 calls in a row have needed less than half of it."""
  codes, path = np.zeros((1, 1, 1, 1), np.uint8), PATHS[0]
  small, large = np.zeros((1, 8, 8, 1), np.float32), np.zeros((1, 2000, 1000, 1), np.float32)

  def multiply(x):
    return product(x, codes, (1, 8), Format.BITS, path)

  multiply(small)
  before = resident_megabytes()
  multiply(large)
  assert resident_megabytes() > before + 60
  for _ in range(255):
    multiply(small)
  assert resident_megabytes() > before + 60
  multiply(small)
  assert resident_megabytes() < before + 30
