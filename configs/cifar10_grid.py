"""Bit widths against channel widths on CIFAR-10: the study on other data, with real images.

The network is the paper's SVHN network, at widths 1/4 and 1/8; images are resized to 40x40. A few
epochs: it compares settings, it is not a recipe for CIFAR-10. Needs a prepared TFDS directory:
--config.data.dir=DIRECTORY.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.name = "CIFAR-10: bit widths against channel widths"
  config.paper_table = ""
  config.grid = ml_collections.ConfigDict(
    {
      "bits": ((1, 1, 4), (1, 2, 4), (1, 2, 32), (1, 4, 8), (8, 8, 8), (32, 32, 32)),
      "widths": (0.25, 0.125),
      "first_last": ((False, False),),
      "backends": (),
      "seeds": (0,),
    }
  )
  config.data = ml_collections.ConfigDict(
    {"name": "cifar10", "dir": "", "train_size": 0, "test_size": 0, "image_size": 40}
  )
  config.model = ml_collections.ConfigDict({"bound": "clip", "dropout_rate": 0.0, "backend": "auto"})
  config.train = ml_collections.ConfigDict(
    {
      "epochs": 5,
      "batch_size": 64,
      "learning_rate": 2e-3,
      "adam_epsilon": 1e-5,
      "halve_at": (0.6, 0.8),
      "last_layer_l2": 1e-7,
      "brightness": 0.0,
      "contrast": (1.0, 1.0),
      "checkpoint_every": 1000,
    }
  )
  return config
