"""A first layer with pooling and h as one operation, against its parts in XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dorefa_jax.methods.bounding import BOUND_KINDS, bound
from dorefa_jax.ops.image_block import image_block
from dorefa_jax.ops.pooling import max_pool_2x2
from tests.kernels import native

pytestmark = pytest.mark.skipif(not native.paths(), reason="no compiled library")


def random(shape, seed, low=-1, high=1):
  return jax.random.uniform(jax.random.key(seed), shape, minval=low, maxval=high)


@pytest.mark.parametrize("kind", BOUND_KINDS)
@pytest.mark.parametrize(
  ("shape", "kernel", "options"),
  [
    ((3, 9, 11, 3), (4, 4, 3, 20), {}),
    ((18, 12, 12, 1), (5, 5, 1, 48), {}),
    ((3, 10, 13, 3), (3, 5, 3, 20), {"strides": (2, 1), "padding": "SAME"}),
    ((2, 31, 28, 3), (11, 11, 3, 17), {"strides": (4, 4), "padding": ((2, 1), (0, 3))}),
  ],
)
def test_values_and_gradients(kind, shape, kernel, options):
  x, w, bias = random(shape, 0, 0), random(kernel, 1), random(kernel[3:], 2)

  def parts(x, w, bias):
    strides, padding = options.get("strides", (1, 1)), options.get("padding", "VALID")
    y = jax.lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    y = y[:, : y.shape[1] // 2 * 2, : y.shape[2] // 2 * 2]
    return bound(max_pool_2x2(y + bias.reshape(1, 1, 1, -1)), kind)

  expected, vjp = jax.vjp(parts, x, w, bias)
  got, block_vjp = jax.vjp(lambda *args: image_block(*args, kind=kind, **options), x, w, bias)
  np.testing.assert_allclose(got, expected, atol=2e-5)
  g = random(expected.shape, 3)
  for one, other in zip(block_vjp(g), vjp(g), strict=True):
    np.testing.assert_allclose(one, other, atol=2e-5 * float(jnp.abs(other).max()))


def test_a_few_bits_are_kept_and_no_convolution():
  x, w, bias = random((4, 12, 12, 3), 0), random((3, 3, 3, 64), 1), random((64,), 2)
  z, vjp = jax.vjp(lambda w: image_block(x, w, bias), w)
  kept = sum(leaf.nbytes for leaf in jax.tree.leaves(vjp)) - x.nbytes - w.nbytes - bias.nbytes
  assert kept <= z.nbytes * 5 / 32 + 64


def test_an_image_that_is_not_finite_gives_nan():
  x = jnp.zeros((3, 6, 6, 3)).at[1, 2, 2, 0].set(jnp.nan)
  z = image_block(x, jnp.ones((3, 3, 3, 8)), jnp.zeros(8))
  assert jnp.isnan(z).all((1, 2, 3)).tolist() == [False, True, False]
  assert not jnp.isnan(z[::2]).any()


@pytest.mark.parametrize(("shape", "kernel"), [((2, 3, 6, 3), (3, 3, 3, 8)), ((2, 6, 6, 16), (3, 3, 16, 8))])
def test_what_does_not_fit_is_refused(shape, kernel):
  with pytest.raises(ValueError, match="no kernels for a block of images"):
    image_block(jnp.zeros(shape), jnp.zeros(kernel), jnp.zeros(kernel[3]))
