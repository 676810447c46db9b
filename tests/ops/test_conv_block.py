"""A block as one operation against its parts, with the same noise."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dorefa_jax as dorefa
from dorefa_jax import ops
from dorefa_jax.ops.pooling import max_pool_2x2
from tests.blocks import conv_block, fits
from tests.kernels import native

pytestmark = pytest.mark.skipif(not native.paths(), reason="no compiled library")
KEY = jax.random.key(7)
EPSILON = 1e-4


def random(shape, seed=0, low=0.0, high=1.0):
  return jax.random.uniform(jax.random.key(seed), shape, minval=low, maxval=high)


def parts(x, w, norm, bits, padding, window, kind, gain):
  """The layers that a block replaces."""
  y = (
    ops.conv_general_dilated(
      x, w, (1, 1), padding, bits=bits, key=KEY, backend="emulated", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    * gain
  )
  batch_norm = nn.BatchNorm(use_running_average=False, momentum=0.0, epsilon=EPSILON)
  variables = {
    "params": {"scale": norm[0], "bias": norm[1]},
    "batch_stats": {"mean": jnp.zeros_like(norm[0]), "var": jnp.ones_like(norm[0])},
  }
  z, updates = batch_norm.apply(variables, y, mutable=["batch_stats"])
  z = dorefa.bound(max_pool_2x2(z) if window == 2 else z, kind)
  return z, jnp.stack([updates["batch_stats"]["mean"], updates["batch_stats"]["var"]])


def both(x, w, norm, bits, padding="VALID", window=1, kind="clip", gain=1.0):
  """(result, statistics, gradients) of the block and of its parts."""
  found = []

  def block(x, w, norm, bits):
    return conv_block(
      x, w, norm, bits=bits, key=KEY, padding=padding, window=window, kind=kind, epsilon=EPSILON, gain=gain
    )

  for function in (block, lambda *args: parts(*args, padding, window, kind, gain)):
    (z, statistics), vjp = jax.vjp(lambda x, w, norm, run=function: run(x, w, norm, bits), x, w, norm)
    g = jax.random.normal(jax.random.key(3), z.shape)
    found.append((z, statistics, *vjp((g, jnp.zeros_like(statistics)))))
  return found


def check(got, expected, bits):
  for one, other in zip(got[:2], expected[:2], strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
  dx, dw, dnorm = got[2:]
  np.testing.assert_allclose(dnorm, expected[4], rtol=1e-3, atol=1e-3 * float(jnp.abs(expected[4]).max()))
  # Statistics are summed in another order, which moves a few gradients to the neighboring code.
  for one, other in ((dx, expected[2]), (dw, expected[3])):
    error = float(jnp.linalg.norm(one - other) / jnp.linalg.norm(other))
    assert error < 0.03
  return dx, dw


@pytest.mark.parametrize(
  ("bits", "window"), [((1, 1, 2), 2), ((1, 1, 6), 2), ((1, 2, 4), 1), ((2, 3, 6), 1), ((8, 8, 8), 2)]
)
@pytest.mark.parametrize("traced", [False, True])
def test_values_and_gradients(bits, window, traced):
  widths = dorefa.BitWidths(*bits)
  x, w = random((5, 6, 8, 20)), random((3, 3, 20, 33), 1, -1, 1)
  if bits[1] == 1:
    x, w = x[..., :16], jnp.sign(w[:2, :2, :16, :32]) / 2  # the emulation's sums are exact: it finds the same maxima
  norm = jnp.stack([random(w.shape[3:], 2, -1, 2), random(w.shape[3:], 4, -0.5, 0.5)])
  given = jax.tree.map(jnp.int32, widths) if traced else widths
  got, expected = both(x, w, norm, given, padding="SAME", window=window)
  check(got, expected, widths)


@pytest.mark.parametrize("kind", ["clip", "abs_clip", "relu"])
@pytest.mark.parametrize(("shape", "kernel", "padding", "gain"), [
  ((3, 5, 5, 40), (5, 5, 40, 16), "VALID", 2.0),
  ((17, 7, 4, 6), (3, 3, 6, 8), "SAME", 1.0),
  ((4, 9, 9, 64), (3, 3, 64, 70), "VALID", 1.0),
])  # fmt: skip
def test_geometries_and_bounds(kind, shape, kernel, padding, gain):
  bits = dorefa.BitWidths(1, 2, 4)
  x, w = random(shape), random(kernel, 1, -1, 1)
  norm = jnp.stack([random((kernel[3],), 2, -1, 2), random((kernel[3],), 4, -0.5, 0.5)])
  got, expected = both(x, w, norm, bits, padding=padding, kind=kind, gain=gain)
  check(got, expected, bits)


def test_bits_are_kept_between_the_passes_and_nothing_else_of_their_size():
  x, w, norm = random((8, 10, 10, 64)), random((3, 3, 64, 64), 1, -1, 1), jnp.ones((2, 64))
  _, vjp = jax.vjp(lambda x: conv_block(x, w, norm, bits=dorefa.BitWidths(1, 2, 4), key=KEY, padding="SAME")[0], x)
  small = 2 * w.nbytes + 4 * norm.nbytes + 64
  assert sum(leaf.nbytes for leaf in jax.tree.leaves(vjp)) <= x.nbytes * 2 / 32 + small


def test_a_nan_among_the_activations_shows_in_result_statistics_and_gradients():
  x, w, norm = random((3, 6, 6, 16)).at[1, 2, 3, 4].set(jnp.nan), random((3, 3, 16, 16), 1, -1, 1), jnp.ones((2, 16))
  (z, statistics), vjp = jax.vjp(lambda *args: conv_block(*args, bits=dorefa.BitWidths(1, 2, 4), key=KEY), x, w, norm)
  assert jnp.isnan(z).all()
  assert jnp.isnan(statistics).all()
  for gradient in vjp((jnp.ones_like(z), jnp.zeros_like(statistics))):
    assert jnp.isnan(gradient).any()


def test_second_derivatives_are_refused():
  x, w, norm = random((2, 5, 5, 16)), random((3, 3, 16, 16), 1, -1, 1), jnp.ones((2, 16))

  def size(w):
    result = jax.grad(lambda w: jnp.sum(conv_block(x, w, norm, bits=dorefa.BitWidths(1, 2, 4), key=KEY)[0] ** 2))(w)
    return jnp.sum(result**2)

  with pytest.raises(ValueError, match="differentiated once"):
    jax.grad(size)(w)


@pytest.mark.parametrize(
  "change",
  [
    {"bits": dorefa.BitWidths(1, 32, 4)},
    {"bits": dorefa.BitWidths(1, 2, 32)},
    {"key": jax.random.key(0, impl="rbg")},
    {"window": 2},
    {"x": jnp.ones((2, 5, 5, 4), jnp.bfloat16)},
  ],
)
def test_what_does_not_fit_is_refused(change):
  given = {"x": jnp.ones((2, 5, 5, 4)), "w": jnp.ones((3, 3, 4, 8)), "bits": dorefa.BitWidths(1, 2, 4), "key": KEY}
  assert fits(**given)
  given |= change
  assert not fits(**given)
  with pytest.raises(ValueError, match="no kernels for a block"):
    conv_block(norm=jnp.ones((2, 8)), **given)
