"""How arrays lie on meshes of devices, as JAX's types tell it."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

T = TypeVar("T")


def has_explicit_axes(operands: Any) -> bool:
  """Whether an operand lies on a mesh with explicit axes, as `jax.make_mesh` makes them.

  Example:
    >>> has_explicit_axes(jax.numpy.ones(2))
    False
  """
  explicit = jax.sharding.AxisType.Explicit
  meshes = [jax.typeof(x).sharding.mesh for x in jax.tree.leaves(operands)]
  return any(explicit in mesh.axis_types for mesh in meshes)


def gather(x: jax.Array) -> jax.Array:
  """`x`, whole on each device of its mesh."""
  mesh = jax.typeof(x).sharding.mesh
  return x if mesh.empty else jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec()))


def varying_axes(operands: Any) -> tuple[Any, ...]:
  """The manual axes that any operand varies over, in an order that does not depend on the process."""
  return tuple(sorted({axis for x in jax.tree.leaves(operands) for axis in _axes_of(x)}, key=str))


def _axes_of(x: Any) -> frozenset[Any]:
  type: Any = jax.typeof(x)
  return type.mat.varying if hasattr(type, "mat") else type.vma  # its name before JAX 0.10


def vary(tree: T, axes: tuple[Any, ...]) -> T:
  """Arrays that vary over manual axes, which they may not have done before."""

  def cast(x: Any) -> Any:
    missing = tuple(axis for axis in axes if axis not in _axes_of(x))
    if not missing:
      return x
    if hasattr(lax, "pcast"):
      return lax.pcast(x, missing, to="varying")
    return getattr(lax, "pvary")(x, missing)  # noqa: B009  # its name before JAX 0.9, which later types lack

  return jax.tree.map(cast, tree) if axes else tree
