"""A sweep over an own folder of pictures, an own nnx network, two learning rates and two methods."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

NETWORK = """
import dorefa_jax as dorefa
from flax import nnx


class Net(nnx.Module):
  def __init__(self, num_classes: int, width: int = 8, *, quantizers=dorefa.Quantizers(), rngs: nnx.Rngs):
    self.stem = nnx.Conv(3, width, (3, 3), strides=2, rngs=rngs)
    self.norm = nnx.BatchNorm(width, rngs=rngs)
    self.middle = dorefa.nnx.Conv(width, width, (3, 3), quantizers=quantizers, rngs=rngs)
    self.head = nnx.Linear(width, num_classes, rngs=rngs)

  def __call__(self, x):
    x = dorefa.bound(self.norm(self.stem(x)))
    return self.head(self.middle(x).mean((1, 2)))
"""
SWEEP = [
  "--config=configs/study.py",
  "--config.name=Colours",
  "--config.data.name=folder",
  "--config.data.dir=pictures",
  "--config.data.image_size=12",
  "--config.data.validation_size=6",
  "--config.model.name=mine:Net",
  "--config.model.width=6",
  "--config.bits=1,1,4",
  "--config.train.epochs=3",
  "--config.train.batch_size=8",
  "--vary.method=dorefa;xnor_net",
  "--vary.learning_rate=1e-3;1e-2",
  "--workdir=study",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  place = tmp_path_factory.mktemp("own")
  (place / "mine.py").write_text(NETWORK)
  rng = np.random.default_rng(0)
  for split, count in (("train", 16), ("test", 6)):
    for index, name in enumerate(("red", "green", "blue")):
      (place / "pictures" / split / name).mkdir(parents=True)
      for number in range(count):
        pixels = rng.integers(0, 120, (14, 18, 3)).astype(np.uint8)
        pixels[..., index] += 120
        Image.fromarray(pixels).save(place / "pictures" / split / name / f"{number}.png")
  return place


def run(place, *arguments):
  return subprocess.run(
    [sys.executable, "-m", "dorefa_study.sweep", *SWEEP, *arguments],
    cwd=place, env=os.environ, capture_output=True, text=True, timeout=300, check=False,
  )  # fmt: skip


def test_it_runs_and_everything_follows_from_what_varies(folder):
  result = run(folder)
  assert result.returncode == 0, result.stdout + result.stderr
  rows = list(csv.DictReader((folder / "study" / "results.csv").read_text().splitlines()))
  assert {(row["method"], row["train.learning_rate"]) for row in rows} == {
    (method, rate) for method in ("dorefa", "xnor_net") for rate in ("0.001", "0.01")
  }
  assert {row["status"] for row in rows} == {"done"}
  assert all(float(row["best_validation_accuracy"]) >= 0 for row in rows)
  record = json.loads((folder / "study" / "data" / "data.json").read_text())
  assert (record["class_names"], record["validation"]) == (["blue", "green", "red"], 6)
  assert (folder / "study" / "report.html").exists()
  assert (folder / "study" / "trials" / rows[0]["trial"] / "trial.html").exists()
  again = run(folder)
  assert again.returncode == 0
  assert "started" not in again.stdout
  other = run(folder, "--config.model.width=7")
  assert other.returncode == 2
  assert "config.model.width: 6 there, 7 here" in other.stderr


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--config.model.name=mine:Nte"], "config.model.name: mine has no 'Nte'; did you mean 'Net'?"),
    (["--config.model.name=yours:Net"], "config.model.name: no module 'yours'; looked in"),
    (["--config.model.depth=3"], "config.model: no field 'depth'"),
    (["--config.data.dir=nothing"], "config.data.dir: no directory 'nothing'"),
    (["--vary.learning_rate=1e-3;fast"], "--vary.learning_rate must be values such as"),
    (["--zip.seed=1;2", "--zip.batch_size=8"], "--zip: paired fields need as many values each"),
  ],
)
def test_what_is_wrong_is_one_line(folder, arguments, message):
  result = run(folder, *arguments, "--workdir=other")
  assert result.returncode == 2, result.stdout
  assert result.stderr.startswith("error: ")
  assert message in result.stderr
  assert result.stderr.count("\n") == 1
  assert not (folder / "other").exists()
