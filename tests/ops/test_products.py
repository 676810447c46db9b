import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import dorefa_jax as dorefa
from dorefa_jax import ops
from dorefa_jax.methods.stochastic_rounding import quantize_cotangent

BITS = dorefa.BitWidths(1, 2, 4)
NHWC = ("NHWC", "HWIO", "NHWC")
MATMUL = (((1,), (0,)), ((), ()))


def random(shape, seed=0, low=-0.2, high=1.2):
  return jnp.asarray(np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32))


def test_conv_is_the_float_conv_of_quantized_operands_and_cotangents(key):
  x, w = random((3, 6, 6, 4)), random((3, 3, 4, 5), 1, -1, 1)
  quantized = dorefa.quantize_activations(dorefa.bound(x), 2), dorefa.quantize_weights(w, 1)

  def plain(x, w):
    return lax.conv_general_dilated(x, w, (2, 1), "SAME", dimension_numbers=NHWC)

  def ours(x, w):
    return ops.conv_general_dilated(x, w, (2, 1), "SAME", bits=BITS, key=key, dimension_numbers=NHWC)

  expected, plain_vjp = jax.vjp(plain, *quantized)
  got, vjp = jax.vjp(ours, x, w)
  np.testing.assert_array_equal(got, expected)
  g = random(got.shape, 2, -1, 1)
  dx, dw = plain_vjp(quantize_cotangent(g, key, 4))
  inside = (x >= 0) & (x <= 1)
  got_dx, got_dw = vjp(g)
  np.testing.assert_allclose(got_dx, jnp.where(inside, dx, 0), rtol=1e-6)
  np.testing.assert_allclose(got_dw, dw, rtol=1e-6)


def test_dot_is_the_float_dot_of_quantized_operands_and_cotangents(key):
  x, w = random((7, 4)), random((4, 5), 1, -1, 1)
  got, vjp = jax.vjp(lambda x, w: ops.dot_general(x, w, MATMUL, bits=BITS, key=key), x, w)
  xq, wq = dorefa.quantize_activations(dorefa.bound(x), 2), dorefa.quantize_weights(w, 1)
  np.testing.assert_array_equal(got, lax.dot_general(xq, wq, MATMUL))
  g = random(got.shape, 2, -1, 1)
  gq = quantize_cotangent(g, key, 4)
  np.testing.assert_allclose(vjp(g)[1], xq.T @ gq, rtol=1e-5, atol=1e-6)


def test_scale_belongs_to_the_example_wherever_the_batch_axis_is(key):
  x, w = random((4, 5, 6, 3)), random((5, 4, 3, 3), 1, -1, 1)  # CHWN, OIHW
  layout = ("CHWN", "OIHW", "CHWN")
  y, vjp = jax.vjp(
    lambda w: ops.conv_general_dilated(
      x, w, (1, 1), "VALID", bits=dorefa.BitWidths(32, 32, 1), key=key, dimension_numbers=layout
    ),
    w,
  )
  assert y.shape == (5, 3, 4, 3)
  g = random(y.shape, 2, -1, 1)
  gq = jnp.moveaxis(quantize_cotangent(jnp.moveaxis(g, 3, 0), key, 1), 0, 3)
  plain = jax.vjp(lambda w: lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=layout), w)[1]
  np.testing.assert_allclose(vjp(g)[0], plain(gq)[0], rtol=1e-6)


def test_a_single_vector_is_one_example(key):
  x, w = random((4,)), random((4, 50), 1, -1, 1)
  dimensions = (((0,), (0,)), ((), ()))
  bits = dorefa.BitWidths(32, 32, 1)
  y, vjp = jax.vjp(lambda x: ops.dot_general(x, w, dimensions, bits=bits, key=key), x)
  assert y.shape == (50,)
  g = random((50,), 2, -1, 1)
  expected = w @ quantize_cotangent(g[None], key, 1)[0]
  np.testing.assert_allclose(vjp(g)[0], expected, rtol=1e-5)


def test_float_bits_change_nothing():
  x, w = random((2, 4), low=-3), random((4, 5), 1)
  np.testing.assert_array_equal(ops.dot_general(x, w, MATMUL, bits=dorefa.BitWidths()), lax.dot_general(x, w, MATMUL))


@pytest.mark.parametrize("bits", [(1, 2, 4), (8, 8, 8), (1, 32, 32), (32, 3, 32), (32, 32, 2), (32, 32, 32)])
def test_traced_bits_equal_static_bits(bits, key):
  static = dorefa.BitWidths(*bits)
  x, w, g = random((3, 6, 6, 4)), random((3, 3, 4, 5), 1, -1, 1), random((3, 6, 6, 5), 2, -1, 1)

  def step(x, w, g, bits):
    y, vjp = jax.vjp(
      lambda x, w: ops.conv_general_dilated(x, w, (1, 1), "SAME", bits=bits, key=key, dimension_numbers=NHWC), x, w
    )
    return y, vjp(g)

  expected = jax.jit(lambda x, w, g: step(x, w, g, static))(x, w, g)
  traced = jax.jit(step)(x, w, g, jax.tree.map(jnp.int32, static))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), expected, traced)


def test_a_custom_weight_quantizer_is_used():
  x, w = random((2, 4)), random((4, 5), 1)
  got = ops.dot_general(
    x,
    w,
    MATMUL,
    bits=dorefa.BitWidths(3, 32, 32),
    quantizers=dorefa.Quantizers(weights=lambda w, bits: jnp.sign(w) * bits),
  )
  np.testing.assert_allclose(got, x @ (3 * jnp.sign(w)), rtol=1e-6)


def test_an_unknown_backend_is_refused():
  with pytest.raises(ValueError, match="'auto', 'emulated', 'integer', got 'fast'"):
    ops.dot_general(random((2, 4)), random((4, 5)), MATMUL, bits=BITS, backend="fast")
