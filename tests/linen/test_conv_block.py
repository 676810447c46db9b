"""Blocks as layers: on the kernels, in the emulation, and flax's own parts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dorefa_jax as dorefa
from dorefa_jax.ops import conv_block as blocks
from tests.kernels import native

BITS = dorefa.BitWidths(1, 2, 4)
needs_library = pytest.mark.skipif(not native.paths(), reason="no compiled library")


def images(shape=(3, 8, 9, 16)):
  return jax.random.uniform(jax.random.key(1), shape, minval=-0.4, maxval=1.3)


def step(block, variables, x, shortcut=None, bits=None):
  """Results, updates, and gradients of variables, input and shortcut."""

  def loss(params, x, shortcut):
    results, updates = block.apply(
      {**variables, "params": params}, x, shortcut, bits=bits, train=True, mutable=["batch_stats"],
      rngs={"gradients": jax.random.key(3), "dropout": jax.random.key(4)},
    )  # fmt: skip
    total = sum(
      (y * jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)).sum() for y in jax.tree.leaves(results)
    )
    return total, (results, updates)

  (_, found), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(variables["params"], x, shortcut)
  return found, gradients


def counted(monkeypatch):
  calls = []
  run = blocks.block
  monkeypatch.setattr(blocks, "block", lambda *args, **options: calls.append(1) or run(*args, **options))
  return calls


# Integer sums are equal exactly, and share the gradient of a maximum; so do float sums of signs.
SIGNS = {"quantizers": dorefa.methods.bnn(), "bits": dorefa.BitWidths(1, 1, 4)}
VARIANTS = {
  "strides": {"strides": 2},
  "groups": {"feature_group_count": 2, "kernel_size": (3, 2)},
  "dilation": {"kernel_dilation": 2},
  "1x1": {"kernel_size": 1, "padding": 0},
  "overlapping pooling": {"pool": (3, 2), "bound": "abs_clip", **SIGNS},
  "odd pooling": {"pool": 2, **SIGNS},
  "identity": {"bound": None},
  "relu": {"bound": "relu"},
  "padding": {"padding": ((1, 0), 2)},
  "dropout": {"dropout_rate": 0.5},
}


@needs_library
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("backend", ["integer", "auto"])
def test_a_block_is_its_layers(name, backend, monkeypatch):
  options = {"kernel_size": 3, "bits": BITS, **VARIANTS[name]}
  block = dorefa.linen.ConvBlock(32, backend=backend, **options)
  x = images((3, 8, 9, 32))
  variables = block.init(jax.random.key(0), x)
  bn = {"scale": jnp.linspace(0.5, 1.5, 32), "bias": 0.1234567 * jnp.sin(1.0 + jnp.arange(32.0))}
  variables["params"] = {**variables["params"], "bn": bn}
  calls = counted(monkeypatch)
  got = step(block, variables, x)
  assert calls
  for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(step(block.clone(backend="emulated"), variables, x))):
    size, difference = float(jnp.linalg.norm(other.ravel())), float(jnp.linalg.norm((one - other).ravel()))
    assert difference <= 0.01 * size  # rounding moves a few gradients to the neighboring code


@needs_library
def test_a_shortcut_is_added_before_the_bound_and_the_sum_is_a_result():
  x, shortcut = images(), jax.random.normal(jax.random.key(2), (3, 8, 9, 16))
  block = dorefa.linen.ConvBlock(16, 3, bits=BITS, backend="integer", gives_sum=True)
  variables = block.init(jax.random.key(0), x, shortcut)
  ((z, total), _), gradients = step(block, variables, x, shortcut)
  np.testing.assert_array_equal(z, dorefa.bound(total))
  plain = block.clone(gives_sum=False, bound=None)
  np.testing.assert_allclose(total - shortcut, step(plain, variables, x)[0][0], atol=1e-5)
  ((other, other_total), _), expected = step(block.clone(backend="emulated"), variables, x, shortcut)
  np.testing.assert_allclose(z, other, atol=1e-5)
  np.testing.assert_allclose(total, other_total, atol=1e-5)
  np.testing.assert_allclose(gradients[2], expected[2], atol=1e-5)


def test_the_variables_are_flaxs_own():
  x = images()
  block = dorefa.linen.ConvBlock(8, 3, bits=BITS)

  class Parts(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = nn.Conv(8, (3, 3), use_bias=False, kernel_init=nn.initializers.he_normal(), name="conv")(x)
      return nn.BatchNorm(use_running_average=True, name="bn")(x)

  variables = block.init(jax.random.key(0), x)
  jax.tree.map(np.testing.assert_array_equal, variables, Parts().init(jax.random.key(0), x))
  float_block = block.apply(variables, x, bits=dorefa.BitWidths())
  np.testing.assert_allclose(float_block, nn.relu(Parts().apply(variables, x)), rtol=1e-6, atol=1e-6)


@needs_library
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("kernel_size", [3, 5, 7])
def test_a_first_block_on_images(strides, kernel_size):
  x = images((2, 21, 22, 3))
  parts = ("weights", "activations", "gradients")
  block = dorefa.linen.ConvBlock(
    16, kernel_size, strides=strides, padding="VALID", pool=2, norm=False, full_precision=parts, bits=BITS,
    backend="integer",
  )  # fmt: skip
  variables = block.init(jax.random.key(0), x)
  got, expected = step(block, variables, x), step(block.clone(backend="emulated"), variables, x)
  for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
    np.testing.assert_allclose(one, other, atol=2e-4 * float(jnp.abs(other).max()))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"kernel_size": (3, 3, 3)}, "kernel_size must be a positive integer or two, got"),
    ({"strides": 0}, "strides must be a positive integer or two, got 0"),
    ({"pool": (2, 3)}, "pool must be None, a window size, or"),
    ({"dropout_rate": 1.0}, "dropout_rate must be at least 0 and below 1"),
    ({"full_precision": ("inputs",)}, "full_precision must be of weights, activations, gradients, got inputs"),
    ({"backend": "fast"}, "backend must be one of"),
    ({"bound": "tanh"}, "kind must be one of"),
    ({"quantizers": "bnn"}, "quantizers must be a Quantizers"),
    ({"quantizers": dorefa.Quantizers(weights="bnn")}, "weights of quantizers must be a Quantizer, got 'bnn'"),
    ({"quantizers": dorefa.Quantizers(gradients=4)}, "gradients of quantizers must be a GradientQuantizer, got 4"),
  ],
)
def test_wrong_arguments_are_named(options, message):
  block = dorefa.linen.ConvBlock(8, **{"kernel_size": 3, "bits": BITS, **options})
  with pytest.raises(ValueError, match=message):
    block.init(jax.random.key(0), images())
