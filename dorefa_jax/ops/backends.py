"""The one switch: on what a product runs, by backend, operands and platform, on one device or a mesh of them.

JAX's types tell how an array lies on a mesh: over which manual axes of a `jax.shard_map` it varies, and how it is
sharded over explicit axes. Calls into the library have no rules for either, and both branches of a program must give
one type. So operands get a common type before the kernels see them, and results get the one that they would have had.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from dorefa_jax.bits import BitWidths, is_full_precision
from dorefa_jax.kernels.availability import available
from dorefa_jax.kernels.geometry import Geometry
from dorefa_jax.kernels.packing import MAX_BITS
from dorefa_jax.meshes import T, gather, has_explicit_axes, vary, varying_axes
from dorefa_jax.ops.layouts import Convolution, NotInteger, has_sizes
from dorefa_jax.ops.quantization import Quantization


def choose(kernels: Callable[..., T], emulation: Callable[..., T], *operands: Any) -> T:
  """`kernels(*operands)` where a program runs on CPU, `emulation(*operands)` on other platforms.

  Args:
    kernels, emulation: functions with results of the same shapes and dtypes.
    *operands: pytrees of arrays, as `on_mesh` leaves them.

  Returns:
    The result, varying over the manual axes that any operand varies over. On a mesh with explicit axes it is not
    differentiated.

  Example:
    >>> choose(lambda x: x + 1, lambda x: x - 1, 1.0) in (0.0, 2.0)
    True
  """
  if has_explicit_axes(operands):
    return _gathering_vmap(kernels, emulation, *operands)
  return by_platform(kernels, emulation, *operands)


def choose_with(bits: BitWidths, kernels: Callable[..., T], emulation: Callable[..., T], *operands: Any) -> T:
  """`choose` of functions whose last argument is `bits`: as operands of a branch, static ones would become arrays."""
  return choose(lambda *args: kernels(*args, bits), lambda *args: emulation(*args, bits), *operands)


def by_platform(kernels: Callable[..., T], emulation: Callable[..., T], *operands: Any) -> T:
  """`choose` of functions that both run in XLA, to be differentiated by JAX.

  Example:
    >>> by_platform(lambda x: x + 1, lambda x: x - 1, 1.0) in (0.0, 2.0)
    True
  """
  axes = varying_axes(operands)

  def typed(branch: Callable[..., T]) -> Callable[..., T]:
    return lambda *operands: vary(branch(*operands), axes)

  return lax.platform_dependent(*operands, cpu=typed(kernels), default=typed(emulation))


def on_mesh(compute: Callable[..., T], emulation: Callable[..., T], *operands: Any) -> T:
  """`compute(*operands)`, on operands of a common type.

  On manual axes a function computes its own part, and gradients of what does not vary over them are summed. Operands
  that are sharded over explicit axes are gathered, and the result is sharded as the emulation's.

  Args:
    compute: a function that ends in `choose`.
    emulation: a function of the same operands, asked for the sharding of its results alone.
    *operands: pytrees of arrays.

  Returns:
    What `compute` returns.
  """
  operands = vary(operands, varying_axes(operands))
  if not has_explicit_axes(operands):
    return compute(*operands)
  closed, like = jax.make_jaxpr(emulation, return_shape=True)(*operands)
  shardings = jax.tree.unflatten(jax.tree.structure(like), [aval.sharding for aval in closed.out_avals])
  gathered = jax.tree.map(gather, operands)
  return jax.tree.map(jax.sharding.reshard, compute(*gathered), shardings)


def _gathering_vmap(kernels: Callable[..., T], emulation: Callable[..., T], *operands: Any) -> T:
  """`by_platform`, which under `jax.vmap` gathers the examples: the library takes them one after the other."""

  def pick(*operands: Any) -> T:
    return by_platform(kernels, emulation, *operands)

  mapped: Any = jax.custom_batching.custom_vmap(pick)

  @mapped.def_vmap
  def rule(_: int, is_mapped: list[Any], *operands: Any) -> tuple[T, Any]:
    gathered = jax.tree.map(lambda along, x: gather(x) if along else x, tuple(is_mapped), operands)
    axes = jax.tree.map(lambda along: 0 if along else None, tuple(is_mapped))
    results = jax.vmap(pick, axes)(*gathered)
    return results, jax.tree.map(lambda _: True, results)

  result: T = mapped(*operands)
  return result


def on_gathered_batch(compute: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
  """`compute(x)`, where x is sharded over explicit axes on all of it, and the result as x along its first axis.

  Example:
    >>> float(on_gathered_batch(lambda x: x.sum(), jax.numpy.ones(3)))
    3.0
  """
  if not has_explicit_axes(x):
    return compute(x)
  sharding = jax.typeof(x).sharding
  return jax.sharding.reshard(compute(gather(x)), NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0])))


Backend: TypeAlias = Literal["auto", "emulated", "integer"]
BACKENDS: tuple[Backend, ...] = ("auto", "emulated", "integer")

KEY_KIND = "threefry2x32"
"""The kind of PRNG keys, JAX's default, whose noise the kernels make."""
MIN_CHANNELS = 16
"""Fewest channels, in and out of a group, for which the compiled kernels beat XLA's float products."""
MAX_IMAGE_CHANNELS = 4
"""Most input channels for which the kernels beat XLA's float convolutions."""
MIN_IMAGE_OUTPUTS = 4
"""Fewest output channels for which they do."""


def check_backend(backend: Backend) -> Backend:
  """Returns `backend`, or raises ValueError where it is unknown.

  Example:
    >>> check_backend("auto")
    'auto'
  """
  if backend not in BACKENDS:
    raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
  return backend


class Way(enum.Enum):
  """How a product is computed.

  EMULATED: quantized values in floats. FLOAT: nothing is quantized. IMAGES: the same on the kernels for few channels.
  FORWARD: the forward pass on integer kernels, the emulation's gradient. INTEGER: both passes on integer kernels.
  """

  EMULATED = "emulated"
  FLOAT = "float"
  IMAGES = "images"
  FORWARD = "forward"
  INTEGER = "integer"


def choose_way(
  x: jax.Array,
  w: jax.Array,
  key: jax.Array | None,
  backend: Backend,
  quantization: Quantization,
  as_convolution: Callable[[], Convolution],
) -> tuple[Way, Convolution | None]:
  """The way that `backend` means for a product, and how the kernels take it.

  Args:
    x, w: its operands.
    key: PRNG key of the gradient quantizer.
    backend: "emulated"; "integer", both passes on kernels where they can run; "auto", where they win.
    quantization: how the operands are quantized.
    as_convolution: how the kernels take the operands; raises NotInteger where they do not.

  Raises:
    ValueError: an unknown backend, or a product that backend "integer" cannot compute.
  """
  check_backend(backend)
  bits = quantization.bits
  if not has_sizes(x) and backend == "integer":
    raise ValueError(f"backend 'integer': sizes must be numbers, got shape {x.shape}; use 'auto' or 'emulated'")
  if backend == "emulated" or not has_sizes(x) or 0 in x.shape or 0 in w.shape:
    return Way.EMULATED, None
  if is_full_precision(bits.weights) and is_full_precision(bits.activations):
    return _float_way(x, w, backend, as_convolution)
  try:
    _check_codes(x, w, quantization)
    convolution = as_convolution()
  except NotInteger as error:
    if backend == "auto":
      return Way.EMULATED, None
    raise ValueError(f"backend 'integer': {error}; use 'auto' or 'emulated'") from error
  is_float32 = x.dtype == w.dtype == jnp.float32
  if backend == "auto" and not (is_float32 and _wins(convolution, bits) and not has_explicit_axes((x, w))):
    return Way.EMULATED, None
  shape = jax.eval_shape(convolution.to_input, x).shape
  if can_differentiate(convolution.geometry(shape), quantization, key):
    return Way.INTEGER, convolution
  return Way.FORWARD, convolution


def can_differentiate(geometry: Geometry, quantization: Quantization, key: jax.Array | None) -> bool:
  """Whether the backward pass of a product can run on the kernels.

  It takes compiled ones, G up to 8, a gradient quantizer of theirs, a threefry key, and sums that fit 32 bits.

  Args:
    geometry: the product's geometry.
    quantization: how its operands are quantized; traced bits are looked at when they run.
    key: key of the gradient quantizer.
  """
  bits = quantization.kernel_bits
  widths = [value if isinstance(value, int) else MAX_BITS for value in (bits.weights, bits.activations, bits.gradients)]
  if not available().is_compiled or max(widths) > MAX_BITS:
    return False
  if not isinstance(key, jax.Array) or not _is_threefry(key) or not quantization.quantizers.gradients.is_on_kernels:
    return False
  try:
    op = geometry.input_gradient_op()
  except ValueError:
    return False
  weights, activations, gradients = (2**width for width in widths)
  terms = math.prod(geometry.shape[:2]) * op.channels // op.groups
  # Weights are at most 2^W half steps from a zero in the middle of their codes. Where it lies at the end, which is
  # known when the program runs alone, the kernels refuse sums that do not fit.
  return 2 * max(math.prod(geometry.out_size) * activations, terms * weights) * gradients < 2**31


def block_wins(operands: Any, shape: tuple[int, ...], bits: BitWidths) -> bool:
  """Whether "auto" takes the kernels for a block: as for its convolution.

  Args:
    operands: operands of the block.
    shape: kernel shape, [height, width, channels of a group, outputs].
    bits: W, A and G.
  """
  if not all(isinstance(value, int) for value in (bits.weights, bits.activations)) or has_explicit_axes(operands):
    return False
  return available().is_compiled and min(shape[2:]) >= MIN_CHANNELS


@jax.custom_jvp
def once(result: T, operands: Any) -> T:
  """`result`, which depends on `operands` in a way that JAX does not see: to differentiate it again is refused.

  A forward pass on kernels takes constants, and its operands carry gradients alone. Differentiated a second time it
  would seem constant.
  """
  return result


once.defjvp(lambda primals, tangents: refuse_second_derivative())


def refuse_second_derivative(*_: Any) -> Any:
  """Raises ValueError, as the derivative of a gradient that has none."""
  raise ValueError("products on integer kernels are differentiated once; for second derivatives use backend='emulated'")


def images_win(x: Any, w: Any, shape: tuple[int, ...], groups: int = 1) -> bool:
  """Whether the kernels take a float convolution of a kernel of a shape, and beat XLA's: few channels, some outputs.

  Args:
    x, w: operands, of which dtypes are looked at.
    shape: [height, width, channels, outputs].
    groups: number of feature groups.
  """
  is_float32 = x.dtype == w.dtype == jnp.float32
  has_images = shape[2] <= MAX_IMAGE_CHANNELS and shape[3] >= MIN_IMAGE_OUTPUTS and groups == 1
  return available().is_compiled and is_float32 and has_images and shape[:2] != (1, 1)


def _float_way(
  x: jax.Array, w: jax.Array, backend: Backend, as_convolution: Callable[[], Convolution]
) -> tuple[Way, Convolution | None]:
  if backend == "auto":  # which leaves layers that quantize nothing to flax's own arithmetic, bit for bit
    return Way.FLOAT, None
  try:
    convolution = as_convolution()
  except NotInteger:
    return Way.FLOAT, None
  wins = images_win(x, w, convolution.shape, convolution.groups)
  return (Way.IMAGES, convolution) if wins else (Way.FLOAT, None)


def _check_codes(x: jax.Array, w: jax.Array, quantization: Quantization) -> None:
  """Raises NotInteger where operands have no codes that the kernels take."""
  bits = quantization.bits
  is_static = isinstance(bits.weights, int) and isinstance(bits.activations, int)
  if not is_static and not available().is_compiled:
    raise NotInteger(f"traced bit widths need the compiled kernels. {available().reason}")
  if problem := quantization.missing_codes(x, w):
    raise NotInteger(problem)


def _wins(convolution: Convolution, bits: BitWidths) -> bool:
  """Whether "auto" takes the kernels: compiled ones, static bits, and enough channels."""
  if not (isinstance(bits.weights, int) and isinstance(bits.activations, int)):
    return False
  channels, outputs = convolution.shape[2], convolution.shape[3] // convolution.groups
  return available().is_compiled and min(channels, outputs) >= MIN_CHANNELS


def _is_threefry(key: jax.Array) -> bool:
  if not getattr(jax.config, "jax_threefry_partitionable", True):
    return False  # another order of the same numbers
  if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    return key.shape == () and str(jax.random.key_impl(key)) == KEY_KIND
  return key.shape == (2,) and key.dtype == jnp.uint32 and jax.config.values["jax_default_prng_impl"] == KEY_KIND
