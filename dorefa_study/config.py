"""What a trial is: frozen dataclasses, checked field by field."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

from dorefa_jax.bits import BitWidths
from dorefa_jax.layer_bits import LayerBits
from dorefa_study.data.catalog import check_name
from dorefa_study.errors import UsageError, require
from dorefa_study.groups import later
from dorefa_study.groups import read as read
from dorefa_study.methods import check_method
from dorefa_study.models import NETWORKS, ModelConfig
from dorefa_study.recipes import KINDS, check_optimizer, check_rate_schedule
from dorefa_study.schedules import check_schedule, parse_schedule

LARGEST_IMAGE = 1024


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Which images a trial sees.

  Attributes:
    name: a data set of the catalog, "folder", "npz", "tfds:NAME", or package.module:function.
    dir: a folder with a prepared TFDS directory or the data set's own files; "" looks in the usual places.
    extra: SVHN: mix train and extra, as the paper does.
    download: SVHN: download where no files are found.
    stand_in: use street_digits where SVHN is not found, instead of a download.
    train_size: number of training images, chosen once at random; 0 = all.
    test_size: number of test images, likewise.
    image_size: side in pixels that images are resized to; 0 leaves them as they are.
    validation_size: number of training images held out, by which the best epoch is chosen too.
    test_share: share of the images that are for testing, where the data come without a test split.
    split_seed: seed of the splits.
    load_size: side that images in files are read at, before a step crops or resizes them; 0 = image_size.
    stream: "never" keeps all images in memory, "always" reads them as they are needed, "auto" does what fits.
  """

  name: str = "svhn"
  dir: str = ""
  extra: bool = False
  download: bool = False
  stand_in: bool = False
  train_size: int = 0
  test_size: int = 0
  image_size: int = 40
  validation_size: int = later(0)
  test_share: float = later(0.2)
  split_seed: int = later(0)
  load_size: int = later(0)
  stream: str = later("auto")

  def check(self, where: str) -> None:
    """Raises UsageError for a value that no run can use."""
    check_name(self.name, f"{where}.name")
    for name in ("train_size", "test_size"):
      require(getattr(self, name) >= 0, f"{where}.{name}", "an integer from 0 (0 = all)", getattr(self, name))
    fits = self.image_size == 0 or 8 <= self.image_size <= LARGEST_IMAGE
    require(fits, f"{where}.image_size", f"an integer from 8 to {LARGEST_IMAGE}, or 0", self.image_size)
    reads = self.load_size == 0 or 8 <= self.load_size <= LARGEST_IMAGE
    require(reads, f"{where}.load_size", f"an integer from 8 to {LARGEST_IMAGE}, or 0", self.load_size)
    require(self.validation_size >= 0, f"{where}.validation_size", "an integer from 0", self.validation_size)
    require(0 < self.test_share < 1, f"{where}.test_share", "a number between 0 and 1", self.test_share)
    require(self.stream in ("auto", "always", "never"), f"{where}.stream", "auto, always or never", self.stream)
    require(0 <= self.split_seed < 2**31, f"{where}.split_seed", "an integer from 0 to 2^31 - 1", self.split_seed)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """How a trial trains.

  Attributes:
    epochs: passes over the training images.
    batch_size: images a step; what is left of an epoch is dropped.
    learning_rate: largest learning rate.
    adam_epsilon: epsilon of Adam and AdamW.
    halve_at: fractions of the training after which the learning rate is halved, where the schedule is "halve".
    last_layer_l2: the loss gains half of this times the squared weights of the last layer.
    brightness: jitter, added to all pixels of an image, uniform in +- this, of 255.
    contrast: jitter, factor about each channel's mean, uniform between these two.
    checkpoint_every: steps between checkpoints; there is one at the end of every epoch too.
    seed: seed of initialization, batches and all noise.
    optimizer: "adam", "adamw", "sgd(momentum=0.9, nesterov=True)", "lion", "muon", with arguments where wanted.
    schedule: of the learning rate: "halve", "constant", "cosine", "linear", "step(at=(0.5, 0.75), factor=0.1)".
    warmup: epochs in which the learning rate rises linearly from 0.
    weight_decay: decay of weights: decoupled for adamw, lion and muon, added to gradients (L2) for adam and sgd.
    decay_kinds: kinds of parameters that decay: "kernel", "bias", "norm", "quantizer".
    clip_norm: largest norm of all gradients together; 0 = any.
    clip_weights: kernels are clipped to +- this after each step, as BNN asks for; 0 = not.
    label_smoothing: share of the labels that is spread over all classes.
    ema: decay of a moving average of the parameters, which is what is tested; 0 = none.
    pad_crop: pixels of padding around images, of which random crops are taken.
    flip: mirror images left to right at random.
    resized_crop: smallest and largest share of an image's area that a random crop covers before it is resized; () = no
      crops.
    init_from: where parameters start from: directory of a trial or of an Orbax checkpoint, or a msgpack file of flax.
    init_except: a regular expression; parameters whose paths it is found in start fresh all the same.
    distill_from: directory of a trial, whose logits are learned too.
    distill_weight: share of the loss that is the distance to those logits.
    distill_temperature: divides both logits before they are compared.
    probe: record at the end what each layer sees: histograms, clipped shares, gradients against their noise.
  """

  epochs: int = 200
  batch_size: int = 128
  learning_rate: float = 1e-3
  adam_epsilon: float = 1e-5
  halve_at: tuple[float, ...] = (0.5,)
  last_layer_l2: float = 1e-7
  brightness: float = 30.0
  contrast: tuple[float, ...] = (0.5, 1.5)
  checkpoint_every: int = 1000
  seed: int = 0
  optimizer: str = later("adam")
  schedule: str = later("halve")
  warmup: float = later(0.0)
  weight_decay: float = later(0.0)
  decay_kinds: tuple[str, ...] = later(("kernel",))
  clip_norm: float = later(0.0)
  clip_weights: float = later(0.0)
  label_smoothing: float = later(0.0)
  ema: float = later(0.0)
  pad_crop: int = later(0)
  flip: bool = later(False)
  resized_crop: tuple[float, ...] = later(())
  init_from: str = later("")
  init_except: str = later("")
  distill_from: str = later("")
  distill_weight: float = later(0.5)
  distill_temperature: float = later(1.0)
  probe: bool = later(False)

  def check(self, where: str) -> None:
    """Raises UsageError for a value that no run can use."""
    for name in ("epochs", "batch_size", "checkpoint_every"):
      require(getattr(self, name) >= 1, f"{where}.{name}", "an integer from 1", getattr(self, name))
      require(getattr(self, name) < 2**31, f"{where}.{name}", "an integer below 2^31", getattr(self, name))
    for name in ("learning_rate", "adam_epsilon", "distill_temperature"):
      require(0 < getattr(self, name) < math.inf, f"{where}.{name}", "a number above 0", getattr(self, name))
    for name in ("last_layer_l2", "warmup", "weight_decay", "clip_norm", "clip_weights"):
      require(0 <= getattr(self, name) < math.inf, f"{where}.{name}", "a number from 0", getattr(self, name))
    for name in ("label_smoothing", "ema"):
      require(0 <= getattr(self, name) < 1, f"{where}.{name}", "a number from 0, below 1", getattr(self, name))
    require(all(0 <= f <= 1 for f in self.halve_at), f"{where}.halve_at", "fractions from 0 to 1", self.halve_at)
    require(0 <= self.brightness <= 255, f"{where}.brightness", "a number from 0 to 255", self.brightness)
    ordered = len(self.contrast) == 2 and 0 <= self.contrast[0] <= self.contrast[1] < math.inf
    require(ordered, f"{where}.contrast", "two numbers from 0, the smaller one first", self.contrast)
    require(0 <= self.seed < 2**31, f"{where}.seed", "an integer from 0 to 2^31 - 1", self.seed)
    for kind in self.decay_kinds:
      require(kind in KINDS, f"{where}.decay_kinds", f"of {', '.join(KINDS)}", kind)
    require(0 <= self.pad_crop <= 64, f"{where}.pad_crop", "an integer from 0 to 64", self.pad_crop)
    area = self.resized_crop
    covers = not area or (len(area) == 2 and 0 < area[0] <= area[1] <= 1)
    require(covers, f"{where}.resized_crop", "two shares of an area, the smaller one first, or ()", area)
    require(0 <= self.distill_weight <= 1, f"{where}.distill_weight", "a number from 0 to 1", self.distill_weight)
    try:
      re.compile(self.init_except)
    except re.error as error:
      raise UsageError(f"{where}.init_except must be a regular expression, got {self.init_except!r}: {error}") from None
    check_optimizer(self.optimizer, f"{where}.optimizer")
    check_rate_schedule(self.schedule, f"{where}.schedule")


@dataclasses.dataclass(frozen=True)
class TrialConfig:
  """One training run, a pure function of this.

  Attributes:
    bits: "W,A,G".
    data: which images.
    model: which network.
    train: how.
    method: a method of the library, with arguments where wanted, such as "lsq" or "fda_bnn(omega=0.2)"; or
      package.module:function that makes `Quantizers`.
    rules: bit widths of some layers, "PATTERN=W,A,G PATTERN=W,A,G": the first that matches a layer's path counts.
    schedule: what changes while a trial trains, "bits=32,32,32@0.9 terms=9..18 noise=0.1..0:cosine".
  """

  bits: str = "32,32,32"
  data: DataConfig = DataConfig()
  model: ModelConfig = ModelConfig()
  train: TrainConfig = TrainConfig()
  method: str = later("dorefa")
  rules: str = later("")
  schedule: str = later("")

  def check(self, where: str) -> None:
    """Raises UsageError for a value that no run can use."""
    bits = parse_bits(self.bits, f"{where}.bits")
    rules = parse_rules(self.rules, f"{where}.rules", bits)
    check_method(self.method, f"{where}.method", [bits, *(widths for _, widths in rules.rules)])
    check_schedule(self.schedule, f"{where}.schedule", self.method)
    if self.model.name in NETWORKS and self.data.image_size:
      smallest = NETWORKS[self.model.name].min_size
      fits = self.data.image_size >= smallest
      require(
        fits, f"{where}.data.image_size", f"an integer from {smallest} for {self.model.name}", self.data.image_size
      )


def phase(config: TrialConfig, progress: float) -> TrialConfig:
  """A trial as it is at a progress from 0 to 1: with the bit widths that its schedule has reached, for all layers.

  Example:
    >>> phase(TrialConfig("1,2,4", schedule="bits=32,32,32@0.9"), 0.95).bits
    '32,32,32'
  """
  start = parse_bits(config.bits, "config.bits")
  bits = parse_schedule(config.schedule, "config.schedule").bits_at(progress, start)
  return config if bits is start else dataclasses.replace(config, bits=str(bits), rules="")


def parse_bits(value: Any, where: str) -> BitWidths:
  """Bit widths from "W,A,G" or three integers; UsageError names the field.

  Example:
    >>> parse_bits((1, 2, 4), "config.bits")
    BitWidths(weights=1, activations=2, gradients=4)
  """
  if not isinstance(value, str) and not (isinstance(value, (tuple, list)) and len(value) == 3):
    raise UsageError(f"{where} must be three integers (weights, activations, gradients) each, got {value!r}")
  try:
    return BitWidths.parse(value) if isinstance(value, str) else BitWidths(*value)
  except ValueError as error:
    raise UsageError(f"{where}: {error}") from None


def parse_rules(text: str, where: str, default: BitWidths = BitWidths()) -> LayerBits:
  """Bit widths by layer; UsageError names the field.

  Example:
    >>> str(parse_rules("fc=8,8,32", "config.rules").of("fc"))
    '8,8,32'
  """
  try:
    return LayerBits.parse(text, default)
  except ValueError as error:
    raise UsageError(f"{where}: {error}") from None
