"""A model's evaluation as a flat list of equations, everything that depends on variables alone computed."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal, Primitive

from dorefa_jax.ops.marks import codes_p

CALLS = {
  "jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
  "checkpoint", "remat", "remat2",
}  # fmt: skip
"""Primitives whose meaning is the program inside."""


def _split(x: jax.Array, *, sizes: Sequence[int], axis: int) -> list[jax.Array]:
  ends = np.cumsum([0, *sizes]).tolist()
  return [lax.slice_in_dim(x, start, stop, axis=axis) for start, stop in itertools.pairwise(ends)]


def _unstack(x: jax.Array, *, axis: int) -> list[jax.Array]:
  return [lax.squeeze(part, [axis]) for part in _split(x, sizes=[1] * x.shape[axis], axis=axis)]


def _stack(*xs: jax.Array, axis: int) -> list[jax.Array]:
  return [lax.concatenate([lax.expand_dims(x, [axis]) for x in xs], axis)]


def _tile(x: jax.Array, *, reps: Sequence[int]) -> list[jax.Array]:
  for axis, count in enumerate(reps):
    x = lax.concatenate([x] * count, axis)
  return [x]


REWRITTEN: Mapping[str, Callable[..., Sequence[jax.Array]]] = {
  "optimization_barrier": lambda *xs: xs, "split": _split, "stack": _stack, "tile": _tile, "unstack": _unstack,
}  # fmt: skip
"""Primitives that are other operations together; those with several results among them."""


class FreezeError(ValueError):
  """A model that cannot be frozen; the message names the operation and the layer."""


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
  """A value that does not depend on the images.

  Attributes:
    value: the array.
    bits: bit width of its codes, where a quantizer of weights made it.
    scale, offset: its grid's, then: a scalar, or one for each output.
  """

  value: np.ndarray
  bits: int | None = None
  scale: np.ndarray | None = None
  offset: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Equation:
  """One operation on what depends on the images.

  Attributes:
    primitive, params: JAX's.
    inputs: numbers of dynamic values, and constants.
    output: number of the result.
    shape, dtype: shape and dtype of the result for one image, with a leading axis of 1.
    layer: the module that it belongs to, for messages.
  """

  primitive: Primitive
  params: dict[str, Any]
  inputs: tuple[int | Constant, ...]
  output: int
  shape: tuple[int, ...]
  dtype: np.dtype
  layer: str

  @property
  def name(self) -> str:
    """The primitive's name."""
    return self.primitive.name

  @property
  def dynamic(self) -> list[int]:
    """The inputs that depend on the images."""
    return [value for value in self.inputs if isinstance(value, int)]


@dataclasses.dataclass(frozen=True)
class FlatProgram:
  """Equations in order; value 0 is the image, `output` the result."""

  equations: list[Equation]
  output: int
  input_shape: tuple[int, ...]


def flatten(function: Callable[[jax.Array], jax.Array], input_shape: Sequence[int]) -> FlatProgram:
  """Traces a function of a batch of one image.

  Args:
    function: images [1, *input_shape], float32, to one array with the batch on axis 0.
    input_shape: shape of one image.

  Returns:
    The equations.

  Raises:
    FreezeError: control flow or another operation that depends on the images and is none of a file's,
      or a result that is no array of batch 1.
  """
  image = jax.ShapeDtypeStruct((1, *input_shape), np.float32)
  closed, out_shape = jax.make_jaxpr(function, return_shape=True)(image)
  if not isinstance(out_shape, jax.ShapeDtypeStruct) or out_shape.shape[:1] != (1,):
    raise FreezeError(f"a frozen model returns one array with the batch on axis 0, got {out_shape}")
  builder = _Builder()
  (output,) = builder.inline(closed, [builder.new_value()], "")
  if isinstance(output, Constant):
    raise FreezeError("the model's result does not depend on the images")
  return FlatProgram(_needed(builder.equations, output), output, tuple(input_shape))


def _needed(equations: list[Equation], output: int) -> list[Equation]:
  """The equations that a value is made of, in order."""
  needed = {output}
  for equation in reversed(equations):
    if equation.output in needed:
      needed.update(equation.dynamic)
  return [equation for equation in equations if equation.output in needed]


class _Builder:
  def __init__(self) -> None:
    self.equations: list[Equation] = []
    self.count = 0

  def new_value(self) -> int:
    self.count += 1
    return self.count - 1

  def inline(self, closed: ClosedJaxpr, arguments: Sequence[int | Constant], layer: str) -> list[int | Constant]:
    jaxpr = closed.jaxpr
    values: dict[Any, int | Constant] = {}
    values.update(zip(jaxpr.constvars, [Constant(_array(const)) for const in closed.consts]))
    values.update(zip(jaxpr.invars, arguments))

    def read(atom: Any) -> int | Constant:
      return Constant(np.asarray(atom.val)) if isinstance(atom, Literal) else values[atom]

    for eqn in jaxpr.eqns:
      inner = "/".join(filter(None, [layer, str(eqn.source_info.name_stack)]))
      results = self.apply(eqn, [read(atom) for atom in eqn.invars], inner)
      values.update(zip(eqn.outvars, results))
    return [read(atom) for atom in jaxpr.outvars]

  def apply(self, eqn: Any, inputs: list[int | Constant], layer: str) -> list[int | Constant]:
    name, params = eqn.primitive.name, eqn.params
    if name in CALLS:
      return self.inline(_inner(params), inputs, layer)
    if name == "platform_index":
      # The branch for platforms without kernels: the emulation, with its marks.
      return [Constant(np.asarray(params["platforms"].index(None)))]
    if name == "cond" and isinstance(inputs[0], Constant):
      return self.inline(params["branches"][int(inputs[0].value)], inputs[1:], layer)
    if all(isinstance(value, Constant) for value in inputs):
      return _fold(eqn, [value for value in inputs if isinstance(value, Constant)])
    if name in REWRITTEN:
      return self.rewrite(eqn, inputs, layer)
    if len(eqn.outvars) != 1:
      raise FreezeError(f"{layer or 'the model'}: operation '{name}' on activations cannot be frozen")
    aval = eqn.outvars[0].aval
    if 0 in aval.shape:  # as padding by nothing leaves it
      return [Constant(np.zeros(aval.shape, aval.dtype))]
    if name == "concatenate":
      inputs = [value for value in inputs if isinstance(value, int) or value.value.size]
    output = self.new_value()
    self.equations.append(
      Equation(eqn.primitive, params, tuple(inputs), output, tuple(aval.shape), np.dtype(aval.dtype), layer)
    )
    return [output]

  def rewrite(self, eqn: Any, inputs: list[int | Constant], layer: str) -> list[int | Constant]:
    """What a primitive gives as other operations, those on constants computed."""
    function = functools.partial(REWRITTEN[eqn.primitive.name], **eqn.params)
    closed = jax.make_jaxpr(function)(*[jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in eqn.invars])
    return self.inline(closed, inputs, layer)


def _inner(params: dict[str, Any]) -> ClosedJaxpr:
  found = next(params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params)
  return found if isinstance(found, ClosedJaxpr) else ClosedJaxpr(found, ())


def _fold(eqn: Any, inputs: list[Constant]) -> list[int | Constant]:
  if eqn.primitive is codes_p:
    return [Constant(inputs[0].value, eqn.params["bits"], *(constant.value for constant in inputs[1:]))]
  results = eqn.primitive.bind(*[constant.value for constant in inputs], **eqn.params)
  if not eqn.primitive.multiple_results:
    results = [results]
  return [Constant(_array(result)) for result in results]


def _array(value: Any) -> Any:
  """As NumPy has it, random keys apart, which it has not."""
  return value if jax.dtypes.issubdtype(jax.numpy.result_type(value), jax.dtypes.prng_key) else np.asarray(value)
