"""What the layers of a network see: histograms, clipped shares, and gradients against their quantization noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dorefa_jax.bits import BitWidths
from dorefa_jax.layer_bits import LayerBits, bits_of
from dorefa_jax.methods.stochastic_rounding import quantize_gradients
from dorefa_study.networks import LinenNetwork, Network, Setting, Variables

BINS = 40
PROBED_IMAGES = 64

Bits = BitWidths | LayerBits | None
Probe = Callable[[Variables, jax.Array, jax.Array, Bits], dict[str, dict[str, jax.Array]]]
"""(variables, images in [0, 1], labels, traced bits or None for static ones) -> by layer "inputs", "gradients", "G",
and "noise", the norm of it."""


def build_probe(network: Network, setting: Setting) -> Probe | None:
  """A compiled function that looks at each convolution and dense layer in a training step without dropout.

  Args:
    network: a network whose layers run one by one (backend "emulated").
    setting: its method, and its bit widths where they are static.

  Returns:
    The function; None of a network whose layers cannot be watched, as nnx modules.
  """
  if not isinstance(network, LinenNetwork):
    return None

  def watched(
    perturbations: Mapping[str, jax.Array], variables: Variables, images: jax.Array, labels: jax.Array, setting: Setting
  ) -> tuple[jax.Array, Any]:
    inputs: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    widths: dict[str, Any] = {}
    active: set[str] = set()  # a layer of ours calls flax's own, under the same name

    def record(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
      layer, name = context.module, "/".join(context.module.path)
      is_layer = isinstance(layer, (nn.Conv, nn.Dense)) and context.method_name == "__call__"
      if not is_layer or name in active:
        return call(*args, **kwargs)
      active.add(name)
      output = call(*args, **kwargs)
      active.remove(name)
      bits = kwargs.get("bits")
      bits = bits_of(getattr(layer, "bits", BitWidths()) if bits is None else bits, layer.path)
      inputs[name], outputs[name], widths[name] = args[0], output, jnp.asarray(bits.gradients, jnp.int32)
      return output + perturbations[name] if name in perturbations else output

    keys = {name: jax.random.key(0) for name in ("gradients", "dropout", "params", "default")}
    with nn.intercept_methods(record):
      logits, _ = network.apply(variables, images, setting, keys)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, (inputs, outputs, widths)

  @jax.jit
  def probe(variables: Variables, images: jax.Array, labels: jax.Array, bits: Bits) -> dict[str, dict[str, jax.Array]]:
    now = setting if bits is None else dataclasses.replace(setting, bits=bits)
    _, (_, outputs, _) = jax.eval_shape(lambda v: watched({}, v, images, labels, now), variables)
    zeros = {name: jnp.zeros(like.shape, like.dtype) for name, like in outputs.items()}
    gradients, (inputs, _, widths) = jax.grad(watched, has_aux=True)(zeros, variables, images, labels, now)
    return {
      name: {
        "inputs": inputs[name],
        "gradients": gradients[name],
        "noise": _noise(gradients[name], widths[name]),
        "G": widths[name],
      }
      for name in zeros
    }

  return probe


def _noise(g: jax.Array, bits: jax.Array) -> jax.Array:
  """The norm of what DoReFa-Net's quantizer adds to a gradient; 0 at 32 bits."""
  _, pull = jax.vjp(lambda y: quantize_gradients(y, jax.random.key(1), bits), jnp.zeros_like(g))
  return jnp.linalg.norm((pull(g)[0] - g).ravel())


def describe(probed: Mapping[str, Mapping[str, Any]], params: Any) -> dict[str, dict[str, Any]]:
  """What a probe found, as a record.

  Args:
    probed: result of the function of `build_probe`.
    params: the network's parameters.

  Returns:
    By layer: "weights", "activations" (its input) and "gradients" (of its output, before they are quantized) as
    histograms {"low", "high", "counts"}; "at_zero" and "at_one", the shares of its input that lie there or beyond;
    "gradient_to_noise", the norm of these gradients over that of their quantization noise, None at G = 32.
  """
  record = {}
  for name, found in probed.items():
    x, g, noise = (np.asarray(found[part]) for part in ("inputs", "gradients", "noise"))
    kernel = params
    for part in name.split("/"):
      kernel = kernel[part]
    record[name] = {
      "weights": histogram(np.asarray(kernel["kernel"])),
      "activations": histogram(x),
      "gradients": histogram(g),
      "at_zero": float(np.mean(x <= 0)),
      "at_one": float(np.mean(x >= 1)),
      "gradient_to_noise": float(np.linalg.norm(g.ravel()) / noise) if noise > 0 else None,
    }
  return record


def histogram(values: np.ndarray) -> dict[str, Any]:
  """A histogram of finite values, as a record.

  Args:
    values: any shape.

  Example:
    >>> histogram(np.array([0.0, 1.0]))["low"], sum(histogram(np.array([0.0, 1.0]))["counts"])
    (0.0, 2)
  """
  finite = values[np.isfinite(values)]
  if finite.size == 0:
    return {"low": 0.0, "high": 0.0, "counts": []}
  counts, edges = np.histogram(finite, BINS)
  return {"low": float(edges[0]), "high": float(edges[-1]), "counts": [int(count) for count in counts]}
