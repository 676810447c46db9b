"""In which order the trials of a sweep run: the longest first, and no two workers compile one program at once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Queue(Generic[T]):
  """Trials that wait.

  The longest start first, so that no long one is left when the others are done. A program that nobody has compiled
  yet is compiled by one worker, while the others take trials of other programs: what is compiled is then on disk.

  Args:
    items: trials.
    costs: how long each will take, in any unit.
    programs: what each needs compiled; equal ones share it.

  Example:
    >>> queue = Queue(["a", "b", "c"], costs=[1, 3, 2], programs=["x", "y", "y"])
    >>> queue.take(), queue.take()
    ('b', 'a')
  """

  def __init__(self, items: Sequence[T], *, costs: Sequence[float], programs: Sequence[Hashable]):
    self._waiting = sorted(zip(items, costs, programs), key=lambda entry: -entry[1])
    self._known: set[Hashable] = set()
    self._begun: dict[int, Hashable] = {}

  def __bool__(self) -> bool:
    return bool(self._waiting)

  @property
  def is_busy(self) -> bool:
    """Whether trials that were taken have not ended yet."""
    return bool(self._begun)

  def take(self) -> T:
    """The trial that a free worker runs next."""
    begun = set(self._begun.values()) - self._known
    index = next((i for i, (_, _, program) in enumerate(self._waiting) if program not in begun), 0)
    item, _, program = self._waiting.pop(index)
    self._begun[id(item)] = program
    return item

  def ended(self, item: T) -> None:
    """Takes note that a trial has ended, so that its program is compiled."""
    program = self._begun.pop(id(item), None)
    if program is not None:
      self._known.add(program)

  def put_back(self, item: T, *, last: bool) -> None:
    """Lets a trial wait again.

    Args:
      item: one that was taken.
      last: behind all others.
    """
    program = self._begun.pop(id(item), None)
    self._waiting.insert(len(self._waiting) if last else 0, (item, 0.0, program))
