"""Quantized products and blocks as functions, on the backend that is chosen here."""

from dorefa_jax.methods.stochastic_rounding import GRADIENT_STREAM as GRADIENT_STREAM
from dorefa_jax.ops.backends import BACKENDS as BACKENDS
from dorefa_jax.ops.backends import Backend as Backend
from dorefa_jax.ops.backends import check_backend as check_backend
from dorefa_jax.ops.products import conv_general_dilated as conv_general_dilated
from dorefa_jax.ops.products import dot_general as dot_general
