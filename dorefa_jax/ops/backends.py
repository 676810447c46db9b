"""Where a program meets the kernels: the branch by platform, calls into the library, and operands on meshes of devices.

JAX's types tell how an array lies on a mesh: over which manual axes of a `jax.shard_map` it varies, and how it is
sharded over explicit axes. Calls into the library have no rules for either, and both branches of a program must give
one type. So operands get a common type before the kernels see them, and results get the one that they would have had.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from dorefa_jax.bits import BitWidths
from dorefa_jax.kernels.availability import available
from dorefa_jax.kernels.packing import MAX_BITS
from dorefa_jax.meshes import T, gather, has_explicit_axes, vary, varying_axes
from dorefa_jax.ops.layouts import Convolution, NotInteger


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


def check_backend(backend: Backend) -> Backend:
  """Returns `backend`, or raises ValueError where it is unknown.

  Example:
    >>> check_backend("auto")
    'auto'
  """
  if backend not in BACKENDS:
    raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
  return backend


MIN_CHANNELS = 16
"""Channels, in and out of a group, from which the compiled kernels beat XLA's float products."""


def check_bits(bits: BitWidths) -> None:
  """Raises NotInteger where static bits lie beyond what kernels compute, or traced ones beyond XLA's."""
  is_static = isinstance(bits.weights, int) and isinstance(bits.activations, int)
  if not is_static and not available().is_compiled:
    raise NotInteger(f"traced bit widths need the compiled kernels. {available().reason}")
  for name, value in (("weights", bits.weights), ("activations", bits.activations)):
    if isinstance(value, int) and value > MAX_BITS:
      raise NotInteger(f"{name} must have 1 to {MAX_BITS} bits, got {value}")


def wins(convolution: Convolution, bits: BitWidths) -> bool:
  """Whether "auto" takes the kernels: compiled ones, static bits, and enough channels."""
  if not (isinstance(bits.weights, int) and isinstance(bits.activations, int)):
    return False
  channels, outputs = convolution.shape[2], convolution.shape[3] // convolution.groups
  return available().is_compiled and min(channels, outputs) >= MIN_CHANNELS
