"""Float convolutions of few channels, as first layers are: XLA's are slow on CPU there, forward and backward."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from dorefa_jax.kernels import winograd
from dorefa_jax.kernels.calls import call_kernel, run
from dorefa_jax.kernels.geometry import Geometry
from dorefa_jax.kernels.packing import PANEL_CHANNELS, Format, padded_outputs
from dorefa_jax.kernels.program import Op, encode
from dorefa_jax.not_finite import nan_where


def image_conv(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
  """A convolution in float32.

  Args:
    x: float32 [batch, *geometry.size, channels].
    w: float32 of `geometry.shape`.
    geometry: the convolution, in one group.

  Returns:
    float32 [batch, *geometry.out_size, outputs]. An image that is not finite gives NaN.
  """
  op, panels, params = _program(w, jnp.zeros(w.shape[3], jnp.float32), geometry)
  return run(x, encode([op]), (panels, params), op.out_shape)


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


def image_weight_gradient(x: jax.Array, g: jax.Array, geometry: Geometry) -> jax.Array:
  """The gradient of the weights of `image_conv`.

  Args:
    x: float32 [batch, *geometry.size, channels].
    g: float32 [batch, *geometry.out_size, outputs], the result's gradient.
    geometry: the convolution, in one group.

  Returns:
    float32 of `geometry.shape`.
  """
  height, width, channels, outputs = geometry.shape
  op = dataclasses.replace(geometry.op(), format=Format.FLOATS)
  result = jax.ShapeDtypeStruct((height * width * channels, padded_outputs(outputs)), jnp.float32)
  sums = call_kernel("dorefa_float_gradient", result, x, g, encode([op]))
  return sums[:, :outputs].reshape(geometry.shape)


def _panels(rows: jax.Array) -> jax.Array:
  """Weights [rows, outputs] as `dorefa_jax.kernels.packing.pack_weights` lays floats out."""
  panels = []
  for first in range(0, rows.shape[1], PANEL_CHANNELS):
    panel = rows[:, first : first + PANEL_CHANNELS]
    panels.append(jnp.pad(panel, ((0, 0), (0, padded_outputs(panel.shape[1]) - panel.shape[1]))).reshape(-1))
  return jnp.concatenate(panels)
