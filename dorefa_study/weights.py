"""What the kernels of a network look like, layer by layer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def layer_kernels(params: Any) -> dict[str, jax.Array]:
  """The kernels of a network by layer: arrays of two or more axes, of a name such as "block1/conv".

  Args:
    params: the network's parameters, nested.

  Example:
    >>> list(layer_kernels({"fc": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}))
    ['fc']
  """
  kernels = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if getattr(leaf, "ndim", 0) >= 2:
      name = jax.tree_util.keystr(path, simple=True, separator="/")
      kernels[name.removesuffix("/kernel")] = leaf
  return kernels


def weight_statistics(params: Any) -> dict[str, dict[str, float]]:
  """Root mean square, largest magnitude and share of positive weights of each layer.

  Args:
    params: the network's parameters, nested.

  Example:
    >>> weight_statistics({"fc": {"kernel": np.array([[3.0, -1.0]])}})["fc"]["max"]
    3.0
  """
  statistics = {}
  for layer, leaf in layer_kernels(params).items():
    kernel = np.asarray(leaf)  # NumPy compiles nothing, and its maximum keeps NaN
    values = {"rms": np.sqrt(np.mean(kernel**2)), "max": np.abs(kernel).max(), "positive": np.mean(kernel >= 0)}
    statistics[layer] = {name: float(value) for name, value in values.items()}
  return statistics


def flips(before: Any, after: Any) -> dict[str, jax.Array]:
  """The share of each layer's weights that changed their sign.

  Args:
    before, after: parameters of the network.

  Example:
    >>> kernels = [{"fc": {"kernel": jnp.array([[1.0, x]])}} for x in (2.0, -2.0)]
    >>> float(flips(*kernels)["fc"])
    0.5
  """
  old, new = layer_kernels(before), layer_kernels(after)
  return {layer: jnp.mean((old[layer] >= 0) != (new[layer] >= 0)) for layer in old}
