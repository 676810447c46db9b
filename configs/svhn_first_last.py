"""The paper's Table 3: quantizing the first and the last layer too, at (1, 2, 4).

Presets:
  quick (default): model C in minutes on two cores, on SVHN where it is found, else on street_digits.
  paper: models A, B and C, 200 epochs on SVHN train + extra; no stand-in.
"""

import ml_collections
import svhn_grid

PRESETS = ("quick", "paper")


def get_config(preset: str = "quick") -> ml_collections.ConfigDict:
  config = svhn_grid.get_config(preset)
  config.name = "SVHN: first and last layer" + ("" if preset == "paper" else " (quick)")
  config.paper_table = "table3_first_last"
  config.grid.bits = ((1, 2, 4),)
  config.grid.widths = (1.0, 0.5, 0.25) if preset == "paper" else (0.25,)
  config.grid.first_last = ((False, False), (True, False), (False, True), (True, True))
  return config
