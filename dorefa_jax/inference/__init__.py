"""Packed models: integer weights, codes between layers, thresholds for what lies between."""

from dorefa_jax.inference.file import load as load
from dorefa_jax.inference.flatten import FreezeError as FreezeError
from dorefa_jax.inference.freeze import freeze as freeze
from dorefa_jax.inference.packed import PackedModel as PackedModel
