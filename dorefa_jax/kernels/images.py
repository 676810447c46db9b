"""Float convolutions of few channels, as first layers are: XLA's are slow on CPU there, forward and backward."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dorefa_jax.kernels import cpu, winograd
from dorefa_jax.kernels.packing import PANEL_CHANNELS, Format, padded_outputs
from dorefa_jax.kernels.program import encode
from dorefa_jax.kernels.training import Geometry


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
  height, width, channels, outputs = geometry.shape
  op = dataclasses.replace(geometry.op(), format=Format.FLOATS)
  rows = w.reshape(-1, outputs)
  if winograd.fits(width, geometry.strides[1], geometry.dilation[1], geometry.groups, op.out_shape[1]):
    op = dataclasses.replace(op, format=Format.WINOGRAD)
    points = jnp.asarray(winograd.weight_matrix(width), jnp.float32)
    rows = jnp.einsum("pj,hjco->hcpo", points, w, precision="highest").reshape(-1, outputs)
  params = jnp.stack([jnp.ones(outputs, jnp.float32), jnp.zeros(outputs, jnp.float32)])
  params = jnp.pad(params, ((0, 0), (0, padded_outputs(outputs) - outputs)))
  return cpu.run(x, encode([op]), (_panels(rows), params), op.out_shape, path)


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
  call = jax.ffi.ffi_call("dorefa_float_gradient", result, vmap_method="sequential")
  sums = call(x, g, encode([op]), path=np.int64(cpu.path_index(path)))
  return sums[:, :outputs].reshape(geometry.shape)


def _panels(rows: jax.Array) -> jax.Array:
  """Weights [rows, outputs] as `dorefa_jax.kernels.packing.pack_weights` lays floats out."""
  panels = []
  for first in range(0, rows.shape[1], PANEL_CHANNELS):
    panel = rows[:, first : first + PANEL_CHANNELS]
    panels.append(jnp.pad(panel, ((0, 0), (0, padded_outputs(panel.shape[1]) - panel.shape[1]))).reshape(-1))
  return jnp.concatenate(panels)
