"""Float convolutions of few channels, as first layers are: XLA's are slow on CPU there, forward and backward."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dorefa_jax.kernels import cpu, winograd
from dorefa_jax.kernels.packing import PANEL_CHANNELS, Format, padded_outputs
from dorefa_jax.kernels.platform import call
from dorefa_jax.kernels.program import Op, encode
from dorefa_jax.kernels.training import Geometry
from dorefa_jax.not_finite import nan_where

PATCH_MULTIPLE = 16
"""Floats of a row of a patch, in the sums of its gradient, are rounded up to a multiple of this."""


def image_conv(x: jax.Array, w: jax.Array, geometry: Geometry, *, path: str) -> jax.Array:
  """A convolution in float32.

  Args:
    x: float32 [batch, *geometry.size, channels].
    w: float32 of `geometry.shape`.
    geometry: of the convolution, of one group.
    path: a compiled path.

  Returns:
    float32 [batch, *geometry.out_size, outputs]. An image that is not finite gives NaN.
  """
  op, panels, params = _program(w, jnp.zeros(w.shape[3], jnp.float32), geometry)
  return cpu.run(x, encode([op]), (panels, params), op.out_shape, path)


def image_block(
  x: jax.Array, w: jax.Array, bias: jax.Array, geometry: Geometry, bound: int, *, path: str
) -> tuple[jax.Array, jax.Array]:
  """A convolution in float32, max pooling in 2x2 windows side by side, and h.

  Args:
    x, w, path: as in `image_conv`.
    geometry: of the convolution, without strides, dilation, groups and padding, to even sizes.
    bias: float32 [outputs], of the convolution.
    bound: number of the bounding function in `dorefa_jax.quantizers.BOUND_KINDS`.

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
  out, winners = call("dorefa_image_block", results, *operands, path=np.int64(cpu.path_index(path)))
  return out, winners


def image_block_gradient(
  x: jax.Array, winners: jax.Array, g: jax.Array, geometry: Geometry, *, path: str
) -> tuple[jax.Array, jax.Array]:
  """The gradients of weights and bias of `image_block`.

  Args:
    x, geometry, path: as there.
    winners: from there.
    g: the result's gradient.

  Returns:
    float32 of `geometry.shape`, and [outputs]; NaN where an image is not finite.
  """
  height, width, channels, outputs = geometry.shape
  op = dataclasses.replace(geometry.op(), format=Format.FLOATS)
  patch_row = -(-width * channels // PATCH_MULTIPLE) * PATCH_MULTIPLE
  result = jax.ShapeDtypeStruct((outputs * (height * patch_row + 1),), jnp.float32)
  operands = x, winners, g, encode([op])
  sums = call("dorefa_image_block_gradient", result, *operands, path=np.int64(cpu.path_index(path)))
  rows = sums[:-outputs].reshape(outputs, height, patch_row)[..., : width * channels]
  return rows.reshape(outputs, height, width, channels).transpose(1, 2, 3, 0), sums[-outputs:]


def _program(w: jax.Array, bias: jax.Array, geometry: Geometry) -> tuple[Op, jax.Array, jax.Array]:
  """The convolution, its weights in panels, and factors of one and a bias."""
  _, width, _, outputs = geometry.shape
  op = dataclasses.replace(geometry.op(), format=Format.FLOATS)
  rows = w.reshape(-1, outputs)
  if winograd.fits(width, geometry.strides[1], geometry.dilation[1], geometry.groups, op.out_shape[1]):
    op = dataclasses.replace(op, format=Format.WINOGRAD)
    points = jnp.asarray(winograd.weight_matrix(width), jnp.float32)
    rows = jnp.einsum("pj,hjco->hcpo", points, w, precision="highest").reshape(-1, outputs)
  # Weights that are not finite make all of their output NaN, as h would bound the infinity of a product.
  factors = nan_where(~jnp.all(jnp.isfinite(w), (0, 1, 2)), jnp.ones(outputs, jnp.float32))
  params = jnp.stack([factors, bias])
  return op, _panels(rows), jnp.pad(params, ((0, 0), (0, padded_outputs(outputs) - outputs)))


def image_weight_gradient(x: jax.Array, g: jax.Array, geometry: Geometry, *, path: str) -> jax.Array:
  """The gradient of the weights of `image_conv`.

  Args:
    x: float32 [batch, *geometry.size, channels].
    g: float32 [batch, *geometry.out_size, outputs], the result's gradient.
    geometry: of the convolution, of one group.
    path: a compiled path.

  Returns:
    float32 of `geometry.shape`.
  """
  height, width, channels, outputs = geometry.shape
  op = dataclasses.replace(geometry.op(), format=Format.FLOATS)
  result = jax.ShapeDtypeStruct((height * width * channels, padded_outputs(outputs)), jnp.float32)
  sums = call("dorefa_float_gradient", result, x, g, encode([op]), path=np.int64(cpu.path_index(path)))
  return sums[:, :outputs].reshape(geometry.shape)


def _panels(rows: jax.Array) -> jax.Array:
  """Weights [rows, outputs] as `dorefa_jax.kernels.packing.pack_weights` lays floats out."""
  panels = []
  for first in range(0, rows.shape[1], PANEL_CHANNELS):
    panel = rows[:, first : first + PANEL_CHANNELS]
    panels.append(jnp.pad(panel, ((0, 0), (0, padded_outputs(panel.shape[1]) - panel.shape[1]))).reshape(-1))
  return jnp.concatenate(panels)
