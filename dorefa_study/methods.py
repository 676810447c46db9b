"""The methods of a study: `config.method` as the library's `Quantizers`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

import dorefa_jax.methods
from dorefa_jax.bits import BitWidths
from dorefa_jax.methods.method import Quantizer, check_quantizer_bits
from dorefa_jax.methods.quantizers import Quantizers, check_quantizers
from dorefa_study.errors import UsageError, did_you_mean
from dorefa_study.objects import check_arguments, import_object, is_path, parse_call

METHODS = tuple(sorted(name for name, value in vars(dorefa_jax.methods).items() if inspect.isfunction(value)))
"""Methods of the library, by name."""


@functools.lru_cache(maxsize=1024)
def build_method(text: str, where: str = "config.method") -> Quantizers:
  """The quantizers that a config names.

  Args:
    text: a method of the library or package.module:function, with arguments where wanted.
    where: name of the field, for messages.

  Returns:
    The quantizers.

  Raises:
    UsageError: no such method, or arguments that it does not take.

  Example:
    >>> type(build_method("fda_bnn(omega=0.2)").weights).__name__
    'FourierSign'
  """
  call = parse_call(text, where)
  if is_path(call.name):
    function = import_object(call.name, where)
  elif call.name in METHODS:
    function = getattr(dorefa_jax.methods, call.name)
  else:
    raise UsageError(
      f"{where} must be package.module:function or of the library, got {call.name!r}{did_you_mean(call.name, METHODS)}"
    )
  if isinstance(function, Quantizers) and not call.arguments:
    return function
  if not callable(function):
    raise UsageError(f"{where}: {call.name} must be a function that returns Quantizers, or a Quantizers")
  check_arguments(function, dict(call.arguments), where)
  try:
    return check_quantizers(function(**dict(call.arguments)))
  except (TypeError, ValueError) as error:
    raise UsageError(f"{where}: {text}: {error}") from None


def check_method(text: str, where: str, settings: Sequence[BitWidths]) -> None:
  """Raises UsageError for a method that is not defined at bit widths.

  Args:
    text: the method.
    where: name of the field, for messages.
    settings: bit widths.

  Example:
    >>> check_method("bnn", "config.method", [BitWidths(1, 1, 4)])
  """
  quantizers: Any = build_method(text, where)
  for bits in settings:
    for name in ("weights", "activations"):
      try:
        check_quantizer_bits(getattr(bits, name), getattr(quantizers, name), name)
      except ValueError as error:
        raise UsageError(f"{where}: {text} at bits {bits}: {error}") from None


def runs_on_kernels(quantizers: Quantizers) -> bool:
  """Whether the kernels compute a method's products, forward and backward: it has codes, and gradients of DoReFa-Net's.

  Args:
    quantizers: the method.

  Example:
    >>> runs_on_kernels(build_method("dorefa")), runs_on_kernels(build_method("fda_bnn(noise=0.1)"))
    (True, False)
  """
  x, key = jax.ShapeDtypeStruct((3, 3, 4, 4), jnp.float32), jax.eval_shape(lambda: jax.random.key(0))
  for part in (quantizers.weights, quantizers.activations):
    assert isinstance(part, Quantizer)
    bits = part.widths[0]
    if jax.eval_shape(lambda key, x, q=part, k=bits: q.codes(x, k, q.init(key, x, k)), key, x) is None:
      return False
  return quantizers.gradients.is_on_kernels


def takes_traced_bits(quantizers: Quantizers) -> bool:
  """Whether one compiled program serves every setting of bit widths.

  Example:
    >>> takes_traced_bits(build_method("dorefa")), takes_traced_bits(build_method("lsq"))
    (True, False)
  """
  return all(getattr(part, "takes_traced", True) for part in (quantizers.weights, quantizers.activations))
