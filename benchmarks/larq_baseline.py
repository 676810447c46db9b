"""Larq Compute Engine beside the other variants: a worker process in another Python, timed in the same rounds.

```sh
python3.11 -m venv larq
larq/bin/pip install larq-compute-engine==0.16.0 larq==0.13.3 tensorflow-cpu==2.15.1 'numpy<2'
taskset -c 1 python -m benchmarks.kernels --larq_python=larq/bin/python
```
"""

from __future__ import annotations

import pathlib
import subprocess


class LarqConvolution:
  """One W1A1 convolution, with "same" padding, floats in and out.

  Args:
    python: the interpreter in which larq-compute-engine is installed.
    batch, size, channels, outputs, kernel: of the convolution.

  Raises:
    RuntimeError: the worker does not start.
  """

  def __init__(self, python: str, batch: int, size: int, channels: int, outputs: int, kernel: int) -> None:
    numbers = [str(value) for value in (batch, size, channels, outputs, kernel)]
    script = pathlib.Path(__file__).with_name("larq_worker.py")
    self._process = subprocess.Popen(
      [python, str(script), *numbers], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    self._answer()

  def measure(self) -> float:
    """Runs one batch; returns its seconds of process time."""
    assert self._process.stdin is not None
    self._process.stdin.write("run\n")
    self._process.stdin.flush()
    return float(self._answer())

  def _answer(self) -> str:
    assert self._process.stdout is not None
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError(f"the larq worker ended with exit code {self._process.wait()}; it says why above")
    return line
