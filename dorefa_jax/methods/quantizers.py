"""`Quantizers`: what a layer asks of a method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from dorefa_jax.bits import Bits
from dorefa_jax.methods.dorefa import DorefaActivations, DorefaWeights
from dorefa_jax.methods.method import FromFunction, GradientQuantizer, Quantizer
from dorefa_jax.methods.stochastic_rounding import StochasticRounding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantizers:
  """A method: the quantizers of a layer's weights, activations and gradients, DoReFa-Net's where none is given.

  A pytree: as a module's attribute it is static and has no array leaves; in a call, arrays among its leaves may be
  traced, and one compiled program serves a schedule.

  Attributes:
    weights: a `Quantizer`, or a plain function of (weights, bits), which has no codes.
    activations: a `Quantizer`, its bound included.
    gradients: a `GradientQuantizer`.

  Raises:
    ValueError: a class instead of its instance; layers refuse other objects.

  Example:
    >>> import jax.numpy as jnp
    >>> method = Quantizers(weights=lambda w, bits: jnp.sign(w))
    >>> method.weights(jnp.array([0.5, -2.0]), 1, {}).tolist()
    [1.0, -1.0]
  """

  weights: Quantizer | Callable[[jax.Array, Bits], jax.Array] = DorefaWeights()
  activations: Quantizer = DorefaActivations()
  gradients: GradientQuantizer = StochasticRounding()

  def __post_init__(self) -> None:
    for name in ("weights", "activations"):
      given = getattr(self, name)
      if isinstance(given, type) or (callable(given) and not isinstance(given, Quantizer)):
        if isinstance(given, type):
          raise ValueError(f"{name} must be a quantizer, got the class {given.__name__}: make one, {given.__name__}()")
        object.__setattr__(self, name, FromFunction(given))

  def masked(self, mask: jax.Array) -> Quantizers:
    """The same method with some weights kept at zero.

    Args:
      mask: array of the weights' shape; 0 where a weight is masked.
    """
    weights = self.weights
    assert isinstance(weights, Quantizer)
    return dataclasses.replace(self, weights=weights.masked(mask))


def check_quantizers(quantizers: object) -> Quantizers:
  """Returns `quantizers`, or raises ValueError where it is no `Quantizers`, or one of its parts is no quantizer.

  Example:
    >>> check_quantizers("dorefa")
    Traceback (most recent call last):
      ...
    ValueError: quantizers must be a Quantizers, such as dorefa_jax.methods.dorefa(), got 'dorefa'
  """
  if not isinstance(quantizers, Quantizers):
    raise ValueError(f"quantizers must be a Quantizers, such as dorefa_jax.methods.dorefa(), got {quantizers!r}")
  for name, kind in (("weights", Quantizer), ("activations", Quantizer), ("gradients", GradientQuantizer)):
    if not isinstance(getattr(quantizers, name), kind):
      raise ValueError(f"{name} of quantizers must be a {kind.__name__}, got {getattr(quantizers, name)!r}")
  return quantizers


def dorefa(*, stop_max_gradient: bool = False) -> Quantizers:
  """DoReFa-Net: weights by their sign or tanh form, activations clipped to [0, 1], stochastic gradients.

  Args:
    stop_max_gradient: treat the maximum of the weights' tanh form as a constant in the backward pass.

  Example:
    >>> dorefa() == Quantizers()
    True

  References:
    arXiv 1606.06160.
  """
  return Quantizers(DorefaWeights(stop_max_gradient))
