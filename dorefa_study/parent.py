"""A trial ends with the sweep that started it, however that sweep ends."""

from __future__ import annotations

import os
import signal
import threading
import time

from dorefa_study.errors import INTERRUPTED

SECONDS_BETWEEN_LOOKS = 0.5


class Parent:
  """Watches the process that started this one, from the first line on; made before anything slow is imported.

  When the parent has ended, this process ends at once where it has nothing to save yet, and is sent SIGTERM,
  which a trial answers by saving, after `let_save`.

  Args:
    process: number of the parent. A parent that has ended before this object is made has another number.
  """

  def __init__(self, process: int):
    self._process = process
    self._can_save = threading.Event()
    if self._is_gone():
      os._exit(INTERRUPTED)
    threading.Thread(target=self._watch, daemon=True).start()

  def let_save(self) -> None:
    """From here on SIGTERM saves what was done: the process is asked, instead of ended."""
    self._can_save.set()

  def _is_gone(self) -> bool:
    return os.getppid() != self._process

  def _watch(self) -> None:
    while not self._is_gone():
      time.sleep(SECONDS_BETWEEN_LOOKS)
    if not self._can_save.is_set():
      os._exit(INTERRUPTED)
    os.kill(os.getpid(), signal.SIGTERM)
