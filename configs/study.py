r"""A blank study, which takes everything from its overrides: data, network, method, recipe, and what varies.

A folder of pictures, two methods, two learning rates, three seeds:

  python -m experiments.sweep --config=configs/study.py --config.data.name=folder --config.data.dir=pictures \\
    --config.bits=1,1,4 --vary.method='dorefa;bnn' --vary.learning_rate='1e-3;3e-3' --vary.seed='0;1;2'

A network of your own: --config.model.name=my_package.nets:Net --config.model.depth=20. `--helpfull` lists all fields.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.name = "Study"
  config.bits = "32,32,32"
  config.method = "dorefa"
  config.grid = ml_collections.ConfigDict({"widths": ()})
  config.data = ml_collections.ConfigDict({"name": "street_digits"})
  config.train = ml_collections.ConfigDict(
    {
      "epochs": 10,
      "batch_size": 64,
      "learning_rate": 2e-3,
      "schedule": "cosine",
      "last_layer_l2": 1e-7,
      "brightness": 0.0,
      "contrast": (1.0, 1.0),
    }
  )
  return config
