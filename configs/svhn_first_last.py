"""The paper's Table 3: quantizing the first and the last layer too, at (1, 2, 4).

Presets:
  quick (default): model C in minutes on two cores, on SVHN where it is found, else on street_digits.
  paper: models A, B and C, 200 epochs on SVHN train + extra; no stand-in.
"""

import importlib.util
import pathlib

import ml_collections

PRESETS = ("quick", "paper")


def get_config(preset: str = "quick") -> ml_collections.ConfigDict:
  config = _svhn_grid(preset)
  config.name = "SVHN: first and last layer" + ("" if preset == "paper" else " (quick)")
  config.paper_table = "table3_first_last"
  config.grid.bits = ((1, 2, 4),)
  config.grid.widths = (1.0, 0.5, 0.25) if preset == "paper" else (0.25,)
  config.grid.first_last = ((False, False), (True, False), (False, True), (True, True))
  return config


def _svhn_grid(preset: str) -> ml_collections.ConfigDict:
  """The recipe, which differs from Table 1's in nothing but the grid."""
  path = pathlib.Path(__file__).with_name("svhn_grid.py")
  spec = importlib.util.spec_from_file_location("svhn_grid", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(preset)
