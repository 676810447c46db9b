"""Blocks of the compiled library against NumPy, on every path, without JAX in between."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dorefa_jax.kernels.geometry import Geometry
from dorefa_jax.kernels.packing import Format
from tests.kernels import native

pytestmark = pytest.mark.skipif(not native.paths(), reason="no compiled library")
PATHS = list(native.paths())
EPSILON = 1e-4


def windows(z, window):
  """[images, rows, window, columns, window, channels]."""
  images, height, width, channels = z.shape
  return z.reshape(images, height // window, window, width // window, window, channels)


def bounded(z, bound):
  return [np.clip(z, 0, 1), np.clip(np.abs(z), 0, 1), np.maximum(z, 0), z][bound]


def pooled_gradient(z, g, window, bound):
  """The gradient of z, of which the windows' maxima are bounded; equal maxima share."""
  parts = windows(z, window)
  largest = parts.max((2, 4))
  slope = [(largest >= 0) & (largest <= 1), np.sign(largest) * (np.abs(largest) <= 1), largest > 0, 1.0][bound]
  is_largest = parts == largest[:, :, None, :, None]
  shares = is_largest / is_largest.sum((2, 4), keepdims=True) * (g * slope)[:, :, None, :, None]
  return shares.reshape(z.shape)


@pytest.mark.parametrize("path", PATHS)
@given(data=st.data())
def test_a_quantized_block_and_its_gradient(path, data):
  draw = data.draw
  window, bound = draw(st.integers(1, 2)), draw(st.integers(0, 3))
  kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
  out = window * draw(st.integers(1, 3)), window * draw(st.integers(1, 3))
  padding = tuple((0, draw(st.integers(0, k - 1))) for k in kernel)
  size = tuple(o + k - 1 - sum(p) for o, k, p in zip(out, kernel, padding))
  groups, channels = draw(st.integers(1, 2)), draw(st.integers(1, 40))
  if min(size) < 1:
    return
  geometry = Geometry(size, (*kernel, channels, groups * draw(st.integers(1, 40))), padding=padding, groups=groups)
  format = draw(st.sampled_from([Format.BITS, Format.BYTES]))
  weight_bits, activation_bits, bits = (draw(st.integers(1, 8)) for _ in range(3))
  images, planes = draw(st.sampled_from([3, 17])), draw(st.integers(activation_bits, 8))
  rng = np.random.default_rng(draw(st.integers(0, 2**32)))
  keeps_inside, has_offsets, has_shortcut, has_sum = (draw(st.booleans()) for _ in range(4))
  x = rng.uniform(-0.2, 1.2, (images, *size, channels * groups)).astype(np.float32)
  codes = native.random_codes(rng, geometry.shape, weight_bits)
  zero = draw(st.integers(0, 2 * (2**weight_bits - 1)))
  op = dataclasses.replace(
    geometry.op(), format=format, weight_bits=weight_bits, activation_bits=activation_bits, weight_zero=zero
  )
  flat = codes.reshape(-1, *geometry.shape[2:])
  outputs = geometry.shape[3]
  norm = np.stack([rng.uniform(-1, 2, outputs), rng.uniform(-0.5, 0.5, outputs)]).astype(np.float32)
  packed = native.pack(flat, format, weight_bits, groups)
  params = native.parameters([np.float32(0.125), np.float32(0)], outputs, groups)

  shape = images, *geometry.out_size, outputs
  offsets = rng.integers(-3, 4, shape[1:]).astype(np.float32) if has_offsets else None
  shortcut = rng.normal(size=shape).astype(np.float32) if has_shortcut else None
  gsum = rng.normal(size=shape).astype(np.float32) if has_sum else None

  def run(threads, given=None):
    return native.block(
      x, op, packed, params, norm, EPSILON, window, bound, planes + keeps_inside, path, given, threads,
      keeps_inside=keeps_inside, offsets=offsets, shortcut=shortcut, gsum=gsum,
    )  # fmt: skip

  (kept, statistics, z, sums), others = run(1), run(3)
  for one, other in zip((kept, statistics, z, sums), others, strict=True):
    np.testing.assert_array_equal(one, other)
  a = native.quantize(x, activation_bits)
  unpacked = (kept[..., None] >> np.arange(32, dtype=np.uint32) & 1).reshape(*kept.shape[:2], -1)
  assert not unpacked[..., channels * groups :].any()
  weights = 1 << np.arange(planes)[:, None]
  unpacked = unpacked[..., : channels * groups]
  np.testing.assert_array_equal((unpacked[:, :planes] * weights).sum(1).reshape(a.shape), a)
  if keeps_inside:
    np.testing.assert_array_equal(unpacked[:, planes].reshape(a.shape), (x >= 0) & (x <= 1))
  y = native.convolve(a, native.signed(codes, weight_bits, zero), padding=padding, groups=groups) / 8
  y = y + (offsets if has_offsets else 0)
  mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
  scale = np.abs(y).max() + 1
  np.testing.assert_allclose(statistics[0], mean, rtol=1e-5, atol=1e-5 * scale)
  np.testing.assert_allclose(statistics[1], var, rtol=1e-4, atol=1e-5 * scale**2)
  if var.min() < 0.01:
    return  # what hardly varies is normalized to little but rounding
  # From here on with the statistics that were found: their rounding is not the matter.
  mean, var = statistics.astype(np.float64)
  inverse = 1 / np.sqrt(var + EPSILON)
  normal = (y - mean) * inverse
  line = normal * norm[0] + norm[1] + (shortcut if has_shortcut else 0)
  tolerance = 1e-5 * (np.abs(mean * inverse).max() + np.abs(normal).max() + 1)
  np.testing.assert_allclose(z, bounded(windows(line, window).max((2, 4)), bound), rtol=1e-5, atol=tolerance)
  if has_shortcut:  # the sum is written where there is something to add
    np.testing.assert_allclose(sums, line, rtol=1e-5, atol=tolerance)

  g = rng.normal(size=z.shape).astype(np.float32)
  got, other = run(1, (kept, statistics, g, [1, 2], bits)), run(3, (kept, statistics, g, [1, 2], bits))
  for one, two in zip(got, other, strict=True):
    np.testing.assert_array_equal(one, two)
  factor = (norm[0] / np.sqrt(statistics[1] + np.float32(EPSILON))).astype(np.float32)
  rounded = y.astype(np.float32) * factor + (norm[1] - statistics[0] * factor) + (shortcut if has_shortcut else 0)
  dz = pooled_gradient(rounded, g, window, bound) + (gsum if has_sum else 0)
  edge = np.abs(rounded[..., None] - np.array([-1.0, 0.0, 1.0])).min()
  if edge < tolerance:
    return  # on which side of a bound it lies is a matter of rounding
  if has_shortcut:
    np.testing.assert_allclose(got[3], dz, rtol=1e-5, atol=1e-6)
  dscale, dbias = (dz * normal).sum((0, 1, 2)), dz.sum((0, 1, 2))
  size_of_sums = (np.abs(dz).sum() + 1) * (np.abs(normal).max() + np.abs(mean * inverse).max() + 1)
  np.testing.assert_allclose(got[2][0], dscale, atol=1e-5 * size_of_sums)
  np.testing.assert_allclose(got[2][1], dbias, atol=1e-5 * size_of_sums)
  count = y[..., 0].size
  dy = factor * (dz - dbias / count - normal * dscale / count)
  m = np.abs(dy).reshape(images, -1).max(1)
  slack = 1e-4 * np.abs(factor).max() * (np.abs(g).max() + size_of_sums / count)
  np.testing.assert_allclose(got[1], m, rtol=1e-3, atol=slack)
  position = (dy / np.where(got[1] == 0, 1, got[1]).reshape(-1, 1, 1, 1) + 1) * ((2**bits - 1) / 2)
  is_clear = got[1] > 100 * slack  # else rounding alone moves codes
  assert (np.abs(got[0] - position)[is_clear] <= 1 + 0.02 * (2**bits - 1)).all()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("bound", [0, 1, 2])
@given(
  rows=st.integers(1, 3), columns=st.integers(1, 3), channels=st.integers(1, 3), outputs=st.integers(1, 70),
  images=st.sampled_from([1, 18]), kernel=st.sampled_from([(1, 2), (2, 3), (3, 3), (4, 4), (5, 6)]),
  strides=st.sampled_from([(1, 1), (1, 1), (2, 3), (4, 1)]), odd=st.sampled_from([(0, 0), (1, 0), (1, 1)]),
  padding=st.sampled_from([((0, 0), (0, 0)), ((1, 0), (0, 2)), ((2, 2), (1, 1))]),
)  # fmt: skip
def test_a_block_of_images_and_its_gradient(
  path, bound, rows, columns, channels, outputs, images, kernel, strides, odd, padding
):
  rng = np.random.default_rng(0)
  out = 2 * rows + odd[0], 2 * columns + odd[1]
  size = tuple(max(1, (n - 1) * s + k - sum(p)) for n, s, k, p in zip(out, strides, kernel, padding))
  geometry = Geometry(size, (*kernel, channels, outputs), strides, padding=padding)
  x = rng.integers(-2, 3, (images, *geometry.size, channels)).astype(np.float32)
  w, bias = rng.integers(-1, 2, geometry.shape) / 4, rng.integers(-2, 3, outputs) / 4  # exact; equal maxima
  op = dataclasses.replace(geometry.op(), format=Format.FLOATS)
  panels = []
  flat = w.reshape(-1, outputs).astype(np.float32)
  for first in range(0, outputs, 64):
    panel = flat[:, first : first + 64]
    panels.append(np.pad(panel, ((0, 0), (0, -panel.shape[1] % 16))).ravel())
  weights, params = np.concatenate(panels), native.parameters([np.float32(1), bias.astype(np.float32)], outputs)
  y = native.convolve(x.astype(np.float64), w, strides, (1, 1), padding) + bias
  whole = y[:, : y.shape[1] // 2 * 2, : y.shape[2] // 2 * 2]  # windows that are not whole are dropped
  z, winners = native.image_block(x, op, weights, params, bound, path, threads=2)
  np.testing.assert_array_equal(z, bounded(windows(whole, 2).max((2, 4)), bound))
  g = rng.integers(-3, 4, z.shape).astype(np.float32)
  got = [native.image_block(x, op, weights, params, bound, path, (winners, g), threads) for threads in (1, 3)]
  for one, other in zip(*got, strict=True):
    np.testing.assert_array_equal(one, other)
  dy = pooled_gradient(whole, g, 2, bound)
  dw = np.zeros(geometry.shape)
  padded = np.pad(x, ((0, 0), *padding, (0, 0)))
  for v in range(kernel[0]):
    for u in range(kernel[1]):
      part = padded[:, v :: strides[0], u :: strides[1]][:, : whole.shape[1], : whole.shape[2]]
      dw[v, u] = np.einsum("nyxc,nyxo->co", part, dy)
  np.testing.assert_allclose(got[0][0], dw, rtol=1e-4, atol=1e-3)
  np.testing.assert_allclose(got[0][1], dy.sum((0, 1, 2)), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("path", PATHS)
def test_an_image_that_is_not_finite_has_no_finite_gradient(path):
  x = np.zeros((2, 4, 4, 1), np.float32)
  x[1, 3, 3] = np.nan  # in no patch that wins
  op = dataclasses.replace(Geometry((4, 4), (3, 3, 1, 4)).op(), format=Format.FLOATS)
  weights, params = np.zeros((9, 16), np.float32), native.parameters([np.float32(1), np.float32(0)], 4)
  for images, is_finite in ((x[:1], True), (x, False)):
    winners = np.zeros((len(images), 5, 1), np.uint32)
    winners[:, 0] = 15
    g = np.ones((len(images), 1, 1, 4), np.float32)
    dw, dbias = native.image_block(images, op, weights, params, 0, path, (winners, g))
    assert (np.isfinite(dw) == is_finite).all()
    assert (np.isfinite(dbias) == is_finite).all()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"dilation": (2, 1)}, "without dilation"),
    ({"size": (3, 6)}, "smaller than a window"),
  ],
)
def test_what_is_no_block_of_images_is_refused(options, message):
  geometry = Geometry(**{"size": (6, 6), "shape": (3, 3, 1, 4), **options})
  op = dataclasses.replace(geometry.op(), format=Format.FLOATS)
  weights, params = np.zeros((9, 16), np.float32), native.parameters([np.float32(1), np.float32(0)], 4)
  with pytest.raises(ValueError, match=message):
    native.image_block(np.zeros((1, *geometry.size, 1)), op, weights, params, 0, PATHS[0])


def test_what_is_no_block_is_refused():
  op = Geometry((5, 5), (3, 3, 4, 8)).op()
  weights = native.pack(np.zeros((9, 4, 8), np.uint8), Format.BYTES, 1)
  params, norm = native.parameters([np.float32(1), np.float32(0)], 8), np.ones((2, 8), np.float32)
  for window, planes, message in (
    (2, 2, "divides the image"),
    (3, 2, "1 or 2"),
    (1, 0, "fewer planes"),
    (1, 9, "more than 8"),
  ):
    with pytest.raises(ValueError, match=message):
      native.block(np.zeros((1, 5, 5, 4)), op, weights, params, norm, EPSILON, window, 0, planes, PATHS[0])
