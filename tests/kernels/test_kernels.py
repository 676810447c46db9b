"""The kernels' functions of JAX arrays, and the choice of a path."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dorefa_jax import kernels
from dorefa_jax.kernels import xla
from dorefa_jax.kernels.availability import PATH_VARIABLE
from dorefa_jax.kernels.formats import best_format
from dorefa_jax.kernels.packing import Format, pack_weights
from dorefa_jax.kernels.program import MIDDLE
from tests.kernels import native
from tests.on_path import on_path

needs_library = pytest.mark.skipif(not native.paths(), reason="no compiled library")


def test_the_best_path_is_taken():
  found = kernels.available()
  assert found.path == next(iter(native.paths()), "xla")
  assert found.reason


@pytest.mark.parametrize("path", [*native.paths(), "xla"])
def test_a_path_can_be_forced(monkeypatch, path):
  monkeypatch.setenv(PATH_VARIABLE, path)
  assert kernels.available().path == path


def test_an_unknown_path_is_refused(monkeypatch):
  monkeypatch.setenv(PATH_VARIABLE, "mmx")
  with pytest.raises(ValueError, match="'mmx' is not available here; there are: .*xla"):
    kernels.available()


def test_without_the_library_everything_still_imports(tmp_path):
  """A copy of the package that has no library in it."""
  code = (
    "import pathlib, dorefa_jax.kernels.availability as here; here.__file__ = 'nowhere/cpu.py'; "
    "found = here.available(); print(found.path, found.reason)"
  )
  run = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, PATH_VARIABLE: ""}
  )
  assert run.stdout.startswith("xla The compiled kernels were not built")


def test_a_library_that_does_not_load_is_reported(tmp_path):
  (tmp_path / "_native.so").write_bytes(b"no library")
  code = (
    f"import dorefa_jax.kernels.availability as here; here.__file__ = {str(tmp_path / 'availability.py')!r}; "
    "found = here.available(); print(found.path, found.reason)"
  )
  run = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, PATH_VARIABLE: ""}
  )
  assert run.stdout.startswith("xla The compiled kernels do not load")


@needs_library
@pytest.mark.parametrize("path", list(native.paths()))
def test_conv_and_dot_on_every_path(path):
  rng = np.random.default_rng(0)
  x = rng.uniform(0, 1, (2, 5, 5, 33)).astype(np.float32)
  codes = native.random_codes(rng, (3, 3, 33, 20), 2)
  weights = kernels.pack_weights(jnp.asarray(codes), 9.0, bits=2, activation_bits=2)
  with on_path(path):
    got = kernels.conv(jnp.asarray(x), weights, activation_bits=2, padding=((1, 1), (1, 1)))
  want = native.convolve(native.quantize(x, 2), native.signed(codes, 2), padding=((1, 1), (1, 1)))
  np.testing.assert_array_equal(got, want)
  weights = kernels.pack_weights(jnp.asarray(codes[0, 0]), 9.0, bits=2, activation_bits=2)
  with on_path(path):
    got = kernels.dot(jnp.asarray(x[0, 0]), weights, activation_bits=2)
  np.testing.assert_array_equal(got, native.quantize(x[0, 0], 2) @ native.signed(codes[0, 0], 2))


@needs_library
def test_formats_are_chosen_by_the_product_of_widths(monkeypatch):
  monkeypatch.setenv(PATH_VARIABLE, "portable")
  codes = jnp.zeros((64, 16), jnp.uint8)

  def format(w, a):
    return Format(int(kernels.pack_weights(codes, bits=w, activation_bits=a).spec[0]))

  assert {format(1, 1), format(1, 5), format(2, 2)} == {Format.BITS}
  assert {format(2, 3), format(1, 8), format(8, 8)} == {Format.BYTES}
  traced = jax.jit(lambda w, a: kernels.pack_weights(codes, bits=w, activation_bits=a).spec)
  assert traced(jnp.int32(1), jnp.int32(2)).tolist() == [Format.BITS, 1, MIDDLE]
  assert traced(jnp.int32(3), jnp.int32(2)).tolist() == [Format.BYTES, 3, MIDDLE]


@needs_library
@pytest.mark.parametrize(
  ("bits", "shape", "options", "expected"),
  [
    ((1, 4), (3, 3, 64, 64), {"width": 20}, Format.TABLES),
    ((1, 2), (3, 3, 256, 256), {"width": 4}, Format.TABLES),
    ((1, 2), (3, 3, 64, 64), {"width": 20}, Format.BITS),  # too few look-ups in each table
    ((1, 4), (3, 3, 64, 128), {"width": 20, "groups": 2}, Format.TABLES),
    ((1, 4), (3, 3, 64, 64), {"width": 20, "groups": 4}, Format.BITS),
    ((1, 4), (3, 3, 64, 64), {"width": 3}, Format.BITS),
    ((1, 4), (3, 3, 64, 64), {}, Format.BITS),
    ((1, 3), (1, 1, 9216, 4096), {"width": 1, "rows": 1}, Format.TABLES),  # weights are read once
    ((1, 3), (1, 1, 9216, 4096), {"width": 1, "rows": 128}, Format.BITS),
    ((1, 2), (1, 1, 9216, 4096), {"width": 1, "rows": 1}, Format.BITS),
    ((1, 5), (3, 3, 256, 256), {"width": 20}, Format.BITS),  # sums of 16 bits
    ((1, 6), (3, 3, 64, 64), {"width": 20}, Format.BYTES),
    ((2, 2), (3, 3, 64, 64), {"width": 20}, Format.BITS),
    ((1, 2), (3, 3, 16, 16), {"width": 20}, Format.BITS),
    ((1, 4), (3, 3, 16, 16), {"width": 20}, Format.BYTES),  # half of each word of bits would be empty
    ((1, 2), (3, 3, 8, 16), {"width": 20}, Format.BYTES),
    ((1, 4), (3, 3, 64, 64), {"width": 20, "path": "avx2"}, Format.BITS),
    ((1, 1), (3, 3, 64, 64), {"width": 20, "path": "amx"}, Format.BYTES),
    ((1, 3), (1, 1, 9216, 4096), {"width": 1, "rows": 1, "path": "amx"}, Format.BITS),  # weights are read once
  ],
)
def test_tables_are_chosen_where_they_pay(bits, shape, options, expected):
  options = {"path": "avx512", **options}
  assert best_format(*bits, shape, **options) is expected
  traced = jax.jit(lambda w, a: best_format(w, a, shape, **options))
  assert traced(*map(jnp.int32, bits)) == expected


@needs_library
@pytest.mark.skipif("avx512" not in native.paths(), reason="tables are chosen where VPERMB is")
def test_packing_chooses_tables(monkeypatch):
  monkeypatch.setenv(PATH_VARIABLE, "avx512")
  codes = jnp.zeros((3, 3, 64, 64), jnp.uint8)
  for out_width, expected in ((20, Format.TABLES), (None, Format.BITS)):
    packed = kernels.pack_weights(codes, bits=1, activation_bits=4, out_width=out_width)
    assert int(packed.spec[0]) == expected


@needs_library
def test_tables_that_cannot_be_are_refused():
  codes = jnp.zeros((3, 3, 64, 64), jnp.uint8)
  for bits, inputs in ((2, 2), (1, 6)):
    with pytest.raises(ValueError, match="tables need weights of 1 bit"):
      kernels.pack_weights(codes, bits=bits, activation_bits=inputs, format=Format.TABLES)


@needs_library
def test_a_sharded_program_gives_the_same():
  code = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from dorefa_jax import kernels
x = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (4, 5, 5, 32)).astype(np.float32))
w = kernels.pack_weights(jnp.ones((3, 3, 32, 16), jnp.uint8), bits=1, activation_bits=2)
f = jax.jit(lambda x: kernels.conv(x, w, activation_bits=2) + 1)
mesh = Mesh(np.array(jax.devices()), ("batch",))
y = f(jax.device_put(x, NamedSharding(mesh, P("batch"))))
np.testing.assert_array_equal(y, f(x))
g = jax.jit(jax.shard_map(lambda x: kernels.conv(x, w, activation_bits=2) + 1, mesh=mesh, in_specs=P("batch"),
                          out_specs=P("batch")))
np.testing.assert_array_equal(g(x), f(x))
"""
  subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: kernels.pack_weights(jnp.zeros((4, 2), jnp.int32), bits=1, activation_bits=1), "codes must be uint8"),
    (lambda: kernels.pack_weights(jnp.zeros((0, 2), jnp.uint8), bits=1, activation_bits=1), "not empty"),
    (lambda: kernels.pack_weights(jnp.zeros((4, 2), jnp.uint8), bits=9, activation_bits=1), "bits must be 1 to 8"),
    (lambda: kernels.pack_weights(jnp.zeros((4, 2), jnp.uint8), bits=1, activation_bits=0), "must be 1 to 8"),
    (lambda: kernels.pack_weights(jnp.zeros((4, 2), jnp.uint8), bits=1, activation_bits=1, groups=3), "divide"),
    (
      lambda: kernels.pack_weights(jnp.zeros((4, 2), jnp.uint8), jnp.ones(3), bits=1, activation_bits=1),
      r"scale must be a scalar or \[2\]",
    ),
    (lambda: xla.conv(jnp.zeros((1, 1, 1, 1)), jnp.zeros((1, 1, 1, 1), jnp.uint8), jnp.float32(1), weight_bits=9,
                      activation_bits=1), "weight_bits must be 1 to 8"),
    (lambda: pack_weights(np.full((1, 1, 1), 2, np.uint8), Format.BITS, 1), "uint8 below 2"),
    (lambda: pack_weights(np.zeros((1, 1), np.uint8), Format.BITS, 1), "shape"),
  ],
)  # fmt: skip
def test_bad_operands_are_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()


@needs_library
@pytest.mark.parametrize(
  ("x", "options", "message"),
  [
    (jnp.zeros((1, 5, 5, 3)), {}, r"float32 \[batch, height, width, 4\]"),
    (jnp.zeros((1, 5, 5, 4), jnp.int32), {}, "got int32"),
    (jnp.zeros((1, 2, 5, 4)), {}, "does not fit x of shape"),
    (jnp.zeros((1, 5, 5, 4)), {"strides": (0, 1)}, "does not fit"),
    (jnp.zeros((1, 5, 5, 4)), {"padding": ((-1, 0), (0, 0))}, "does not fit"),
    (jnp.zeros((1, 5, 5, 4)), {"activation_bits": 9}, "1 to 8"),
  ],
)
def test_bad_inputs_are_refused(x, options, message):
  weights = kernels.pack_weights(jnp.zeros((3, 3, 4, 2), jnp.uint8), bits=1, activation_bits=1)
  with pytest.raises(ValueError, match=message):
    kernels.conv(x, weights, **{"activation_bits": 1, **options})


@needs_library
def test_traced_widths_out_of_range_are_refused_at_run_time():
  weights = kernels.pack_weights(jnp.zeros((3, 3, 4, 2), jnp.uint8), bits=1, activation_bits=1)
  with pytest.raises(jax.errors.JaxRuntimeError, match="bits of activations must be 1 to 8, got 9"):
    jax.jit(lambda bits: kernels.conv(jnp.zeros((1, 5, 5, 4)), weights, activation_bits=bits))(jnp.int32(9))
