"""Flax linen layers over quantized products."""

from dorefa_jax.linen.layers import Conv as Conv
from dorefa_jax.linen.layers import Dense as Dense
