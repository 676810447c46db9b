"""Forward and backward passes on the integer kernels against the emulation, with the same noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dorefa_jax as dorefa
from dorefa_jax import ops
from dorefa_jax.kernels import calls
from dorefa_jax.kernels.activation_planes import pack_activations, pack_in_xla, unpack_activations
from dorefa_jax.kernels.geometry import Geometry
from dorefa_jax.kernels.gradients import quantize_to_codes
from dorefa_jax.kernels.image_conv import image_conv, image_weight_gradient
from dorefa_jax.methods.stochastic_rounding import quantize_cotangent
from tests.kernels import native
from tests.on_path import call_on_path

pytestmark = pytest.mark.skipif(not native.paths(), reason="no compiled library")
NHWC = ("NHWC", "HWIO", "NHWC")
KEY = jax.random.key(7)


def random(shape, seed=0, low=-0.2, high=1.2):
  return jax.random.uniform(jax.random.key(seed), shape, minval=low, maxval=high)


def gradients(product, x, w, backend, bits, key=KEY, *, traced=False):
  """Gradients of a weighted sum of a product's result, by a compiled program."""
  target = jax.random.normal(
    jax.random.key(3), jax.eval_shape(lambda x, w: product(x, w, "emulated", bits, key), x, w).shape
  )

  def loss(x, w, bits):
    return jnp.sum(target * product(x, w, backend, bits, key).astype(jnp.float32))

  if traced:
    return jax.jit(jax.grad(loss, (0, 1)))(x, w, jax.tree.map(jnp.int32, bits))
  return jax.jit(jax.grad(lambda x, w: loss(x, w, bits), (0, 1)))(x, w)


def check(got, expected, tolerance=2e-6):
  for one, other in zip(got, expected, strict=True):
    assert one.dtype == other.dtype
    one, other = one.astype(jnp.float32), other.astype(jnp.float32)
    np.testing.assert_allclose(one, other, atol=tolerance * float(jnp.abs(other).max()), rtol=0)


def convolution(strides=(1, 1), padding="SAME", numbers=NHWC, **options):
  def product(x, w, backend, bits, key):
    return ops.conv_general_dilated(
      x, w, strides, padding, bits=bits, key=key, backend=backend, dimension_numbers=numbers, **options
    )

  return product


@pytest.mark.parametrize("bits", [(1, 1, 1), (1, 2, 4), (1, 2, 6), (1, 4, 5), (2, 3, 2), (8, 8, 8)])
@pytest.mark.parametrize("traced", [False, True])
def test_gradients_of_a_convolution(bits, traced):
  x, w = random((5, 7, 6, 20)), random((3, 3, 20, 33), 1, -1, 1)
  bits, product = dorefa.BitWidths(*bits), convolution()
  expected = gradients(product, x, w, "emulated", bits, traced=traced)
  check(gradients(product, x, w, "integer", bits, traced=traced), expected)


@pytest.mark.parametrize(
  ("x_shape", "w_shape", "product"),
  [
    ((3, 9, 8, 6), (3, 2, 6, 10), convolution((2, 3), ((1, 0), (0, 1)))),
    ((3, 9, 9, 6), (3, 3, 3, 10), convolution(feature_group_count=2, rhs_dilation=(2, 1))),
    ((3, 5, 5, 6), (5, 5, 6, 10), convolution(padding="VALID")),
    ((3, 6, 6, 6), (5, 5, 6, 10), convolution(padding="VALID")),
    ((3, 6, 9, 8), (10, 6, 3, 3), convolution(numbers=("NCHW", "OIHW", "NCHW"))),
    ((9, 8, 6, 3), (3, 3, 6, 10), convolution(numbers=("HWCN", "HWIO", "HWCN"))),
    ((3, 12, 6), (3, 6, 10), convolution((1,), numbers=("NWC", "WIO", "NWC"))),
    ((3, 4, 4, 6), (2, 2, 6, 10), convolution(padding=((3, 3), (3, 3)))),  # beyond the kernel's reach: emulated
  ],
)
def test_geometries_and_layouts(x_shape, w_shape, product):
  x, w, bits = random(x_shape), random(w_shape, 1, -1, 1), dorefa.BitWidths(1, 2, 4)
  check(gradients(product, x, w, "integer", bits), gradients(product, x, w, "emulated", bits))


@pytest.mark.parametrize(
  ("x_shape", "w_shape", "numbers"),
  [
    ((5, 24), (24, 9), (((1,), (0,)), ((), ()))),
    ((5, 3, 24), (24, 9), (((2,), (0,)), ((), ()))),
    ((24,), (24, 9), (((0,), (0,)), ((), ()))),
    ((5, 4, 6), (6, 4, 9), (((1, 2), (1, 0)), ((), ()))),
  ],
)
def test_dot_products(x_shape, w_shape, numbers):
  def product(x, w, backend, bits, key):
    return ops.dot_general(x, w, numbers, bits=bits, key=key, backend=backend)

  x, w, bits = random(x_shape), random(w_shape, 1, -1, 1), dorefa.BitWidths(2, 2, 4)
  check(gradients(product, x, w, "integer", bits), gradients(product, x, w, "emulated", bits))


@pytest.mark.parametrize(
  "change",
  [
    {"bits": dorefa.BitWidths(1, 2, 32)},
    {"bits": dorefa.BitWidths(1, 2, 12)},
    {"key": jax.random.key(0, impl="rbg")},
    {"key": jax.random.PRNGKey(0)},
    {"dtype": jnp.bfloat16},
  ],
)
def test_what_kernels_do_not_differentiate_is_the_emulations(change):
  change = {"bits": dorefa.BitWidths(1, 2, 4), "key": KEY, "dtype": jnp.float32, **change}
  x, w = random((3, 5, 5, 16)).astype(change["dtype"]), random((3, 3, 16, 16), 1, -1, 1).astype(change["dtype"])
  got, expected = (
    gradients(convolution(), x, w, backend, change["bits"], change["key"]) for backend in ("integer", "emulated")
  )
  check(got, expected, tolerance=0.02 if change["dtype"] == jnp.bfloat16 else 2e-6)


@pytest.mark.parametrize(
  ("bits", "name"), [((32, 2, 4), "weights"), ((1, 9, 4), "activations"), ((1, 2, 32), "gradients")]
)
def test_traced_widths_beyond_the_kernels_are_an_error_at_run_time(bits, name):
  x, w = random((3, 5, 5, 16)), random((3, 3, 16, 16), 1, -1, 1)
  with pytest.raises(jax.errors.JaxRuntimeError, match=f"bits of {name} must be 1 to 8"):
    jax.block_until_ready(gradients(convolution(), x, w, "integer", dorefa.BitWidths(*bits), traced=True))


def test_a_scale_for_each_channel_is_differentiated_in_integers():
  product = convolution(quantizers=dorefa.methods.bi_real())
  x, w, bits = random((3, 5, 5, 16)), random((3, 3, 16, 16), 1, -1, 1), dorefa.BitWidths(1, 1, 4)
  check(gradients(product, x, w, "integer", bits), gradients(product, x, w, "emulated", bits))
  lowered = jax.jit(lambda x, w: gradients(product, x, w, "integer", bits)).lower(x, w).as_text()
  assert "dorefa_weight_gradient" in lowered
  assert "dorefa_input_gradient" in lowered


def test_second_derivatives_are_refused():
  x, w, bits = random((2, 5, 5, 16)), random((3, 3, 16, 16), 1, -1, 1), dorefa.BitWidths(1, 2, 4)

  def norm(w):
    return jnp.sum(jax.grad(lambda w: jnp.sum(convolution()(x, w, "integer", bits, KEY) ** 2))(w) ** 2)

  with pytest.raises(ValueError, match="differentiated once"):
    jax.grad(norm)(w)


def test_codes_are_kept_between_the_passes_instead_of_floats():
  x, w, bits = random((8, 10, 10, 64)), random((3, 3, 64, 64), 1, -1, 1), dorefa.BitWidths(1, 2, 4)

  def kept(backend):
    _, vjp = jax.vjp(lambda x: convolution()(x, w, backend, bits, KEY), x)
    return sum(leaf.nbytes for leaf in jax.tree.leaves(vjp)) - w.nbytes

  assert kept("integer") <= x.nbytes * 3 / 32 + 2 * w.nbytes  # 2 bits of a code, and one for the clipping
  assert kept("emulated") >= x.nbytes


@pytest.mark.parametrize("path", list(native.paths()))
@pytest.mark.parametrize("shape", [(3, 7, 6, 33), (1, 5), (4, 64), (2, 0)])
def test_noise_and_codes_are_the_emulations_bit_for_bit(path, shape):
  g = jax.random.normal(KEY, shape) * jnp.arange(shape[0], dtype=jnp.float32).reshape(-1, *[1] * (len(shape) - 1))
  for bits in range(1, 9):
    codes, scales = call_on_path(path, quantize_to_codes, g, jax.random.key_data(KEY), bits)
    n = np.float32(2**bits - 1)
    got = np.asarray(scales).reshape(-1, *[1] * (len(shape) - 1)) * ((2 * np.asarray(codes, np.float32) - n) / n)
    if g.size:
      np.testing.assert_array_equal(got, quantize_cotangent(g, KEY, bits))


def test_planes_are_the_same_in_xla():
  x = random((3, 5, 37))
  for bits in (1, 3, 8):
    packed = pack_activations(x, bits)
    np.testing.assert_array_equal(packed, pack_in_xla(x, bits))
    codes, is_inside = unpack_activations(packed, 37)
    np.testing.assert_array_equal(codes, native.quantize(np.asarray(x), bits).reshape(-1, 37))
    np.testing.assert_array_equal(is_inside, ((x >= 0) & (x <= 1)).reshape(-1, 37))


def test_a_model_trains_alike_on_both_backends():
  model = dorefa.models.SvhnConvNet(width=0.125)
  x, bits = random((4, 40, 40, 3), low=0, high=1), dorefa.BitWidths(1, 2, 4)
  variables = model.init(KEY, x[:1])

  def gradient(backend):
    def loss(params):
      logits, _ = model.clone(backend=backend).apply(
        {**variables, "params": params}, x, bits=bits, train=True, mutable=["batch_stats"],
        rngs={"gradients": KEY, "dropout": KEY},
      )  # fmt: skip
      return jnp.sum(logits[:, 3])

    return jax.jit(jax.grad(loss))(variables["params"])

  # Rounding of the float first layer moves codes of later layers: the gradients are close, not equal.
  got, expected = gradient("integer"), gradient("emulated")
  cosine = [
    float(jnp.vdot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b) + 1e-30))
    for a, b in zip(jax.tree.leaves(got["fc"]), jax.tree.leaves(expected["fc"]))
  ]
  assert min(cosine) > 0.99
  assert jax.tree.structure(got) == jax.tree.structure(expected)


@pytest.mark.parametrize(
  ("size", "shape", "options"),
  [
    ((12, 12), (5, 5, 3, 48), {}),
    ((13, 11), (3, 4, 2, 70), {"padding": ((1, 0), (2, 1))}),
    ((13, 11), (3, 3, 1, 20), {"strides": (2, 3), "dilation": (1, 2)}),
  ],
)
def test_first_layers_of_floats(size, shape, options):
  geometry = Geometry(size, shape, **options)
  x, w = random((18, *size, shape[2])), random(shape, 1, -1, 1)

  def conv(x, w):
    return jax.lax.conv_general_dilated(
      x, w, geometry.strides, geometry.padding, rhs_dilation=geometry.dilation, dimension_numbers=NHWC
    )

  y, vjp = jax.vjp(conv, x, w)
  g = random(y.shape, 2, -1, 1)
  for path in native.paths():
    np.testing.assert_allclose(call_on_path(path, image_conv, x, w, geometry), y, atol=2e-5)
    expected = vjp(g)[1]
    got = call_on_path(path, image_weight_gradient, x, g, geometry)
    np.testing.assert_allclose(got, expected, atol=2e-5 * float(jnp.abs(expected).max()))


def test_a_float_layer_on_images_has_all_its_gradients():
  x, w, bits = random((2, 8, 8, 3)), random((3, 3, 3, 16), 1, -1, 1), dorefa.BitWidths(32, 32, 32)
  expected = gradients(convolution(), x, w, "emulated", bits)
  check(gradients(convolution(), x, w, "integer", bits), expected, tolerance=1e-5)


@pytest.mark.parametrize(("shape", "groups"), [((6, 5, 9), 3), ((9, 70, 130), 1), ((1, 64, 64), 2)])
def test_weights_are_turned_around(shape, groups):
  taps, channels, outputs = shape
  codes = jax.random.randint(KEY, shape, 0, 256).astype(jnp.uint8)
  turned, sums = calls.turn_weights(codes, groups=groups)
  expected = np.asarray(codes)[::-1].reshape(taps, channels, groups, -1).transpose(0, 3, 2, 1)
  np.testing.assert_array_equal(turned, expected.reshape(taps, -1, groups * channels))
  np.testing.assert_array_equal(sums[:, :, :channels], expected.sum(1, dtype=np.int64).transpose(1, 0, 2))
  assert not sums[:, :, channels:].any()
