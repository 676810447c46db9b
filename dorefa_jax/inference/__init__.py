"""Packed models: integer weights, codes between layers, thresholds for what lies between."""

from dorefa_jax.inference.compiler.trace import FreezeError as FreezeError
from dorefa_jax.inference.freeze import freeze as freeze
from dorefa_jax.inference.packed_model import PackedModel as PackedModel
from dorefa_jax.inference.packed_model import load as load
