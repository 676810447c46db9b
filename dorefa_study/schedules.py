"""What changes while a trial trains: bit widths and the numbers of a method, as functions of progress."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from typing import Any

from dorefa_jax.bits import BitWidths
from dorefa_jax.methods.quantizers import Quantizers
from dorefa_study.errors import UsageError, did_you_mean
from dorefa_study.methods import build_method, check_method

PARTS = ("weights", "activations", "gradients")
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RAMP = re.compile(rf"(?P<start>{NUMBER})\.\.(?P<end>{NUMBER})(?::(?P<shape>linear|cosine))?")
WANTED = "entries such as bits=32,32,32@0.9, noise=0.1..0:cosine or terms=9..18, with spaces between"


@dataclasses.dataclass(frozen=True)
class Ramp:
  """A number that goes from one value to another over the training.

  Attributes:
    start, end: its values.
    is_cosine: half a cosine, and not a line.
  """

  start: float
  end: float
  is_cosine: bool = False

  def at(self, progress: float) -> float:
    """The value at a progress from 0 to 1.

    Example:
      >>> Ramp(9.0, 18.0).at(0.5)
      13.5
    """
    share = (1 - math.cos(math.pi * progress)) / 2 if self.is_cosine else progress
    return self.start + (self.end - self.start) * share


@dataclasses.dataclass(frozen=True)
class Schedule:
  """What changes while a trial trains.

  Attributes:
    bits: (progress, widths): from that share of the training on these bit widths count.
    numbers: (field of a method's quantizers, how it changes).
  """

  bits: tuple[tuple[float, BitWidths], ...] = ()
  numbers: tuple[tuple[str, Ramp], ...] = ()

  def bits_at(self, progress: float, start: BitWidths) -> BitWidths:
    """The bit widths at a progress from 0 to 1.

    Example:
      >>> schedule = parse_schedule("bits=32,32,32@0.9", "config.schedule")
      >>> str(schedule.bits_at(0.5, BitWidths(1, 2, 4))), str(schedule.bits_at(0.9, BitWidths(1, 2, 4)))
      ('1,2,4', '32,32,32')
    """
    return next((bits for begin, bits in reversed(self.bits) if progress >= begin), start)

  def numbers_at(self, progress: float) -> dict[str, float]:
    """The numbers at a progress from 0 to 1, by field."""
    return {field: ramp.at(progress) for field, ramp in self.numbers}


@functools.lru_cache(maxsize=1024)
def parse_schedule(text: str, where: str) -> Schedule:
  """Reads "bits=W,A,G@SHARE FIELD=START..END FIELD=START..END:cosine".

  Args:
    text: entries with spaces between; "" for nothing that changes.
    where: name of the field, for messages.

  Raises:
    UsageError: the text is something else.

  Example:
    >>> parse_schedule("terms=9..18", "config.schedule").numbers_at(1.0)
    {'terms': 18.0}
  """
  bits, numbers = [], {}
  for entry in text.split():
    field, _, value = entry.partition("=")
    widths, at, share = value.partition("@")
    ramp = RAMP.fullmatch(value)
    try:
      if field == "bits" and at and 0 <= float(share) <= 1:
        bits.append((float(share), BitWidths.parse(widths)))
      elif field != "bits" and ramp and field not in numbers:
        numbers[field] = Ramp(float(ramp["start"]), float(ramp["end"]), ramp["shape"] == "cosine")
      else:
        raise ValueError(f"got {entry!r}")
    except ValueError as error:
      raise UsageError(f"{where} must be {WANTED}; {error}") from None
  return Schedule(tuple(sorted(bits, key=lambda entry: entry[0])), tuple(sorted(numbers.items())))


def check_schedule(text: str, where: str, method: str) -> None:
  """Raises UsageError for a schedule that is none, or of a field that a method's quantizers do not have.

  Example:
    >>> check_schedule("terms=9..18", "config.schedule", "fda_bnn")
  """
  schedule = parse_schedule(text, where)
  for field, _ in schedule.numbers:
    known = schedulable(build_method(method))
    if field not in known and field not in {name.partition(".")[2] for name in known}:
      raise UsageError(f"{where}: {method} has no number {field!r} that may change" + did_you_mean(field, known))
  for _, bits in schedule.bits:
    check_method(method, where, [bits])


def schedulable(quantizers: Quantizers) -> list[str]:
  """The numbers of a method that may change while a network trains, "PART.FIELD".

  Example:
    >>> schedulable(build_method("fda_bnn"))
    ['weights.terms', 'weights.noise', 'activations.terms', 'activations.noise']
  """
  return [
    f"{part}.{field.name}"
    for part in PARTS
    if dataclasses.is_dataclass(getattr(quantizers, part))
    for field in dataclasses.fields(getattr(quantizers, part))
    if not field.metadata.get("static") and isinstance(getattr(getattr(quantizers, part), field.name), (int, float))
  ]


def with_numbers(quantizers: Quantizers, numbers: dict[str, Any]) -> Quantizers:
  """A method with some of its numbers replaced.

  Args:
    quantizers: the method.
    numbers: by field, "FIELD" of every part that has it or "PART.FIELD"; floats, or arrays that may be traced.

  Example:
    >>> with_numbers(build_method("fda_bnn"), {"terms": 18.0}).weights.terms
    18.0
  """
  for name in schedulable(quantizers):
    part, _, field = name.partition(".")
    if name in numbers or field in numbers:
      changed = dataclasses.replace(getattr(quantizers, part), **{field: numbers.get(name, numbers.get(field))})
      quantizers = dataclasses.replace(quantizers, **{part: changed})
  return quantizers
