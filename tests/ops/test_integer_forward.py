"""Products on the integer kernels against the emulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import dorefa_jax as dorefa
from dorefa_jax import kernels, ops
from dorefa_jax.kernels.availability import PATH_VARIABLE
from dorefa_jax.methods.dorefa import weight_codes
from dorefa_jax.ops import backends

NHWC = ("NHWC", "HWIO", "NHWC")
MATMUL = (((1,), (0,)), ((), ()))
needs_library = pytest.mark.skipif(not kernels.available().is_compiled, reason="no compiled library")


def random(shape, seed=0, low=-0.2, high=1.2):
  return jnp.asarray(np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32))


def both(product, *operands):
  return [np.asarray(jax.jit(lambda *o, b=backend: product(*o, backend=b))(*operands)) for backend in ops.BACKENDS]


@pytest.fixture(params=["compiled", "xla"])
def path(request, monkeypatch):
  if request.param == "xla":
    monkeypatch.setenv(PATH_VARIABLE, "xla")
  elif not kernels.available().is_compiled:
    pytest.skip("no compiled library")


@pytest.mark.parametrize("bits", [(1, 1), (1, 2), (2, 2), (3, 5), (8, 8)])
def test_conv_is_the_emulation_to_float_rounding(path, bits):
  x, w = random((2, 6, 7, 20)), random((3, 2, 20, 17), 1, -1, 1)

  def product(x, w, backend):
    return ops.conv_general_dilated(
      x,
      w,
      (2, 1),
      "SAME",
      bits=dorefa.BitWidths(*bits, 32),
      backend=backend,
      dimension_numbers=NHWC,
      rhs_dilation=(1, 2),
    )

  auto, emulated, integers = both(product, x, w)
  np.testing.assert_allclose(integers, emulated, rtol=1e-5, atol=2e-6 * np.abs(emulated).max())
  np.testing.assert_allclose(auto, emulated, rtol=1e-5, atol=2e-6 * np.abs(emulated).max())


def test_powers_of_two_are_exact(path):
  x = random((2, 6, 6, 40))
  w = jnp.where(random((3, 3, 40, 18), 1, -1, 1) > 0, 0.25, -0.25)

  def product(x, w, backend):
    return ops.conv_general_dilated(
      x, w, (1, 1), "VALID", bits=dorefa.BitWidths(1, 1, 32), backend=backend, dimension_numbers=NHWC
    )

  auto, emulated, integers = both(product, x, w)
  np.testing.assert_array_equal(integers, emulated)
  np.testing.assert_array_equal(auto, emulated)


@pytest.mark.parametrize(
  ("x_shape", "w_shape", "numbers", "options"),
  [
    ((2, 9, 16), (3, 16, 20), ("NWC", "WIO", "NWC"), {"rhs_dilation": (2,)}),
    ((16, 5, 6, 2), (20, 4, 3, 3), ("CHWN", "OIHW", "NCHW"), {"feature_group_count": 4}),
    ((2, 32, 5, 6), (3, 3, 32, 16), ("NCHW", "HWIO", "NHWC"), {"preferred_element_type": jnp.float32}),
  ],
)
def test_layouts_ranks_and_groups(path, x_shape, w_shape, numbers, options):
  x, w = random(x_shape), random(w_shape, 1, -1, 1)
  strides = (1,) * (x.ndim - 2)

  def product(x, w, backend):
    return ops.conv_general_dilated(
      x, w, strides, "SAME", bits=dorefa.BitWidths(2, 3, 32), backend=backend, dimension_numbers=numbers, **options
    )

  _, emulated, integers = both(product, x, w)
  np.testing.assert_allclose(integers, emulated, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
  ("x_shape", "w_shape", "numbers"),
  [
    ((3, 40), (40, 20), MATMUL),
    ((40,), (40, 20), (((0,), (0,)), ((), ()))),
    ((2, 3, 5, 8), (8, 7, 5), (((3, 2), (0, 2)), ((), ()))),
  ],
)
def test_dot(path, x_shape, w_shape, numbers):
  x, w = random(x_shape), random(w_shape, 1, -1, 1)

  def product(x, w, backend):
    return ops.dot_general(x, w, numbers, bits=dorefa.BitWidths(1, 2, 32), backend=backend)

  _, emulated, integers = both(product, x, w)
  assert integers.shape == emulated.shape
  np.testing.assert_allclose(integers, emulated, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_floats_come_back_as_they_went_in(path, dtype):
  x, w = random((3, 40)).astype(dtype), random((40, 20), 1, -1, 1).astype(dtype)
  _, emulated, integers = both(
    lambda x, w, backend: ops.dot_general(x, w, MATMUL, bits=dorefa.BitWidths(1, 2, 32), backend=backend), x, w
  )
  assert integers.dtype == emulated.dtype == dtype
  np.testing.assert_allclose(integers.astype(np.float32), emulated.astype(np.float32), rtol=0.05, atol=0.2)


@pytest.mark.parametrize("backend", ["auto", "integer"])
def test_gradients_are_the_emulations(path, backend, key):
  x, w = random((3, 5, 5, 16)), random((3, 3, 16, 16), 1, -1, 1)

  def loss(x, w, backend):
    y = ops.conv_general_dilated(
      x, w, (1, 1), "VALID", bits=dorefa.BitWidths(1, 2, 4), key=key, backend=backend, dimension_numbers=NHWC
    )
    return jnp.sum(y * jax.lax.stop_gradient(y))

  expected = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)(x, w, "emulated")
  got = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)(x, w, backend)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), got, expected)


@pytest.mark.parametrize("bits", [(1, 2), (8, 8), (32, 32), (1, 32)])
@needs_library
def test_one_program_serves_traced_widths(bits):
  x, w = random((2, 5, 5, 16)), random((3, 3, 16, 16), 1, -1, 1)
  for backend in ("auto", "integer"):
    product = jax.jit(
      lambda x, w, bits, backend=backend: ops.conv_general_dilated(
        x, w, (1, 1), "VALID", bits=bits, backend=backend, dimension_numbers=NHWC
      )
    )
    static = dorefa.BitWidths(*bits, 32)
    got = product(x, w, jax.tree.map(jnp.int32, static))
    expected = ops.conv_general_dilated(x, w, (1, 1), "VALID", bits=static, backend="emulated", dimension_numbers=NHWC)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)


def test_vmap_over_either_operand(path):
  x, w = random((3, 2, 40)), random((3, 40, 20), 1, -1, 1)

  def product(x, w, backend):
    return ops.dot_general(x, w, MATMUL, bits=dorefa.BitWidths(1, 2, 32), backend=backend)

  for axes in ((0, 0), (0, None), (None, 0)):
    operands = [a if axis == 0 else a[0] for a, axis in zip((x, w), axes)]
    _, emulated, integers = both(lambda x, w, backend, axes=axes: jax.vmap(
      lambda x, w: product(x, w, backend), axes)(x, w), *operands)  # fmt: skip
    np.testing.assert_allclose(integers, emulated, rtol=1e-5, atol=1e-5)


def test_a_quantizer_with_codes_has_a_scale_for_each_channel(path):
  x, w = random((2, 5, 5, 16)), random((3, 3, 16, 18), 1, -1, 1)
  w = w * jnp.broadcast_to(jnp.arange(1, 19, dtype=jnp.float32), w.shape)
  _, emulated, integers = both(
    lambda x, w, backend: ops.conv_general_dilated(
      x, w, (1, 1), "SAME", bits=dorefa.BitWidths(1, 2, 32), backend=backend, dimension_numbers=NHWC,
      quantizers=dorefa.Quantizers(weights=dorefa.methods.xnor_net().weights),
    ), x, w,
  )  # fmt: skip
  np.testing.assert_allclose(integers, emulated, rtol=1e-5, atol=1e-4)


@given(bits=st.integers(1, 8), seed=st.integers(0, 100))
@settings(max_examples=20)
def test_codes_are_what_weights_are_rounded_to(bits, seed):
  w = random((5, 6), seed, -2, 2)
  codes, scale = weight_codes(w, bits)
  n = 2**bits - 1
  assert codes.max() <= n
  expected = dorefa.quantize_weights(w, bits)
  np.testing.assert_allclose(scale * (2 * codes.astype(jnp.float32) - n) / n, expected, rtol=1e-6, atol=1e-6)
  traced_codes, traced_scale = weight_codes(w, jnp.int32(bits))
  np.testing.assert_array_equal(traced_codes, codes)
  np.testing.assert_array_equal(traced_scale, scale)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"bits": dorefa.BitWidths(9, 2, 32)}, "weights must have 1 to 8 bits, got 9"),
    ({"bits": dorefa.BitWidths(1, 32, 32)}, "activations must have 1 to 8 bits, got 32"),
    ({"quantizers": dorefa.Quantizers(weights=lambda w, bits: w)}, "the quantizer of weights, <lambda>, has no codes"),
    ({"lhs_dilation": (2, 1), "padding": ((0, 0), (0, 0))}, "lhs_dilation"),
    ({"padding": ((-1, 0), (0, 0))}, "padding must not be negative"),
    ({"batch_group_count": 2}, "batch_group_count"),
  ],
)
def test_what_kernels_cannot_compute_is_refused_and_emulated_by_auto(change, message):
  arguments = {"x": random((2, 5, 5, 16)), "padding": "VALID", "bits": dorefa.BitWidths(1, 2, 32), **change}
  x, padding = arguments.pop("x"), arguments.pop("padding")
  w = random((3, 3, 16, 16), 1, -1, 1)

  def product(backend):
    return ops.conv_general_dilated(x, w, (1, 1), padding, backend=backend, dimension_numbers=NHWC, **arguments)

  with pytest.raises(ValueError, match=message):
    product("integer")
  np.testing.assert_array_equal(product("auto"), product("emulated"))


@needs_library
def test_an_empty_batch_gives_an_empty_result():
  layer = dorefa.linen.Dense(4, bits=dorefa.BitWidths(1, 2, 32), backend="integer")
  variables = layer.init(jax.random.key(0), jnp.zeros((1, 24)))
  assert layer.apply(variables, jnp.zeros((0, 24))).shape == (0, 4)


def test_auto_takes_kernels_from_sixteen_channels():
  def calls(channels):
    x, w = jnp.ones((1, 5, 5, channels)), jnp.ones((3, 3, channels, 16))
    text = jax.jit(
      lambda x, w: ops.conv_general_dilated(
        x, w, (1, 1), "SAME", bits=dorefa.BitWidths(1, 2, 32), dimension_numbers=NHWC
      )
    ).lower(x, w).compile().as_text()  # fmt: skip
    return text.count('custom_call_target="dorefa_run"'), text.count(" convolution(")

  assert calls(backends.MIN_CHANNELS) == (1, 0)
  assert calls(backends.MIN_CHANNELS - 1) == (0, 1)


@needs_library
def test_a_differentiated_auto_product_stays_emulated():
  x, w = jnp.ones((1, 5, 5, 32)), jnp.ones((3, 3, 32, 32))

  def loss(x, w):
    bits = dorefa.BitWidths(1, 2, 32)
    return jnp.sum(ops.conv_general_dilated(x, w, (1, 1), "SAME", bits=bits, dimension_numbers=NHWC))

  assert "dorefa_run" not in jax.jit(jax.value_and_grad(loss)).lower(x, w).as_text()
  assert "dorefa_run" in jax.jit(loss).lower(x, w).as_text()


@needs_library
def test_layers_run_on_kernels():
  layer = dorefa.linen.Conv(24, (3, 3), bits=dorefa.BitWidths(1, 2, 4), backend="integer")
  x = random((2, 6, 6, 20))
  variables = layer.init(jax.random.key(0), x)
  got = layer.apply(variables, x)
  expected = layer.clone(backend="emulated").apply(variables, x)
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_marks_leave_no_trace_in_a_program():
  x, w = random((3, 8)), random((8, 5), 1)
  bits = dorefa.BitWidths(1, 2, 32)

  def marked(x, w):
    return ops.dot_general(x, w, MATMUL, bits=bits, backend="emulated")

  assert "dorefa_codes" in str(jax.make_jaxpr(marked)(x, w))
  expected = lax.dot_general(dorefa.quantize_activations(dorefa.bound(x), 2), dorefa.quantize_weights(w, 1), MATMUL)
  np.testing.assert_array_equal(jax.jit(marked)(x, w), expected)
  batched = jax.vmap(marked, (0, None))(x[None], w)
  np.testing.assert_allclose(batched[0], expected, rtol=1e-6)
