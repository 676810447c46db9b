"""Integer arithmetic on the processor: products of codes forward and backward, blocks, and float first layers."""

from dorefa_jax.kernels.availability import Availability as Availability
from dorefa_jax.kernels.availability import available as available
from dorefa_jax.kernels.packing import Format as Format
from dorefa_jax.kernels.products import PackedWeights as PackedWeights
from dorefa_jax.kernels.products import conv as conv
from dorefa_jax.kernels.products import dot as dot
from dorefa_jax.kernels.products import pack_weights as pack_weights
