"""`dorefa_jax.ops.conv_block` with DoReFa-Net's quantizers, as most tests call it."""

from dorefa_jax.methods.quantizers import Quantizers
from dorefa_jax.ops import conv_block as blocks
from dorefa_jax.ops.quantization import Quantization


def shape_of(*, padding="VALID", window=1, kind="clip", epsilon=1e-5, gain=1.0):
  return blocks.BlockShape(padding=padding, window=window, kind=kind, epsilon=epsilon, gain=gain)


def conv_block(x, w, norm, *, bits, key, **options):
  """The result, and the statistics."""
  quantization = Quantization(Quantizers(), {}, bits)
  out, _, statistics = blocks.conv_block(x, w, norm, shape_of(**options), quantization=quantization, key=key)
  return out, statistics


def fits(x, w, *, bits, key, **options):
  return blocks.fits(x, w, shape_of(**options), quantization=Quantization(Quantizers(), {}, bits), key=key)
