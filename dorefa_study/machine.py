"""Where a result was made: host, device, versions and commit."""

from __future__ import annotations

import functools
import pathlib
import platform
import subprocess
from typing import Any

import flax
import jax

import dorefa_jax


@functools.cache
def describe_machine() -> dict[str, Any]:
  """What a result says of the machine and the code that made it.

  Returns:
    Host, device, versions, and the commit of the checkout, "" where the code is no checkout.

  Example:
    >>> sorted(describe_machine())
    ['commit', 'device', 'host', 'versions']
  """
  device = jax.devices()[0]
  return {
    "host": platform.node(),
    "device": f"{device.platform}: {device.device_kind}",
    "versions": {"dorefa_jax": dorefa_jax.__version__, "jax": jax.__version__, "flax": flax.__version__},
    "commit": _commit(),
  }


def _commit() -> str:
  root = pathlib.Path(__file__).parent.parent
  if not (root / ".git").exists():
    return ""
  try:
    result = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
  except (OSError, subprocess.TimeoutExpired):
    return ""
  return result.stdout.strip()[:12]
