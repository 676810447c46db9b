"""One training run on SVHN with the paper's recipe; model A, (1, 2, 4)."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.bits = "1,2,4"
  config.data = ml_collections.ConfigDict(
    {
      "name": "svhn",
      "dir": "",
      "extra": True,
      "download": True,
      "stand_in": False,
      "train_size": 0,
      "test_size": 0,
      "image_size": 40,
    }
  )
  config.model = ml_collections.ConfigDict(
    {
      "width": 1.0,
      "bound": "clip",
      "quantize_first": False,
      "quantize_last": False,
      "dropout_rate": 0.5,
      "backend": "auto",
    }
  )
  config.train = ml_collections.ConfigDict(
    {
      "epochs": 200,
      "batch_size": 128,
      "learning_rate": 1e-3,
      "adam_epsilon": 1e-5,
      "halve_at": (0.5,),
      "last_layer_l2": 1e-7,
      "brightness": 30.0,
      "contrast": (0.5, 1.5),
      "checkpoint_every": 1000,
      "seed": 0,
    }
  )
  return config
