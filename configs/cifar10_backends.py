"""Training on integer kernels against the emulation: five seeds each on CIFAR-10, model D at (1, 2, 4).

The recipe is that of cifar10_grid.py. Needs a prepared TFDS directory: --config.data.dir=DIRECTORY.
"""

import cifar10_grid
import ml_collections


def get_config() -> ml_collections.ConfigDict:
  config = cifar10_grid.get_config()
  config.name = "CIFAR-10: integer kernels against the emulation"
  config.grid.bits = ((1, 2, 4),)
  config.grid.widths = (0.125,)
  config.grid.backends = ("emulated", "integer")
  config.grid.seeds = (0, 1, 2, 3, 4)
  return config
