"""Checks that a method of one's own keeps the contract of `dorefa_jax.Quantizer`, for its tests.

Each raises AssertionError with what differs, where, and by how much.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dorefa_jax.bits import Bits, BitWidths
from dorefa_jax.inference.freeze import freeze
from dorefa_jax.linen import Conv, ConvBlock
from dorefa_jax.methods.method import Affine, Quantizer
from dorefa_jax.methods.quantizers import Quantizers

TOLERANCE = 1e-5
"""Largest difference of integers and emulation, over the largest magnitude: float32 sums in another order."""


def check_quantizer(quantizer: Quantizer, x: jax.Array, bits: int, *, key: jax.Array | None = None) -> None:
  """Checks that codes are whole numbers below 2^bits that stand for the values, static and traced, and have a gradient.

  Args:
    quantizer: a quantizer of weights or activations.
    x: values, outputs along the last axis.
    bits: k, of the quantizer's widths.
    key: key to initialize what it learns.

  Raises:
    AssertionError: the contract of `dorefa_jax.Quantizer` is broken.

  Example:
    >>> import dorefa_jax as dorefa
    >>> check_quantizer(dorefa.methods.dorefa().weights, jnp.linspace(-1, 1, 12).reshape(3, 4), 2)
  """
  name, key = type(quantizer).__name__, jax.random.key(0) if key is None else key
  state = quantizer.init(key, x, bits)
  shapes = jax.eval_shape(lambda key, x: quantizer.init(key, x, bits), key, x)
  assert jax.tree.map(jnp.shape, state) == jax.tree.map(lambda leaf: leaf.shape, shapes), f"{name}: init of a shape"
  values = jax.jit(lambda x, state: quantizer(x, bits, state))(x, state)
  assert (values.shape, values.dtype) == (x.shape, x.dtype), f"{name}: values {values.dtype} {values.shape}"
  gradient = jax.grad(lambda x: quantizer(x, bits, state).sum())(x)
  assert bool(jnp.isfinite(gradient).all()), f"{name}: a gradient that is not finite"
  if quantizer.takes_traced:
    traced = jax.jit(lambda x, state, k: quantizer(x, k, state))(x, state, jnp.int32(bits))
    _close(traced, values, f"{name}: values of traced and static bits")
  grid = quantizer.codes(x, bits, state)
  if grid is None:
    return
  _check_grid(grid, values, quantizer.code_bits(bits), name)
  unit = quantizer.unit(x, bits, state)
  if unit is None:
    return
  n = 2 ** int(quantizer.code_bits(bits)) - 1
  rounded = jnp.round(jnp.clip(unit, 0, 1) * n)
  assert bool((rounded == grid.codes.astype(rounded.dtype)).all()), f"{name}: unit rounds to other codes"
  is_inside = (unit >= 0) & (unit <= 1)
  assert bool((is_inside == (gradient != 0)).all()), f"{name}: unit lies in [0, 1] where no gradient passes"


def check_method(quantizers: Quantizers, bits: BitWidths, *, tolerance: float = TOLERANCE) -> None:
  """Checks a method in layers: integers against the emulation, a block against its layers, packed against the model.

  Args:
    quantizers: the method.
    bits: W, A and G of 1 to 8.
    tolerance: largest difference, over the largest magnitude.

  Raises:
    AssertionError: two ways of computing the same thing differ.
    ValueError: the method has no codes at these widths.

  Example:
    >>> import dorefa_jax as dorefa
    >>> check_method(dorefa.methods.bnn(), BitWidths(1, 1, 4))
  """
  x = jax.random.uniform(jax.random.key(1), (3, 7, 6, 16), minval=-0.7, maxval=1.4)
  for padding in ("SAME", "VALID"):
    for layer in (Conv(18, (3, 3), padding=padding), ConvBlock(18, 3, padding=padding)):
      what = f"{type(layer).__name__} with padding {padding}"
      layer = layer.clone(quantizers=quantizers, bits=bits)
      emulated = _step(layer.clone(backend="emulated"), x, bits)
      compare = _close if isinstance(layer, Conv) else _close_but_for_codes
      compare(_step(layer.clone(backend="integer"), x, bits), emulated, f"{what}: integers and emulation", tolerance)
      if quantizers.activations.takes_traced and _weights(quantizers).takes_traced:
        traced = _step(layer.clone(backend="integer"), x, bits, is_traced=True)
        compare(traced, emulated, f"{what}: integers of traced bits and emulation", tolerance)
  model = _Network(quantizers, bits)
  variables = _off_the_bounds(model.init(jax.random.key(0), x))
  packed = freeze(model, variables, input_shape=x.shape[1:])
  _close(packed(x), model.clone(backend="emulated").apply(variables, x), "frozen and model", tolerance)


class _Network(nn.Module):
  quantizers: Quantizers
  bits: BitWidths
  backend: Any = "auto"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for padding in ("VALID", "SAME"):
      x = ConvBlock(18, 3, padding=padding, quantizers=self.quantizers, bits=self.bits, backend=self.backend)(x)
    return x


def _step(layer: nn.Module, x: jax.Array, bits: BitWidths, *, is_traced: bool = False) -> Any:
  """A layer's result in training, and the gradients of its variables and input."""
  variables = _off_the_bounds(layer.init(jax.random.key(0), x))
  options = {"train": True} if isinstance(layer, ConvBlock) else {}

  def loss(variables: Any, x: jax.Array, bits: BitWidths) -> tuple[jax.Array, jax.Array]:
    y, _ = layer.apply(
      variables, x, bits=bits if is_traced else None, rngs={"gradients": jax.random.key(3)}, mutable=["batch_stats"],
      **options,
    )  # fmt: skip
    directions = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
    return (y * directions).sum(), y

  (_, y), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(variables, x, bits)
  # What is learned is a sum over all elements, whose terms cancel: it is compared with their magnitude.
  learned = gradients[0].pop("quantizers", {})
  size = float(jnp.abs(gradients[1]).sum()) + 1.0
  return y, gradients, jax.tree.map(lambda leaf: 1 + leaf / size, learned)


def _off_the_bounds(variables: Any) -> Any:
  """Batch norms with biases for which no sum of codes lies on the edge of a bound: there, rounding decides."""

  def move(path: Any, leaf: jax.Array) -> jax.Array:
    is_bias = "'bn'" in jax.tree_util.keystr(path) and "bias" in jax.tree_util.keystr(path)
    return leaf + 0.1234567 * jnp.sin(1.0 + jnp.arange(leaf.size, dtype=leaf.dtype)) if is_bias else leaf

  return jax.tree_util.tree_map_with_path(move, variables)


def _check_grid(grid: Affine, values: jax.Array, bits: Bits, name: str) -> None:
  assert grid.codes.dtype == jnp.uint8, f"{name}: codes are {grid.codes.dtype}, not uint8"
  assert grid.codes.shape == values.shape, f"{name}: codes of shape {grid.codes.shape} for values {values.shape}"
  assert int(grid.codes.max()) < 2 ** int(bits), f"{name}: a code of {int(grid.codes.max())} with {bits} bits"
  shape = jnp.shape(grid.scale)
  assert shape in ((), values.shape[-1:]), f"{name}: a scale of shape {shape}"
  if grid.center is not None:
    _close(jnp.asarray(grid.offset), -jnp.asarray(grid.scale) * grid.center, f"{name}: offset and -scale center")
  _close(grid.values, values, f"{name}: codes and values", 1e-6)


def _close(got: Any, expected: Any, what: str, tolerance: float = 1e-6) -> None:
  for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True):
    largest = float(np.abs(np.asarray(other)).max(initial=0))
    difference = float(np.abs(np.asarray(one) - np.asarray(other)).max(initial=0))
    place = jax.tree_util.keystr(path)
    assert difference <= tolerance * max(largest, 1e-6), f"{what}{place} differ by {difference:g} of {largest:g}"


def _close_but_for_codes(got: Any, expected: Any, what: str, tolerance: float) -> None:
  """Results are close; gradients in their norm, as rounding moves a few to the neighboring code."""
  _close(got[0], expected[0], what, tolerance)
  for (path, one), other in zip(
    jax.tree_util.tree_leaves_with_path(got[1:]), jax.tree.leaves(expected[1:]), strict=True
  ):
    size, difference = (float(np.linalg.norm(np.ravel(part))) for part in (np.asarray(other), np.asarray(one - other)))
    assert difference <= 0.01 * max(size, 1e-6), (
      f"{what}, gradient{jax.tree_util.keystr(path)} differ by {difference:g} of {size:g}"
    )


def _weights(quantizers: Quantizers) -> Quantizer:
  assert isinstance(quantizers.weights, Quantizer)
  return quantizers.weights
