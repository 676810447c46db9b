"""The compiled library without JAX: plain calls, and the same products in NumPy integers."""

import ctypes
import functools
import os
import pathlib

import numpy as np

import dorefa_jax.kernels
from dorefa_jax.kernels.packing import Format
from dorefa_jax.kernels.program import Kind, Op, encode

LIBRARY_VARIABLE = "DOREFA_JAX_TEST_LIBRARY"  # a library built for the tests, with sanitizers for one


@functools.cache
def library():
  folder = pathlib.Path(dorefa_jax.kernels.__file__).parent
  path = os.environ.get(LIBRARY_VARIABLE) or next(iter(sorted(folder.glob("_native*.so"))), None)
  if path is None:
    return None
  loaded = ctypes.CDLL(str(path))
  loaded.dorefa_path_count.restype = ctypes.c_int64
  loaded.dorefa_path_name.restype = ctypes.c_char_p
  loaded.dorefa_path_name.argtypes = loaded.dorefa_path_is_supported.argtypes = [ctypes.c_int64]
  return loaded


def paths():
  """The compiled paths that run here, {name: number}; empty without the library."""
  if library() is None:
    return {}
  numbers = range(library().dorefa_path_count())
  return {library().dorefa_path_name(i).decode(): i for i in numbers if library().dorefa_path_is_supported(i)}


def pack(codes, format, bits, groups=1):
  taps, channels, outputs = codes.shape
  from dorefa_jax.kernels.packing import weight_words

  words = np.zeros(weight_words(format, bits, codes.shape, groups), np.uint32)
  library().dorefa_pack_arrays(
    _pointer(np.ascontiguousarray(codes)),
    ctypes.c_int32(format),
    *map(ctypes.c_int64, (bits, taps, channels, groups, outputs // groups)),
    _pointer(words),
  )
  return words


def run(x, ops, arrays, path, threads=1, out_size=None, words=None):
  """Runs a program; raises ValueError with the library's message."""
  words = encode(ops) if words is None else words
  size = int(np.prod(ops[-1].out_shape)) if out_size is None else out_size
  y = np.full((len(x), size), 7e7, np.float32)
  x = np.ascontiguousarray(x, np.float32)
  pointers = (ctypes.c_void_p * len(arrays))(*[array.ctypes.data for array in arrays])
  sizes = (ctypes.c_int64 * len(arrays))(*[array.size for array in arrays])
  message = ctypes.create_string_buffer(400)
  failed = library().dorefa_run_arrays(
    ctypes.c_int64(paths()[path]),
    ctypes.c_int64(threads),
    _pointer(x),
    ctypes.c_int64(x.size),
    ctypes.c_int64(len(x)),
    _pointer(words),
    ctypes.c_int64(words.size),
    pointers,
    sizes,
    ctypes.c_int64(len(arrays)),
    _pointer(y),
    ctypes.c_int64(y.size),
    message,
    ctypes.c_int64(len(message)),
  )
  if failed:
    raise ValueError(message.value.decode())
  return y


def quantize_gradients(g, key, bits, path, threads=1):
  g = np.ascontiguousarray(g, np.float32)
  codes, scales = np.full(g.shape, 0xEE, np.uint8), np.full(len(g), 7e7, np.float32)
  key = np.array(key, np.uint32)
  library().dorefa_quantize_gradient_arrays(
    *map(ctypes.c_int64, (paths()[path], threads)),
    _pointer(g),
    *map(ctypes.c_int64, (len(g), g[0].size)),
    _pointer(key),
    ctypes.c_int64(bits),
    _pointer(codes),
    _pointer(scales),
  )
  return codes, scales


def pack_activations(x, bits, path, planes=None, threads=1):
  x = np.ascontiguousarray(x, np.float32)
  pixels, channels = x.reshape(-1, x.shape[-1]).shape
  out = np.full((pixels, planes or bits + 1, -(-channels // 32)), 0xEEEEEEEE, np.uint32)
  library().dorefa_pack_activation_arrays(
    *map(ctypes.c_int64, (paths()[path], threads)),
    _pointer(x),
    *map(ctypes.c_int64, (pixels, channels, bits, out.shape[1])),
    _pointer(out),
  )
  return out


def input_gradient(codes, scales, op, weights, params, tap_sums, path, threads=1, kept=None):
  codes, y = np.ascontiguousarray(codes), np.full((len(codes), *op.out_shape), 7e7, np.float32)
  words, tap_sums = encode([op]), np.ascontiguousarray(tap_sums, np.int32)
  message = ctypes.create_string_buffer(400)
  failed = library().dorefa_input_gradient_arrays(
    *map(ctypes.c_int64, (paths()[path], threads)),
    *map(_pointer, (codes, scales)),
    ctypes.c_int64(len(codes)),
    _pointer(words),
    *(part for array in (weights, params) for part in (_pointer(array), ctypes.c_int64(array.size))),
    _pointer(tap_sums),
    ctypes.c_int64(tap_sums.size),
    _optional(kept),
    ctypes.c_int64(0 if kept is None else kept.shape[1]),
    _pointer(y),
    message,
    ctypes.c_int64(len(message)),
  )
  if failed:
    raise ValueError(message.value.decode())
  return y


def weight_gradient(planes, gradients, scales, op, bits, path, threads=1):
  """[groups, taps * channels, padded outputs]."""
  shape = op.groups, op.kernel[0] * op.kernel[1] * (op.channels // op.groups), -(-(op.outputs // op.groups) // 16) * 16
  sums = np.full(shape, 7e7, np.float32)
  words, gradients = encode([op]), np.ascontiguousarray(gradients)
  message = ctypes.create_string_buffer(400)
  failed = library().dorefa_weight_gradient_arrays(
    *map(ctypes.c_int64, (paths()[path], threads)),
    _pointer(planes),
    ctypes.c_int64(planes.shape[1]),
    *map(_pointer, (gradients, scales)),
    ctypes.c_int64(len(gradients)),
    _pointer(words),
    ctypes.c_int64(bits),
    _pointer(sums),
    message,
    ctypes.c_int64(len(message)),
  )
  if failed:
    raise ValueError(message.value.decode())
  return sums


def float_gradient(images, gradients, op, path, threads=1):
  """[taps * channels, padded outputs]."""
  sums = np.full((op.kernel[0] * op.kernel[1] * op.channels, -(-op.outputs // 16) * 16), 7e7, np.float32)
  images, gradients = (np.ascontiguousarray(part, np.float32) for part in (images, gradients))
  words = encode([op])
  message = ctypes.create_string_buffer(400)
  failed = library().dorefa_float_gradient_arrays(
    *map(ctypes.c_int64, (paths()[path], threads)),
    *map(_pointer, (images, gradients)),
    ctypes.c_int64(len(images)),
    _pointer(words),
    _pointer(sums),
    message,
    ctypes.c_int64(len(message)),
  )
  if failed:
    raise ValueError(message.value.decode())
  return sums


def block(
  x, op, weights, params, norm, epsilon, window, bound, planes, path, given=None, threads=1, *, keeps_inside=False,
  offsets=None, shortcut=None, gsum=None,
):  # fmt: skip
  """(planes, statistics, result, sum); or, where (planes, statistics, g, key, bits) are given, (codes, scales, dnorm,
  dshortcut).
  """
  height, width, channels = op.out_shape
  pixels = op.height * op.width
  if given is None:
    x = np.ascontiguousarray(x, np.float32)
    images, g, key, bits = len(x), None, np.zeros(2, np.uint32), 1
    kept = np.full((images * pixels, planes, -(-op.channels // 32)), 0xEEEEEEEE, np.uint32)
    statistics = np.full((2, channels), 7e7, np.float32)
  else:
    kept, statistics, g, key, bits = given
    images, x, g, key = len(g), np.zeros(0, np.float32), np.ascontiguousarray(g, np.float32), np.array(key, np.uint32)
  out = np.full((images, height // window, width // window, channels), 7e7, np.float32)
  codes, scales = np.full((images, height, width, channels), 0xEE, np.uint8), np.full(images, 7e7, np.float32)
  norm, dnorm = np.ascontiguousarray(norm, np.float32), np.full((2, channels), 7e7, np.float32)
  words, spec = encode([op]), np.array([window, bound, planes, keeps_inside], np.int64)
  offsets, shortcut, gsum = (
    None if part is None else np.ascontiguousarray(part, np.float32) for part in (offsets, shortcut, gsum)
  )
  epsilons = np.full(channels, epsilon, np.float32)
  sums, dshortcut = (np.full((images, height, width, channels), 7e7, np.float32) for _ in range(2))
  message = ctypes.create_string_buffer(400)
  failed = library().dorefa_block_arrays(
    *map(ctypes.c_int64, (paths()[path], threads)),
    _pointer(x),
    ctypes.c_int64(images),
    _pointer(words),
    *(part for array in (weights, params) for part in (_pointer(array), ctypes.c_int64(array.size))),
    _pointer(norm),
    _pointer(epsilons),
    _pointer(spec),
    *map(_optional, (offsets, shortcut)),
    *map(_pointer, (kept, statistics, out, sums)),
    *map(_optional, (g, gsum)),
    _pointer(key),
    ctypes.c_int64(bits),
    *map(_pointer, (codes, scales, dnorm, dshortcut)),
    message,
    ctypes.c_int64(len(message)),
  )
  if failed:
    raise ValueError(message.value.decode())
  return (kept, statistics, out, sums) if g is None else (codes, scales, dnorm, dshortcut)


def image_block(x, op, weights, params, bound, path, given=None, threads=1):
  """(result, winners); or, where (winners, g) are given, the gradients of weights [height, width, ...] and bias."""
  height, width, channels = op.out_shape
  x = np.ascontiguousarray(x, np.float32)
  out = np.full((len(x), height // 2, width // 2, channels), 7e7, np.float32)
  winners = np.full((out[..., 0].size, 5, -(-channels // 32)), 0xEEEEEEEE, np.uint32)
  winners, g = (winners, None) if given is None else given
  patch_row = -(-op.kernel[1] * op.channels // 16) * 16
  sums = np.full(channels * (op.kernel[0] * patch_row + 1), 7e7, np.float32)
  words = encode([op])
  message = ctypes.create_string_buffer(400)
  failed = library().dorefa_image_block_arrays(
    *map(ctypes.c_int64, (paths()[path], threads)),
    _pointer(x),
    ctypes.c_int64(len(x)),
    _pointer(words),
    *(part for array in (weights, params) for part in (_pointer(array), ctypes.c_int64(array.size))),
    ctypes.c_int64(bound),
    *map(_pointer, (out, winners)),
    None if g is None else _pointer(g),
    _pointer(sums),
    message,
    ctypes.c_int64(len(message)),
  )
  if failed:
    raise ValueError(message.value.decode())
  if g is None:
    return out, winners
  rows = sums[:-channels].reshape(channels, op.kernel[0], patch_row)[..., : op.kernel[1] * op.channels]
  return rows.reshape(channels, *op.kernel, op.channels).transpose(1, 2, 3, 0), sums[-channels:]


def conv_op(x, codes, format, bits, groups=1, **geometry):
  height, width, channels, outputs = codes.shape
  return Op(Kind.CONV, format, *bits, *x.shape[1:], kernel=(height, width), groups=groups, outputs=outputs, **geometry)


def quantize(x, bits):
  n = np.float32(2**bits - 1)
  return np.rint(np.clip(x * n, 0, n)).astype(np.int64)


def signed(codes, bits, zero=None):
  """2 c - zero, by default 2 c - n."""
  return 2 * codes.astype(np.int64) - (2**bits - 1 if zero is None else zero)


def convolve(x, w, strides=(1, 1), dilation=(1, 1), padding=((0, 0), (0, 0)), groups=1):
  """A convolution of integers, NHWC and HWIO."""
  x = np.pad(x, ((0, 0), *padding, (0, 0)))
  rows = (x.shape[1] - (w.shape[0] - 1) * dilation[0] - 1) // strides[0] + 1
  columns = (x.shape[2] - (w.shape[1] - 1) * dilation[1] - 1) // strides[1] + 1
  inputs, outputs = w.shape[2], w.shape[3] // groups
  y = np.zeros((x.shape[0], rows, columns, w.shape[3]), np.result_type(x, w))
  for g in range(groups):
    out = slice(g * outputs, (g + 1) * outputs)
    for v in range(w.shape[0]):
      for u in range(w.shape[1]):
        top, left = v * dilation[0], u * dilation[1]
        rows_at = slice(top, top + (rows - 1) * strides[0] + 1, strides[0])
        columns_at = slice(left, left + (columns - 1) * strides[1] + 1, strides[1])
        y[..., out] += x[:, rows_at, columns_at, g * inputs : (g + 1) * inputs] @ w[v, u, :, out]
  return y


def parameters(rows, outputs, groups=1, fill=None):
  """[rows] of [outputs], padded to panels with zeros or one value a row, group by group."""
  rows = np.stack([np.broadcast_to(row, (outputs,)) for row in rows])
  missing = -(outputs // groups) % 16
  padding = np.zeros((len(rows), missing), rows.dtype)
  padding += 0 if fill is None else np.array(fill, rows.dtype)[:, None]
  parts = [np.concatenate([part, padding], axis=1) for part in np.split(rows, groups, axis=1)]
  return np.ascontiguousarray(np.concatenate(parts, axis=None))


def random_codes(rng, shape, bits):
  return rng.integers(0, 2**bits, shape).astype(np.uint8)


def _optional(array):
  return None if array is None else _pointer(array)


def _pointer(array):
  return ctypes.c_void_p(array.ctypes.data)


__all__ = ["Format", "Kind", "Op"]
