"""DoReFa-Net in JAX: networks with low-bit weights, activations and gradients."""

from dorefa_jax import kernels as kernels
from dorefa_jax import linen as linen
from dorefa_jax import methods as methods
from dorefa_jax import models as models
from dorefa_jax import nnx as nnx
from dorefa_jax import testing as testing
from dorefa_jax._version import __version__ as __version__
from dorefa_jax.bits import BitWidths as BitWidths
from dorefa_jax.cost import complexity as complexity
from dorefa_jax.cost import summary as summary
from dorefa_jax.inference import FreezeError as FreezeError
from dorefa_jax.inference import PackedModel as PackedModel
from dorefa_jax.inference import freeze as freeze
from dorefa_jax.inference import load as load
from dorefa_jax.layer_bits import LayerBits as LayerBits
from dorefa_jax.methods.bounding import bound as bound
from dorefa_jax.methods.dorefa import quantize_activations as quantize_activations
from dorefa_jax.methods.dorefa import quantize_weights as quantize_weights
from dorefa_jax.methods.grids import quantize_k as quantize_k
from dorefa_jax.methods.method import Affine as Affine
from dorefa_jax.methods.method import GradientQuantizer as GradientQuantizer
from dorefa_jax.methods.method import Quantizer as Quantizer
from dorefa_jax.methods.quantizers import Quantizers as Quantizers
from dorefa_jax.methods.stochastic_rounding import quantize_gradients as quantize_gradients
