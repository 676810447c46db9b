"""Flax linen layers over quantized products."""

from dorefa_jax.linen.conv_block import ConvBlock as ConvBlock
from dorefa_jax.linen.layers import Conv as Conv
from dorefa_jax.linen.layers import Dense as Dense
from dorefa_jax.linen.layers import DotGeneral as DotGeneral
