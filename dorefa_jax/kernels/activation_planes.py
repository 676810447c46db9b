"""Activations kept between the passes as bit planes of their codes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dorefa_jax.bits import Bits, levels
from dorefa_jax.kernels.calls import bits_operand, call_kernel
from dorefa_jax.kernels.packing import MAX_BITS


def pack_activations(x: jax.Array, bits: Bits) -> jax.Array:
  """The codes of activations as bit planes, to keep for the backward pass: A + 1 bits for each.

  Args:
    x: float32 [..., channels].
    bits: A, 1 to 8; may be traced, and then there are 8 planes.

  Returns:
    uint32 [pixels, planes, words of 32 channels]; the last plane tells which values lie in [0, 1].
  """
  planes = (bits if isinstance(bits, int) else MAX_BITS) + 1
  flat = x.reshape(-1, x.shape[-1])
  shape = flat.shape[0], planes, -(-flat.shape[1] // 32)
  result = jax.ShapeDtypeStruct(shape, jnp.uint32)
  return call_kernel("dorefa_pack_activations", result, flat, bits_operand(bits))


def pack_in_xla(x: jax.Array, bits: Bits) -> jax.Array:
  """`pack_activations` for platforms without compiled kernels.

  Example:
    >>> import jax.numpy as jnp
    >>> pack_in_xla(jnp.array([[0.4, 2.0]]), 2).tolist()
    [[[3], [2], [1]]]
  """
  flat = x.reshape(-1, x.shape[-1])
  count = bits if isinstance(bits, int) else MAX_BITS
  codes = jnp.round(jnp.clip(flat, 0, 1) * levels(bits)).astype(jnp.uint32)
  inside = (~((flat < 0) | (flat > 1))).astype(jnp.uint32)  # and NaN, which stays visible
  planes = jnp.stack([*((codes >> bit) & 1 for bit in range(count)), inside], axis=1)
  planes = jnp.pad(planes, ((0, 0), (0, 0), (0, -flat.shape[1] % 32))).reshape(*planes.shape[:2], -1, 32)
  return jnp.sum(planes << jnp.arange(32, dtype=jnp.uint32)[None, None, None], axis=-1, dtype=jnp.uint32)


def unpack_activations(planes: jax.Array, channels: int) -> tuple[jax.Array, jax.Array]:
  """What `pack_activations` packed.

  Args:
    planes: uint32 [pixels, planes, words].
    channels: number of channels.

  Returns:
    int32 codes and bool, whether a value lies in [0, 1]; [pixels, channels] both.

  Example:
    >>> import jax.numpy as jnp
    >>> codes, is_inside = unpack_activations(jnp.array([[[1], [3], [2]]], jnp.uint32), 2)
    >>> codes.tolist(), is_inside.tolist()
    ([[3, 2]], [[False, True]])
  """
  return unpack_codes(planes[:, :-1], channels), unpack_codes(planes[:, -1:], channels) == 1


def unpack_codes(planes: jax.Array, channels: int) -> jax.Array:
  """Codes from their bit planes.

  Args:
    planes: uint32 [pixels, planes, words].
    channels: number of channels.

  Returns:
    int32 [pixels, channels].

  Example:
    >>> unpack_codes(jnp.array([[[1], [3]]], jnp.uint32), 2).tolist()
    [[3, 2]]
  """
  bits = (planes[..., None] >> jnp.arange(32, dtype=jnp.uint32)[None, None, None]) & 1
  bits = bits.reshape(*planes.shape[:2], -1)[..., :channels].astype(jnp.int32)
  return jnp.einsum("npc,p->nc", bits, jnp.asarray(2 ** np.arange(planes.shape[1]), jnp.int32))
