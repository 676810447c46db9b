"""Packs a trained trial for inference: `python -m experiments.freeze --workdir=DIR`.

Writes WORKDIR/model.dorefa, and prints its size, the accuracy of the model before and after on the
trial's test images (or on a .mat file), on how many of them the two disagree, and the time that one
image and a batch take. `python -m experiments.predict` reads pictures with the file.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags as absl_flags

import dorefa_jax
from dorefa_jax.bits import BitWidths
from dorefa_jax.layer_bits import LayerBits
from dorefa_study.cli import define_path, new_flags, parse
from dorefa_study.config import TrialConfig, parse_bits
from dorefa_study.data.dataset import DataError, Dataset, Split
from dorefa_study.data.images import resize, to_unit
from dorefa_study.data.loading import load_dataset
from dorefa_study.data.streamed import read_all
from dorefa_study.data.svhn import read_mat
from dorefa_study.errors import UsageError, one_line_errors
from dorefa_study.networks import LinenNetwork, NnxNetwork, Setting
from dorefa_study.records import read_object
from dorefa_study.restore import Restored, require_channels, restore_trial
from dorefa_study.results import DATA

BATCH = 128
ROUNDS = 15
TIE = 1e-4
"""Two logits that differ by less, relative to the largest, are a tie within float rounding."""


@dataclasses.dataclass(frozen=True)
class Agreement:
  """How two models read the same images.

  Attributes:
    before, after: accuracies.
    different: images that they read differently.
    ties: those of them whose two readings are a tie in the first model.
    images: all of them.
  """

  before: float
  after: float
  different: int
  ties: int
  images: int


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command.

  Args:
    argv: arguments, without the program's name.

  Returns:
    0, or 2 for wrong use.
  """
  values = new_flags()
  define_path("workdir", None, "of a trial, finished or not", flag_values=values, required=True)
  define_path("output", None, "the file; WORKDIR/model.dorefa where left out", flag_values=values)
  absl_flags.DEFINE_string("bits", "", "W,A,G instead of the trial's own; G has no meaning here", values)
  define_path("mat", None, "a file of SVHN's cropped digits, to test on instead", flag_values=values)
  flags = parse(values, sys.argv[1:] if argv is None else argv, __doc__ or "").flags
  directory, output = flags.workdir, flags.output or flags.workdir / "model.dorefa"
  if not directory.is_dir():
    raise UsageError(f"--workdir: no directory {str(directory)!r}")
  if (output.exists() and not output.is_file()) or not output.parent.is_dir():
    raise UsageError(f"--output: a file in a directory that exists, got {str(output)!r}")
  if flags.mat and not flags.mat.is_file():
    raise UsageError(f"--mat: no file {str(flags.mat)!r}")
  trained = restore_trial(directory)
  config, channels = trained.config, trained.shape[2]
  bits = parse_bits(flags.bits, "--bits") if flags.bits else trained.setting.bits
  try:
    split = read_mat(flags.mat) if flags.mat else _own_images(config, directory)
  except DataError as error:  # a trial that was trained elsewhere
    if flags.mat:
      raise
    split, missing = None, str(error)
  if split is not None:
    require_channels(split, channels, f"--mat: {flags.mat}" if flags.mat else "config.data")
  size = trained.input_shape[:2]
  model, variables, bits_of_call = _module(trained, bits)
  try:
    packed = dorefa_jax.freeze(model, variables, bits=bits_of_call, input_shape=trained.input_shape)
  except ValueError as error:
    raise UsageError(f"bits {bits}: {error}") from error
  packed.save(output)

  setting = Setting(bits, trained.setting.quantizers)
  emulated = jax.jit(lambda images: trained.network_at("emulated").apply(trained.variables, images, setting)[0])
  file_size = output.stat().st_size
  floats = sum(leaf.size * 4 for leaf in jax.tree.leaves(trained.variables["params"]))
  print(packed.summary())
  print(
    f"\n{output}: {file_size:,} bytes, {floats / file_size:.1f} times smaller than the float32 parameters ({floats:,})"
  )
  if split is None:
    print(f"accuracy is not compared, there are no test images: {missing}")
  else:
    print(_describe(compare(emulated, packed, split, size)))
  kernels = dorefa_jax.kernels.available()
  print(f"kernels: {kernels.path} ({kernels.reason})")
  for batch in (1, BATCH):
    images = jnp.zeros((batch, *packed.input_shape), jnp.float32)
    before, after = (median_ms(functools.partial(run, images)) for run in (emulated, packed))
    print(f"batch {batch}: {before:.2f} ms emulated, {after:.2f} ms packed, {before / after:.1f} times faster")
  return 0


def _module(trained: Restored, bits: BitWidths | LayerBits) -> tuple[Any, Any, BitWidths | LayerBits | None]:
  """What is frozen: module, variables, and bit widths for its call, None where it takes none."""
  network = trained.network_at("emulated")
  if isinstance(network, NnxNetwork):
    return network.module(trained.variables, Setting(bits, trained.setting.quantizers)), None, None
  assert isinstance(network, LinenNetwork)
  return network.module, trained.variables, bits if network.takes_bits else None


def _own_images(config: TrialConfig, directory: pathlib.Path) -> Split:
  """The test images of a trial, from files that are here.

  Raises:
    DataError: they are not here, or other images are in their place.
  """
  dataset = load_dataset(dataclasses.replace(config.data, download=False))
  trained_on = read_object(directory / DATA)
  if trained_on is None:
    raise DataError(f"{directory / DATA}, which says what images the trial began on, is missing or damaged")
  if trained_on.get("digest") != dataset.digest():
    raise DataError(
      f"the trial began on {trained_on.get('name')} ({trained_on.get('source')}), and what is found here, "
      f"{dataset.name} ({dataset.source}), holds other images"
    )
  return dataset.test if isinstance(dataset, Dataset) else read_all(dataset.test)


def _describe(agreement: Agreement) -> str:
  return (
    f"accuracy on {agreement.images} test images: {agreement.before:.2%} before, {agreement.after:.2%} after; "
    f"{agreement.different} read differently, {agreement.ties} of them ties within float rounding"
  )


def compare(
  before: Callable[[jax.Array], jax.Array],
  after: Callable[[jax.Array], jax.Array],
  split: Split,
  size: int | tuple[int, int],
) -> Agreement:
  """Reads all images with both models.

  Args:
    before, after: images to logits.
    split: images and labels.
    size: height and width of the models' images.

  Returns:
    How they agree.
  """
  prepare = jax.jit(lambda images: to_unit(resize(images, size)))
  right_before = right_after = different = ties = 0
  total = len(split.labels)
  for start in range(0, total, BATCH):
    images = np.asarray(split.images[start : start + BATCH])
    labels = np.asarray(split.labels[start : start + BATCH])
    count = len(images)
    padded = np.concatenate([images, np.zeros((BATCH - count, *images.shape[1:]), images.dtype)])
    inputs = prepare(jnp.asarray(padded))
    first, second = np.asarray(before(inputs))[:count], np.asarray(after(inputs))[:count]
    read_before, read_after = first.argmax(1), second.argmax(1)
    right_before += int((read_before == labels).sum())
    right_after += int((read_after == labels).sum())
    rows = np.flatnonzero(read_before != read_after)
    gap = np.abs(first[rows, read_before[rows]] - first[rows, read_after[rows]])
    different += len(rows)
    ties += int((gap <= TIE * np.abs(first).max()).sum())
  return Agreement(right_before / total, right_after / total, different, ties, total)


def median_ms(run: Callable[[], jax.Array]) -> float:
  """Milliseconds of the median call, after one that compiles.

  Example:
    >>> median_ms(lambda: jnp.zeros(1)) > 0
    True
  """
  jax.block_until_ready(run())
  times = []
  for _ in range(ROUNDS):
    start = time.perf_counter()
    jax.block_until_ready(run())
    times.append(time.perf_counter() - start)
  return statistics.median(times) * 1e3


if __name__ == "__main__":
  sys.exit(main())
