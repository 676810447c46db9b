"""The paper's Table 1: bit widths against channel widths on SVHN.

Presets:
  quick (default): 2 widths x 4 settings in minutes on two cores. Uses SVHN where it is found, else
    the generated street_digits. Its recipe is shortened: no jitter and no dropout, which small
    networks need many epochs to profit from, batches of 32 and twice the learning rate, along a
    cosine. docs/results/quick.md says what was tried.
  paper: all 20 settings x models A-D, 200 epochs on SVHN train + extra; no stand-in.
"""

import ml_collections

PRESETS = ("quick", "paper")

TABLE_1 = (
  (1, 1, 2), (1, 1, 4), (1, 1, 8), (1, 1, 32), (1, 2, 2), (1, 2, 3), (1, 2, 4), (2, 1, 2), (2, 1, 4), (1, 2, 8),
  (1, 2, 32), (1, 3, 3), (1, 3, 4), (1, 3, 6), (1, 4, 2), (1, 4, 4), (1, 4, 8), (2, 2, 2), (8, 8, 8), (32, 32, 32),
)  # fmt: skip


def get_config(preset: str = "quick") -> ml_collections.ConfigDict:
  paper = preset == "paper"
  config = ml_collections.ConfigDict()
  config.name = "SVHN: bit widths against channel widths" + ("" if paper else " (quick)")
  config.paper_table = "table1_svhn"
  config.grid = ml_collections.ConfigDict(
    {
      "bits": TABLE_1 if paper else ((1, 2, 4), (1, 3, 6), (1, 4, 8), (32, 32, 32)),
      "widths": (1.0, 0.5, 0.25, 0.125) if paper else (0.25, 0.125),
      "first_last": ((False, False),),
      "backends": (),
      "seeds": (0,),
    }
  )
  config.data = ml_collections.ConfigDict(
    {
      "name": "svhn",
      "dir": "",
      "extra": paper,
      "download": paper,
      "stand_in": not paper,
      "train_size": 0 if paper else 12_800,
      "test_size": 0 if paper else 2_000,
      "image_size": 40,
    }
  )
  config.model = ml_collections.ConfigDict({"bound": "clip", "dropout_rate": 0.5 if paper else 0.0, "backend": "auto"})
  config.train = ml_collections.ConfigDict(
    {
      "epochs": 200 if paper else 12,
      "batch_size": 128 if paper else 32,
      "learning_rate": 1e-3 if paper else 2e-3,
      "adam_epsilon": 1e-5,
      "schedule": "halve" if paper else "cosine",
      "halve_at": (0.5,),
      "last_layer_l2": 1e-7,
      "brightness": 30.0 if paper else 0.0,
      "contrast": (0.5, 1.5) if paper else (1.0, 1.0),
      "checkpoint_every": 1000,
      "probe": not paper,
    }
  )
  return config
