"""Flax nnx layers over quantized products."""

from dorefa_jax.nnx.layers import Conv as Conv
from dorefa_jax.nnx.layers import Linear as Linear
