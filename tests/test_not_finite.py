"""Values that are not finite: kernels show them where the emulation does, or in all of the example, or of the layer."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dorefa_jax as dorefa
from dorefa_jax import kernels
from dorefa_jax.methods.bounding import bound
from dorefa_jax.methods.dorefa import quantize_weights, weight_codes
from dorefa_jax.methods.method import NO_STATE, quantizer
from dorefa_jax.methods.stochastic_rounding import quantize_gradients
from dorefa_jax.ops import conv_block as blocks
from dorefa_jax.ops.codes import activation_line
from dorefa_jax.ops.codes import weight_codes as kernel_codes
from dorefa_jax.ops.image_block import image_block
from dorefa_jax.ops.integer_product import Codes
from dorefa_jax.ops.layouts import as_convolution
from dorefa_jax.ops.pooling import max_pool_2x2, max_pool_windows
from dorefa_jax.ops.quantization import Quantization
from tests.blocks import conv_block, shape_of
from tests.kernels import native
from tests.on_path import call_on_path

needs_library = pytest.mark.skipif(not native.paths(), reason="no compiled library")

KEY = jax.random.key(3)
BATCH = 3
SHAPES = {"dense": ((BATCH, 20), (20, 18)), "conv": ((BATCH, 5, 6, 17), (3, 3, 17, 16))}
VALUES = [np.nan, np.inf, -np.inf]
PLACES = ["nowhere", "weights", "activations", "cotangents"]
BITS = [(1, 1, 1), (1, 2, 4), (2, 1, 8), (4, 4, 4), (8, 8, 8), (2, 2, 32)]


def uniform(shape, seed):
  return np.random.default_rng(seed).uniform(0.05, 0.95, shape).astype(np.float32)


def spoiled(operands, place, value):
  """Copies of operands, weights, activations and cotangents, one value of which is not finite."""
  operands = [operand.copy() for operand in operands]
  if place != "nowhere":
    operand = operands[PLACES.index(place) - 1]
    operand[tuple(size // 2 for size in operand.shape)] = value
  return operands


def masks(arrays):
  return [~np.isfinite(np.asarray(array)) for array in arrays]


def check(emulated, integer, examples, name):
  """The results of the integers show what those of the emulation do, and nothing in examples that it shows none in.

  Args:
    emulated, integer: results; those at `examples` have the batch on axis 0, others are sums over it.
    examples: positions of these.
  """
  expected, found = masks(emulated), masks(integer)
  is_spoiled = np.zeros(BATCH, bool)
  for index in examples:
    is_spoiled |= expected[index].reshape(BATCH, -1).any(1)
  is_any = any(mask.any() for mask in expected)
  for index, (wanted, got) in enumerate(zip(expected, found)):
    assert not (wanted & ~got).any(), f"{name}: result {index} loses a value that is not finite"
    if index in examples:
      assert not got[~is_spoiled].any(), f"{name}: result {index} spoils other examples"
    elif not is_any:
      assert not got.any(), f"{name}: result {index} is not finite"


@functools.cache
def layer_step(kind, backend, static_bits):
  layer = dorefa.linen.Dense(18, use_bias=False, backend=backend)
  if kind == "conv":
    layer = dorefa.linen.Conv(16, (3, 3), use_bias=False, backend=backend)

  @jax.jit
  def step(w, x, g, traced_bits):
    bits = dorefa.BitWidths(*static_bits) if static_bits else traced_bits

    def apply(w, x):
      return layer.apply({"params": {"kernel": w}}, x, bits=bits, rngs={"gradients": KEY})

    y, vjp = jax.vjp(apply, w, x)
    dw, dx = vjp(g)
    return y, dx, dw, apply(w, x)

  return step


@needs_library
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("is_static", [True, False], ids=["static", "traced"])
def test_a_layer_shows_what_the_emulation_shows(kind, is_static):
  x_shape, w_shape = SHAPES[kind]
  g_shape = x_shape[:-1] + w_shape[-1:]
  operands = uniform(w_shape, 0) - 0.5, uniform(x_shape, 1), uniform(g_shape, 2) - 0.5
  backends = ["auto", "integer"] if is_static else ["integer"]
  for widths in BITS[1:] if is_static else BITS[:-1]:
    traced = dorefa.BitWidths(*map(jnp.int32, widths))
    for place, value in itertools.product(PLACES, VALUES):
      given = spoiled(operands, place, value)
      static = widths if is_static else None
      emulated = layer_step(kind, "emulated", static)(*given, traced)
      if place == "nowhere" or (place == "activations" and not np.isnan(value)):
        assert not any(mask.any() for mask in masks(emulated))
      if place == "weights" and np.isnan(value):
        assert masks(emulated)[0].all()
      for backend in backends:
        integer = layer_step(kind, backend, static)(*given, traced)
        check(emulated, integer, (0, 1, 3), f"{kind} {backend} {widths} {place} {value}")


def block_operands():
  norm = np.stack([np.linspace(0.5, 1.5, 20), np.linspace(-0.3, 0.6, 20)]).astype(np.float32)
  return uniform((3, 3, 17, 20), 0) - 0.5, uniform((BATCH, 6, 6, 17), 1), uniform((BATCH, 3, 3, 20), 2) - 0.5, norm


def block_functions(widths, kind):
  """The block on kernels, in the emulation, and as platforms without kernels compute it: statistics, z, gradients."""
  bits = dorefa.BitWidths(*widths)
  options = {"padding": "SAME", "window": 2, "kind": kind}
  w, x, _, _ = block_operands()
  shape = shape_of(padding="SAME", window=2, kind=kind)
  made = blocks._Block(shape, shape.geometry(x, w))
  quantization = Quantization(dorefa.Quantizers(), {}, bits)
  convolution = as_convolution(x, w, (1, 1), "SAME", blocks.NUMBERS, {})

  def codes(w):
    return Codes(
      kernel_codes(w, quantization, convolution), activation_line(quantization.activation_grid(x), bits.activations)
    )

  key = jax.random.key_data(KEY)

  def on_kernels(w, x, g, norm):
    def block(x, w, norm):
      z, statistics = conv_block(x, w, norm, bits=bits, key=KEY, **options)
      return z, statistics

    (z, statistics), vjp = jax.vjp(block, x, w, norm)
    return statistics, z, *vjp((g, jnp.zeros_like(statistics)))

  def emulated(w, x, g, norm):
    (statistics, (z, _)), vjp = jax.vjp(
      lambda x, w, norm: made.emulated(
        quantization.activations(x), quantize_weights(w, bits.weights), codes(w), norm, None, key, bits
      ), x, w, norm,
    )  # fmt: skip
    return statistics, z, *vjp((jnp.zeros_like(statistics), (g, None)))

  def elsewhere(w, x, g, norm):
    quantized, weights_vjp = jax.vjp(lambda w: quantize_weights(w, bits.weights), w)
    planes, statistics, (z, _) = made.emulated_forward(x, quantized, codes(w), norm, None, bits)
    dx, dquantized, dnorm, _ = made.emulated_backward(
      planes, statistics, (g, None), quantized, codes(w), norm, None, key, bits
    )
    return statistics, z, dx, *weights_vjp(dquantized), dnorm

  return jax.jit(on_kernels), jax.jit(emulated), jax.jit(elsewhere)


@needs_library
@pytest.mark.parametrize(("kind", "widths"), [("clip", (1, 2, 4)), ("abs_clip", (4, 8, 8)), ("relu", (2, 1, 1))])
def test_a_block_shows_what_the_emulation_shows(kind, widths):
  on_kernels, emulation, elsewhere = block_functions(widths, kind)
  for place, value in itertools.product([*PLACES, "scale", "bias"], VALUES):
    given = list(block_operands())
    if place in ("scale", "bias"):
      given[3][int(place == "bias"), 7] = value
    else:
      given[:3] = spoiled(given[:3], place, value)
    emulated = emulation(*given)
    for name, function in (("kernels", on_kernels), ("elsewhere", elsewhere)):
      check(emulated, function(*given), (1, 2), f"{kind} {name} {widths} {place} {value}")


@needs_library
@pytest.mark.parametrize("kind", ["clip", "abs_clip", "relu"])
@pytest.mark.parametrize("width", [3, 6])  # by Winograd's filtering, and plain
def test_a_block_of_images_shows_what_the_emulation_shows(kind, width):
  rows, columns = 8, 9 + width

  def emulated(x, w, bias):
    y = jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return bound(max_pool_windows(y + bias.reshape(1, 1, 1, -1), 2), kind)

  @functools.partial(jax.jit, static_argnums=0)
  def step(block, w, x, g, bias):
    z, vjp = jax.vjp(block, x, w, bias)
    return z, *vjp(g)

  def on_kernels(x, w, bias):
    return image_block(x, w, bias, kind=kind)

  for place, value in itertools.product([*PLACES, "bias"], VALUES):
    w, x = uniform((3, width, 3, 8), 0) - 0.5, uniform((BATCH, rows, columns, 3), 1)
    x[:, :2] = 0
    given = [w, x, uniform((BATCH, 3, 5, 8), 2) - 0.5, np.zeros(8, np.float32)]
    if place == "bias":
      given[3][2] = value
    else:
      given[:3] = spoiled(given[:3], place, value)
    shown, found = step(emulated, *given), step(on_kernels, *given)
    lost = [(wanted & ~got).sum() for wanted, got in zip(masks(shown), masks(found))]
    assert lost == [0] * 4, f"{kind} {width} {place} {value}"
    if place == "nowhere":
      assert not any(mask.any() for mask in masks(found))
    if place == "weights":  # of their own output alone
      assert not masks(found)[0][..., :4].any()
      assert not masks(found)[2][..., :4].any()


def test_codes_of_weights_show_a_nan():
  w = jnp.array([0.5, jnp.nan, -1.0])
  for bits in range(1, 9):
    for width in (bits, jnp.int32(bits)):
      _, scale = weight_codes(w, width)
      assert jnp.isnan(scale)
      assert jnp.isnan(quantize_weights(w, width)).all()


def test_large_arrays_show_a_nan():
  """XLA's own maxima on CPU drop it there."""
  w = jnp.full((3, 3, 64, 64), 0.5).at[1, 1, 30, 30].set(jnp.nan)
  assert jnp.isnan(jax.jit(quantize_weights, static_argnums=1)(w, 4)).all()
  assert jnp.isnan(jax.jit(weight_codes, static_argnums=1)(w, 4)[1])
  x = jnp.ones((4, 36, 36, 12))
  y, vjp = jax.vjp(jax.jit(lambda x: max_pool_windows(x, 2)), x.at[:, 5, 7].set(jnp.nan))
  assert jnp.isnan(y[:, 2, 3]).all()
  assert jnp.isnan(y).sum() == 4 * 12
  assert jnp.isnan(vjp(jnp.ones_like(y))[0][:, 5, 7]).all()
  _, vjp = jax.vjp(jax.jit(lambda x: quantize_gradients(x, KEY, 4)), x)
  (g,) = vjp(x.at[1, 5, 7, 3].set(jnp.nan))
  assert jnp.isnan(g[1]).all()
  assert jnp.isfinite(g[0]).all()


def test_an_infinite_weight_saturates_through_tanh_and_makes_the_mean_nan():
  w = jnp.array([0.5, jnp.inf, -1.0])
  assert jnp.isnan(quantize_weights(w, 1)).all()
  assert jnp.isnan(weight_codes(w, 1)[1])
  assert quantize_weights(w, 2)[1] == 1
  assert weight_codes(w, 2)[1] == 1


@pytest.mark.parametrize("value", VALUES)
def test_an_example_whose_cotangent_is_not_finite_keeps_no_finite_value(value):
  _, vjp = jax.vjp(lambda x: quantize_gradients(x, KEY, 4), jnp.zeros((3, 5)))
  (g,) = vjp(jnp.ones((3, 5)).at[1, 2].set(value))
  assert not jnp.isfinite(g[1]).any()
  assert jnp.isnan(g[1, 2])
  assert jnp.isfinite(g[::2]).all()


@needs_library
def test_codes_of_a_quantizer_of_ones_own_show_a_nan():
  @quantizer
  class ByChannel(dorefa.Quantizer):
    def __call__(self, w, bits, state=NO_STATE):
      return jnp.where(w >= 0, 1.0, -1.0) * jnp.where(jnp.isnan(w), jnp.nan, jnp.ones_like(w))

    def codes(self, w, bits, state=NO_STATE):
      return dorefa.Affine.around((w >= 0).astype(jnp.uint8), 2 * jnp.ones(w.shape[-1], w.dtype), 0.5)

  w, x = uniform((20, 18), 0), uniform((BATCH, 20), 1)
  w[3, 5] = np.nan
  results = {}
  for backend in ("emulated", "auto", "integer"):
    layer = dorefa.linen.Dense(
      18,
      use_bias=False,
      bits=dorefa.BitWidths(1, 2, 32),
      backend=backend,
      quantizers=dorefa.Quantizers(weights=ByChannel()),
    )
    results[backend] = masks([jax.jit(layer.apply)({"params": {"kernel": w}}, x)])[0]
  assert results["emulated"][:, 5].all()
  for backend in ("auto", "integer"):
    np.testing.assert_array_equal(results[backend], results["emulated"])


@needs_library
def test_a_diverged_step_has_a_loss_that_is_not_finite():
  images = uniform((4, 40, 40, 3), 0)
  for backend in ("emulated", "auto", "integer"):
    model = dorefa.models.SvhnConvNet(width=0.25, backend=backend)
    variables = model.init(jax.random.key(1), images)
    kernel = variables["params"]["conv2"]["kernel"]
    variables["params"]["conv2"]["kernel"] = kernel.at[1, 1, 3, 5].set(jnp.nan)
    logits, updates = jax.jit(model.apply, static_argnames=("bits", "train", "mutable"))(
      variables,
      images,
      bits=dorefa.BitWidths(4, 4, 4),
      train=True,
      mutable="batch_stats",
      rngs={"gradients": KEY, "dropout": KEY},
    )
    assert jnp.isnan(logits).all(), backend
    assert jnp.isnan(updates["batch_stats"]["bn2"]["mean"]).all(), backend
    logits = model.apply(variables, images, bits=dorefa.BitWidths(4, 4, 4))
    assert jnp.isnan(logits).all(), (backend, kernels.available())


@pytest.mark.parametrize("size", [(18, 18), (19, 19), (18, 19), (23, 5)])
def test_poolings_of_the_model_show_a_nan(size):
  x = jax.random.normal(jax.random.key(0), (8, *size, 64)).at[0, 3, 3, 0].set(jnp.nan)
  y = jax.jit(max_pool_2x2)(x)
  assert jnp.isnan(y).sum() == 1
  assert jnp.isnan(y[0, 1, 1, 0])


@pytest.mark.parametrize("backend", ["emulated", "auto", "integer"])
@pytest.mark.parametrize("size", [41, 42])
def test_a_model_on_images_of_any_size_shows_a_nan(backend, size):
  model = dorefa.models.SvhnConvNet(width=0.125, backend=backend, bits=dorefa.BitWidths(2, 2, 4))
  images = jax.random.uniform(jax.random.key(1), (2, size, size, 3))
  variables = model.init(jax.random.key(0), images[:1])
  kernel = variables["params"]["conv2"]["kernel"].at[0, 0, 0, 0].set(jnp.nan)
  variables = {**variables, "params": {**variables["params"], "conv2": {"kernel": kernel}}}
  rngs = {"gradients": jax.random.key(1), "dropout": jax.random.key(2)}
  logits, _ = jax.jit(lambda v: model.apply(v, images, train=True, mutable=["batch_stats"], rngs=rngs))(variables)
  assert not jnp.isfinite(jax.nn.log_softmax(logits).mean())


def test_a_packed_float_pooling_shows_a_nan():
  class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
      conv = functools.partial(dorefa.linen.Conv, 16, (3, 3), bits=dorefa.BitWidths(1, 2, 32))
      x = nn.max_pool(nn.Conv(16, (3, 3))(x), (2, 2), (2, 2))
      x = conv()(dorefa.bound(x))
      x = nn.max_pool(conv()(dorefa.bound(x)) + x, (2, 2), (2, 2))
      return x.max((1, 2))

  images = jax.random.uniform(jax.random.key(1), (2, 32, 32, 3)).at[0, 5, 5, 0].set(jnp.nan)
  model = Residual()
  packed = dorefa.freeze(model, model.init(jax.random.key(0), images), input_shape=(32, 32, 3))
  for path in ("", "xla"):
    assert jnp.isnan(call_on_path(path, packed, images)).all(1).tolist() == [True, False]
