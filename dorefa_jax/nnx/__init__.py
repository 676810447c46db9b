"""Flax nnx layers over quantized products."""

from dorefa_jax.nnx.assign_bits import assign_bits as assign_bits
from dorefa_jax.nnx.conv_block import ConvBlock as ConvBlock
from dorefa_jax.nnx.layers import Conv as Conv
from dorefa_jax.nnx.layers import Linear as Linear
from dorefa_jax.nnx.state import QuantizerParam as QuantizerParam
from dorefa_jax.nnx.state import initialize_quantizers as initialize_quantizers
