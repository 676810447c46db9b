"""The fused operation against its parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dorefa_jax.affine_pool import affine_pool_bound
from dorefa_jax.models.svhn import max_pool_2x2
from dorefa_jax.quantizers import BOUND_KINDS, bound


def random(shape, seed=0, low=-1, high=2):
  return jax.random.uniform(jax.random.key(seed), shape, minval=low, maxval=high)


@pytest.mark.parametrize("kind", BOUND_KINDS)
@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("shape", [(3, 4, 6, 5), (18, 2, 2, 33)])
def test_values_and_gradients(kind, window, shape):
  y = jnp.round(random(shape) * 4) / 4  # equal maxima, and values on the bounds
  factor, offset = random(shape[3:], 1).at[0].set(0), random(shape[3:], 2, -0.5, 0.5).at[1].set(0)
  g = random((shape[0], shape[1] // window, shape[2] // window, shape[3]), 3)

  def parts(y, factor, offset):
    z = y * factor.reshape(1, 1, 1, -1) + offset.reshape(1, 1, 1, -1)
    return bound(max_pool_2x2(z) if window == 2 else z, kind)

  expected, vjp = jax.vjp(parts, y, factor, offset)
  got, fused_vjp = jax.vjp(lambda *args: affine_pool_bound(*args, window=window, kind=kind), y, factor, offset)
  np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
  for one, other in zip(fused_vjp(g), vjp(g), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_nan_stays_where_it_is():
  y = jnp.zeros((2, 2, 2, 3)).at[1, 1, 0, 2].set(jnp.nan)
  got = affine_pool_bound(y, jnp.ones(3), jnp.zeros(3), window=2)
  assert jnp.isnan(got).ravel().tolist() == [False] * 5 + [True]


@pytest.mark.parametrize(("window", "shape"), [(3, (1, 3, 3, 1)), (2, (1, 3, 4, 1)), (2, (4, 4, 1))])
def test_windows_that_do_not_fit_are_refused(window, shape):
  with pytest.raises(ValueError, match="window must be 1 or 2"):
    affine_pool_bound(jnp.zeros(shape), jnp.ones(1), jnp.zeros(1), window=window)
