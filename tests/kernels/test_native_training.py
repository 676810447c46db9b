"""The compiled backward pass against NumPy integers, on every path, without JAX in between."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dorefa_jax.kernels.geometry import Geometry
from dorefa_jax.kernels.packing import MAX_TABLE_BITS, Format
from dorefa_jax.kernels.program import Kind, Op
from tests.kernels import native

pytestmark = pytest.mark.skipif(not native.paths(), reason="no compiled library")
PATHS = list(native.paths())
sizes = st.integers(1, 3)


@st.composite
def geometries(draw, max_groups=3):
  """Any convolution whose input gradient kernels take: padding within the kernel's reach."""
  kernel, strides, dilation = [(draw(sizes), draw(sizes)) for _ in range(3)]
  reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
  padding = tuple((draw(st.integers(0, r - 1)), draw(st.integers(0, r - 1))) for r in reach)
  height, width = (draw(st.integers(max(1, r - sum(p)), r + 5)) for r, p in zip(reach, padding))
  size = height, width + draw(st.sampled_from((0, 0, 0, 0, 0, 0, 26, 57)))  # rows are spread 32 pixels at a time
  groups = draw(st.integers(1, max_groups))
  channels, outputs = draw(st.integers(1, 40)), draw(st.integers(1, 70))
  return Geometry(size, (*kernel, channels, groups * outputs), strides, dilation, padding, groups)


def scatter(geometry, g, w):
  """The input gradient: each gradient goes where its window was."""
  dx = np.zeros((len(g), *geometry.size, geometry.shape[2] * geometry.groups), g.dtype)
  for _, at, window, out in windows(geometry):
    dx[:, at[0], at[1], window] += g[:, at[2], at[3], out] @ w[at[4], at[5], :, out].T
  return dx


def windows(geometry):
  """(group, (y, x of the input, y, x of the result, tap), input channels, output channels), padding left out."""
  inputs, outputs = geometry.shape[2], geometry.shape[3] // geometry.groups
  for y, x in itertools.product(*map(range, geometry.out_size)):
    for v, u in itertools.product(*map(range, geometry.shape[:2])):
      row = y * geometry.strides[0] + v * geometry.dilation[0] - geometry.padding[0][0]
      column = x * geometry.strides[1] + u * geometry.dilation[1] - geometry.padding[1][0]
      if 0 <= row < geometry.size[0] and 0 <= column < geometry.size[1]:
        for group in range(geometry.groups):
          yield (
            group,
            (row, column, y, x, v, u),
            slice(group * inputs, (group + 1) * inputs),
            slice(group * outputs, (group + 1) * outputs),
          )


def gather(geometry, a, g, scales):
  """The weight gradient."""
  dw = np.zeros(geometry.shape)
  for _, at, window, out in windows(geometry):
    dw[at[4], at[5], :, out] += np.einsum("n,nc,no->co", scales, a[:, at[0], at[1], window], g[:, at[2], at[3], out])
  return dw


@pytest.mark.parametrize("path", PATHS)
@given(data=st.data())
def test_input_gradients_are_exact(path, data):
  draw = data.draw
  geometry = draw(geometries())
  format = draw(st.sampled_from([Format.BITS, Format.BYTES, Format.TABLES]))
  weight_bits, gradient_bits = draw(st.integers(1, 8)), draw(st.integers(1, 8))
  if format is Format.TABLES:
    weight_bits, gradient_bits = 1, draw(st.integers(1, MAX_TABLE_BITS))
  rng = np.random.default_rng(draw(st.integers(0, 2**32)))
  codes = native.random_codes(rng, (draw(st.integers(1, 3)), *geometry.out_size, geometry.shape[3]), gradient_bits)
  weights = native.random_codes(rng, geometry.shape, weight_bits)
  height, width, channels, outputs = geometry.shape
  groups = geometry.groups
  turned = weights[::-1, ::-1].reshape(height, width, channels, groups, outputs // groups)
  turned = np.ascontiguousarray(turned.transpose(0, 1, 4, 3, 2)).reshape(height * width, outputs // groups, -1)
  zero = draw(st.integers(0, 2 * (2**weight_bits - 1)))
  sums = native.signed(turned, weight_bits, zero).sum(1).reshape(-1, groups, channels).transpose(1, 0, 2)
  op = dataclasses.replace(
    geometry.input_gradient_op(), format=format, weight_bits=weight_bits, activation_bits=gradient_bits,
    weight_zero=zero, input_zero=2**gradient_bits - 1,
  )  # fmt: skip
  pixels, inputs = len(codes) * geometry.size[0] * geometry.size[1], groups * channels
  is_kept = rng.random((pixels, 2, 32 * -(-inputs // 32))) < draw(st.sampled_from([0.5, 1.0]))
  is_kept[..., inputs:] = False
  kept = np.packbits(is_kept, axis=-1, bitorder="little").view(np.uint32) if draw(st.booleans()) else None
  got = native.input_gradient(
    codes,
    np.full(len(codes), 2, np.float32),
    op,
    native.pack(turned, format, weight_bits, groups),
    native.parameters([np.float32(0.5)], groups * channels, groups),
    np.pad(sums, ((0, 0), (0, 0), (0, -channels % 16))),
    path,
    threads=draw(st.integers(1, 3)),
    kept=kept,
  )
  want = scatter(geometry, native.signed(codes, gradient_bits), native.signed(weights, weight_bits, zero))
  if kept is not None:
    want = want * is_kept[:, 1, :inputs].reshape(want.shape)
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("path", PATHS)
@given(data=st.data())
def test_weight_gradients_are_exact(path, data):
  draw = data.draw
  geometry = draw(geometries())
  activation_bits, gradient_bits = draw(st.integers(1, 8)), draw(st.integers(1, 8))
  examples = draw(st.sampled_from([1, 2, 17]))
  rng = np.random.default_rng(draw(st.integers(0, 2**32)))
  x = rng.uniform(-0.2, 1.2, (examples, *geometry.size, geometry.shape[2] * geometry.groups)).astype(np.float32)
  codes = native.random_codes(rng, (examples, *geometry.out_size, geometry.shape[3]), gradient_bits)
  scales = 2.0 ** rng.integers(-1, 2, examples)
  op = dataclasses.replace(geometry.op(), activation_bits=activation_bits)
  planes = native.pack_activations(x, activation_bits, path, planes=draw(st.integers(activation_bits + 1, 9)))
  got = [
    native.weight_gradient(planes, codes, scales.astype(np.float32), op, gradient_bits, path, threads)
    for threads in (1, 3)
  ]
  np.testing.assert_array_equal(*got)
  a = native.quantize(x, activation_bits)
  want = gather(geometry, a, native.signed(codes, gradient_bits), scales)
  outputs = geometry.shape[3] // geometry.groups
  shaped = got[0][:, :, :outputs].transpose(1, 0, 2).reshape(geometry.shape)
  np.testing.assert_allclose(shaped, want, rtol=1e-6, atol=1e-6 * (np.abs(want).max() + 1))
  if examples == 1:
    np.testing.assert_array_equal(shaped, want)


@pytest.mark.parametrize("path", PATHS)
@given(data=st.data())
def test_float_gradients_of_images(path, data):
  geometry = data.draw(geometries(max_groups=1))
  rng = np.random.default_rng(0)
  examples = data.draw(st.sampled_from([1, 18]))
  x = rng.normal(size=(examples, *geometry.size, geometry.shape[2])).astype(np.float32)
  g = rng.normal(size=(examples, *geometry.out_size, geometry.shape[3])).astype(np.float32)
  op = dataclasses.replace(geometry.op(), format=Format.FLOATS)
  got = [native.float_gradient(x, g, op, path, threads) for threads in (1, 3)]
  np.testing.assert_array_equal(*got)
  want = gather(geometry, x, g, np.ones(examples))
  shaped = got[0][:, : geometry.shape[3]].reshape(geometry.shape)
  np.testing.assert_allclose(shaped, want, rtol=1e-4, atol=1e-5 * (np.abs(want).max() + 1))


@pytest.mark.parametrize("path", PATHS)
@given(bits=st.integers(1, 8), channels=st.integers(1, 70), pixels=st.integers(1, 6), spare=st.integers(1, 3))
def test_activations_are_packed_with_what_was_not_clipped(path, bits, channels, pixels, spare):
  rng = np.random.default_rng(0)
  x = rng.uniform(-0.5, 1.5, (pixels, channels)).astype(np.float32)
  x.flat[rng.integers(0, x.size, 3)] = [0, 1, -0.0]
  planes = native.pack_activations(x, bits, path, planes=bits + spare)
  unpacked = (planes[..., None] >> np.arange(32, dtype=np.uint32) & 1).reshape(pixels, bits + spare, -1)
  assert not unpacked[..., channels:].any()
  assert not unpacked[:, bits:-1].any()
  codes = (unpacked[:, :bits, :channels] << np.arange(bits)[:, None]).sum(1)
  np.testing.assert_array_equal(codes, native.quantize(x, bits))
  np.testing.assert_array_equal(unpacked[:, -1, :channels], (x >= 0) & (x <= 1))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [1, 15, 16, 63, 64, 65, 200])
def test_codes_of_gradients_lie_next_to_them(path, size):
  rng = np.random.default_rng(0)
  for bits in range(1, 9):
    g = rng.normal(size=(5, size)).astype(np.float32)
    g[1] = 0
    codes, scales = native.quantize_gradients(g, [1, 2], bits, path, threads=2)
    n = 2**bits - 1
    np.testing.assert_array_equal(scales, np.abs(g).max(1))
    position = (g / np.where(scales == 0, 1, scales)[:, None] + 1) * (n / 2)
    assert (np.abs(codes - position) <= 1 + 1e-4).all()
    assert codes.max() <= n


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_gradients_that_are_not_finite_have_the_scale_nan(path, bad):
  g = np.ones((3, 40), np.float32)
  g[1, 17] = g[2, -1] = bad
  assert np.isnan(native.quantize_gradients(g, [1, 2], 4, path)[1]).tolist() == [False, True, True]


def test_what_is_no_gradient_is_refused():
  op = Geometry((5, 5), (3, 3, 4, 8)).op()
  planes, codes, scales = np.zeros((25, 3, 1), np.uint32), np.zeros((1, 3, 3, 8), np.uint8), np.ones(1, np.float32)
  for change, bits, message in (
    ({"format": Format.BITS}, 4, "in bytes"),
    ({"kind": Kind.POOL, "outputs": 4}, 4, "of a convolution"),
    ({}, 9, "bits of gradients must be 1 to 8"),
    ({"activation_bits": 4}, 4, "fewer planes"),
  ):
    with pytest.raises(ValueError, match=message):
      native.weight_gradient(planes, codes, scales, dataclasses.replace(op, **change), bits, PATHS[0])
  large = Op(Kind.CONV, Format.BYTES, 1, 2, 3000, 3000, 1, (1, 1))
  with pytest.raises(ValueError, match="positions do not fit 32 bits"):
    native.weight_gradient(planes, codes, scales, large, 8, PATHS[0])
  for wide in (
    Geometry((1, 1), (1, 1, 8192, 1), strides=(2**24, 2**24)),
    Geometry((1, 1), (1, 1, 16384, 1), (2**24, 2**24)),
  ):
    with pytest.raises(ValueError, match="too large for a weight gradient"):
      native.weight_gradient(planes, codes, scales, wide.op(), 1, PATHS[0])
  gaps = Op(Kind.CONV, Format.FLOATS, 1, 1, 1, 2**20, 2**24, (1, 1), padding=((0, 0), (2**20 - 1, 0)), gap=(1, 2**20))
  with pytest.raises(ValueError, match="too large"):
    native.float_gradient(np.zeros((1, 1, 1, 1)), np.zeros((1, 1, 1, 1)), gaps, PATHS[0])
  with pytest.raises(ValueError, match="of floats, of one group"):
    native.float_gradient(np.zeros((1, 5, 5, 4)), np.zeros((1, 3, 3, 8)), op, PATHS[0])
