"""Reads pictures with a packed model: `python -m experiments.predict model.dorefa image.png [more.png ...]`."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

import dorefa_jax
from dorefa_study.cli import new_flags, parse
from dorefa_study.data.images import resize, to_unit
from dorefa_study.data.pictures import FORMATS, MAX_PIXELS
from dorefa_study.data.pictures import read_picture as read_picture
from dorefa_study.errors import UsageError, one_line_errors
from dorefa_study.paths import PathError, expand

SHOWN = 3
WORDS = f"MODEL.dorefa PICTURE [PICTURE ...]   ({', '.join(FORMATS)}; up to {MAX_PIXELS:,} pixels)"
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "bad_alloc")
"""What XLA, and the kernels below it, say where memory ends."""


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command.

  Args:
    argv: arguments, without the program's name.

  Returns:
    0, or 2 for wrong use.
  """
  line = parse(new_flags(), sys.argv[1:] if argv is None else argv, __doc__ or "", words=WORDS)
  if len(line.words) < 2:
    raise UsageError(f"needs a model and at least one picture: {WORDS} (see --help)")
  model, *images = line.words
  try:
    _predict(model, images)
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    if not isinstance(error, MemoryError) and not any(word in str(error) for word in OUT_OF_MEMORY):
      raise
    raise UsageError(f"there is not enough memory to run {model} on {len(images)} pictures") from error
  return 0


def _predict(model: str, images: Sequence[str]) -> None:
  packed = _load(_expanded(model))
  if len(packed.input_shape) != 3 or packed.input_shape[0] != packed.input_shape[1]:
    raise UsageError(f"{model} takes inputs of shape {packed.input_shape}, no square pictures")
  size, _, channels = packed.input_shape
  if channels not in (1, 3):
    raise UsageError(f"{model} takes pictures of {channels} channels, not of 1 or 3")
  # All pictures are read before the first is classified, so that a wrong name is an error and not a cut-off list.
  pictures = [np.asarray(_to_size(read_picture(_expanded(name), channels), size)) for name in images]
  for name, picture in zip(images, pictures):
    logits = packed(to_unit(jnp.asarray(picture)))[0]
    if logits.ndim != 1:
      raise UsageError(f"{model} gives an array of shape {logits.shape} for a picture, not one number a class")
    probabilities = np.asarray(jax.nn.softmax(logits))
    best = np.argsort(-probabilities)[:SHOWN]
    print(f"{name}: class {best[0]}  (" + ", ".join(f"{index}: {probabilities[index]:.1%}" for index in best) + ")")


def _expanded(name: str) -> pathlib.Path:
  try:
    return expand(name)
  except PathError as error:
    raise UsageError(str(error)) from error


def _to_size(picture: np.ndarray, size: int) -> jax.Array:
  """A batch of one, resized."""
  return resize(jnp.asarray(picture)[None], size)


def _load(path: pathlib.Path) -> dorefa_jax.PackedModel:
  try:
    return dorefa_jax.load(path)
  except OSError as error:
    raise UsageError(f"{path} cannot be read: {error.strerror}") from error
  except ValueError as error:
    raise UsageError(str(error)) from error


if __name__ == "__main__":
  sys.exit(main())
