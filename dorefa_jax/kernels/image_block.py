"""A first convolution on images with max pooling and h, as one call forward and one backward."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dorefa_jax.kernels.calls import call_kernel
from dorefa_jax.kernels.geometry import Geometry
from dorefa_jax.kernels.image_conv import _program
from dorefa_jax.kernels.packing import Format
from dorefa_jax.kernels.program import Bound, encode

PATCH_MULTIPLE = 16
"""Floats of a row of a patch, in the sums of its gradient, are rounded up to a multiple of this."""


def image_block(
  x: jax.Array, w: jax.Array, bias: jax.Array, geometry: Geometry, bound: Bound
) -> tuple[jax.Array, jax.Array]:
  """A convolution in float32, max pooling in 2x2 windows side by side, and h.

  Args:
    x, w: as in `image_conv`.
    geometry: the convolution, without dilation and groups; what is left of its image by windows of 2x2 is dropped.
    bias: float32 [outputs], of the convolution.
    bound: the bounding function.

  Returns:
    float32 [batch, height / 2, width / 2, outputs], and for the gradient uint32 [windows, 5, words of 32 channels]:
    which pixels of a window take it, and whether h turns its sign.
  """
  op, panels, params = _program(w, bias, geometry)
  height, width, outputs = op.out_shape
  pooled = x.shape[0], height // 2, width // 2
  results = (
    jax.ShapeDtypeStruct((*pooled, outputs), jnp.float32),
    jax.ShapeDtypeStruct((int(np.prod(pooled)), 5, -(-outputs // 32)), jnp.uint32),
  )
  operands = x, encode([op]), panels, params, jnp.array([bound], jnp.int32)
  out, winners = call_kernel("dorefa_image_block", results, *operands)
  return out, winners


def image_block_gradient(
  x: jax.Array, winners: jax.Array, g: jax.Array, geometry: Geometry
) -> tuple[jax.Array, jax.Array]:
  """The gradients of weights and bias of `image_block`.

  Args:
    x, geometry: as in `image_block`.
    winners: result of `image_block`.
    g: the result's gradient.

  Returns:
    float32 of `geometry.shape`, and [outputs]; NaN where an image is not finite.
  """
  height, width, channels, outputs = geometry.shape
  op = dataclasses.replace(geometry.op(), format=Format.FLOATS)
  patch_row = -(-width * channels // PATCH_MULTIPLE) * PATCH_MULTIPLE
  result = jax.ShapeDtypeStruct((outputs * (height * patch_row + 1),), jnp.float32)
  operands = x, winners, g, encode([op])
  sums = call_kernel("dorefa_image_block_gradient", result, *operands)
  rows = sums[:-outputs].reshape(outputs, height, patch_row)[..., : width * channels]
  return rows.reshape(outputs, height, width, channels).transpose(1, 2, 3, 0), sums[-outputs:]
