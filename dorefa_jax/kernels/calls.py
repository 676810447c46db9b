"""The compiled kernels: which of their paths runs here, and calls into them from JAX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dorefa_jax.bits import Bits
from dorefa_jax.kernels.availability import available, library, path_index
from dorefa_jax.kernels.packing import padded_outputs
from dorefa_jax.meshes import vary, varying_axes


def run(
  x: jax.Array,
  program: jax.Array | np.ndarray,
  arrays: Sequence[jax.Array | np.ndarray],
  out_shape: tuple[int, ...],
) -> jax.Array:
  """Runs a program on a batch, on CPU.

  Args:
    x: float32 [batch, ...].
    program: int32, see `dorefa_jax.kernels.program.encode`; its values may be traced.
    arrays: weights and parameters of each convolution in turn.
    out_shape: shape of one image's result.

  Returns:
    float32 [batch, *out_shape]. An image with a NaN in it gives NaN.
  """
  result = jax.ShapeDtypeStruct((x.shape[0], *out_shape), jnp.float32)
  return call_kernel("dorefa_run", result, x, jnp.asarray(program, jnp.int32), *arrays)


def pack_weights(codes: jax.Array, spec: jax.Array, *, words: int, groups: int) -> jax.Array:
  """Packs weights on CPU, as `dorefa_jax.kernels.packing.pack_weights` does.

  Args:
    codes: uint8 [taps, channels of a group, outputs of all groups].
    spec: int32 [2], format and bits; may be traced.
    words: the size of the result, which the widest format must fit.
    groups: number of feature groups.

  Returns:
    uint32 [words].
  """
  library()
  return call("dorefa_pack_weights", jax.ShapeDtypeStruct((words,), jnp.uint32), codes, spec, groups=np.int64(groups))


def turn_weights(codes: jax.Array, *, groups: int) -> tuple[jax.Array, jax.Array]:
  """The weights of the convolution that gives the input's gradient, on CPU; XLA's transposes of bytes are slow there.

  Args:
    codes: uint8 [taps, channels of a group, outputs of all groups].
    groups: number of feature groups.

  Returns:
    uint8 [taps, outputs of a group, channels of all groups], taps turned around; and their sums over outputs, int32
    [groups, taps, channels of a group], padded as `padded_outputs` says.
  """
  library()
  taps, channels, outputs = codes.shape
  results = (
    jax.ShapeDtypeStruct((taps, outputs // groups, groups * channels), jnp.uint8),
    jax.ShapeDtypeStruct((groups, taps, padded_outputs(channels)), jnp.int32),
  )
  turned, sums = call("dorefa_turn_weights", results, codes, groups=np.int64(groups))
  return turned, sums


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
  axes = varying_axes(operands)

  @jax.custom_jvp
  def run(*operands: jax.Array) -> Any:
    return jax.ffi.ffi_call(target, results, vmap_method="sequential")(*operands, **attributes)

  @run.defjvp
  def refuse(*_: Any) -> Any:
    raise ValueError(
      "a product on kernels has no such derivative; compute it with backend='emulated', and instead of a packed model "
      "differentiate the one that was packed"
    )

  return vary(run(*vary(operands, axes)), axes)


def call_kernel(target: str, results: Any, *operands: jax.Array | np.ndarray, **attributes: np.generic) -> Any:
  """`call` of a function that is compiled for each instruction set, on the one in use here.

  Args:
    target, results, *operands, **attributes: as in `call`.
  """
  return call(target, results, *operands, path=np.int64(path_index(available().path)), **attributes)


def bits_operand(bits: Bits) -> jax.Array:
  """A bit width as the library takes it, int32 [1]."""
  return jnp.asarray(bits, jnp.int32).reshape(1)
