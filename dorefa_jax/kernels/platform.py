"""Where a program meets the kernels: the branch by platform, calls into the library, and operands on meshes of devices.

JAX's types tell how an array lies on a mesh: over which manual axes of a `jax.shard_map` it varies, and how it is
sharded over explicit axes. Calls into the library have no rules for either, and both branches of a program must give
one type. So operands get a common type before the kernels see them, and results get the one that they would have had.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

T = TypeVar("T")


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
  axes = _varying_axes(operands)

  def typed(branch: Callable[..., T]) -> Callable[..., T]:
    return lambda *operands: _vary(branch(*operands), axes)

  return lax.platform_dependent(*operands, cpu=typed(kernels), default=typed(emulation))


def call(target: str, results: Any, *operands: jax.Array | np.ndarray, **attributes: np.generic) -> Any:
  """Calls a function of the library, on CPU.

  Args:
    target: its name, one of `dorefa_jax.kernels.library.HANDLERS`.
    results: `jax.ShapeDtypeStruct`, or several.
    *operands: arrays.
    **attributes: static arguments.

  Returns:
    An array for each of `results`.

  Raises:
    ValueError: when it is differentiated.
  """
  axes = _varying_axes(operands)

  @jax.custom_jvp
  def run(*operands: jax.Array) -> Any:
    return jax.ffi.ffi_call(target, results, vmap_method="sequential")(*operands, **attributes)

  @run.defjvp
  def refuse(*_: Any) -> Any:
    raise ValueError(
      "a product on kernels has no such derivative; compute it with backend='emulated', and instead of a packed model "
      "differentiate the one that was packed"
    )

  return _vary(run(*_vary(operands, axes)), axes)


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
  operands = _vary(operands, _varying_axes(operands))
  if not has_explicit_axes(operands):
    return compute(*operands)
  closed, like = jax.make_jaxpr(emulation, return_shape=True)(*operands)
  shardings = jax.tree.unflatten(jax.tree.structure(like), [aval.sharding for aval in closed.out_avals])
  gathered = jax.tree.map(_gather, operands)
  return jax.tree.map(jax.sharding.reshard, compute(*gathered), shardings)


def _gathering_vmap(kernels: Callable[..., T], emulation: Callable[..., T], *operands: Any) -> T:
  """`by_platform`, which under `jax.vmap` gathers the examples: the library takes them one after the other."""

  def pick(*operands: Any) -> T:
    return by_platform(kernels, emulation, *operands)

  mapped: Any = jax.custom_batching.custom_vmap(pick)

  @mapped.def_vmap
  def rule(_: int, is_mapped: list[Any], *operands: Any) -> tuple[T, Any]:
    gathered = jax.tree.map(lambda along, x: _gather(x) if along else x, tuple(is_mapped), operands)
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
  return jax.sharding.reshard(compute(_gather(x)), NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0])))


def has_explicit_axes(operands: Any) -> bool:
  """Whether an operand lies on a mesh with explicit axes, as `jax.make_mesh` makes them.

  Example:
    >>> has_explicit_axes(np.ones(2))
    False
  """
  explicit = jax.sharding.AxisType.Explicit
  meshes = [jax.typeof(x).sharding.mesh for x in jax.tree.leaves(operands)]
  return any(explicit in mesh.axis_types for mesh in meshes)


def _gather(x: jax.Array) -> jax.Array:
  mesh = jax.typeof(x).sharding.mesh
  return x if mesh.empty else jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec()))


def _varying_axes(operands: Any) -> tuple[Any, ...]:
  """The manual axes that any operand varies over, in an order that does not depend on the process."""
  return tuple(sorted({axis for x in jax.tree.leaves(operands) for axis in _axes_of(x)}, key=str))


def _axes_of(x: Any) -> frozenset[Any]:
  type: Any = jax.typeof(x)
  return type.mat.varying if hasattr(type, "mat") else type.vma  # its name before JAX 0.10


def _vary(tree: T, axes: tuple[Any, ...]) -> T:
  def cast(x: Any) -> Any:
    missing = tuple(axis for axis in axes if axis not in _axes_of(x))
    if not missing:
      return x
    if hasattr(lax, "pcast"):
      return lax.pcast(x, missing, to="varying")
    return getattr(lax, "pvary")(x, missing)  # noqa: B009  # its name before JAX 0.9, which later types lack

  return jax.tree.map(cast, tree) if axes else tree
