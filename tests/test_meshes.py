"""Programs on meshes of devices: what runs on kernels runs there too, or as the emulation does."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("kind", ["explicit", "auto", "manual", "mixed"])
def test_what_runs_on_kernels_runs_on_a_mesh(kind, pytestconfig):
  run = subprocess.run(
    [sys.executable, "-W", "error", "-m", "tests.mesh_program", kind],
    capture_output=True,
    text=True,
    cwd=pytestconfig.rootpath,
    env={**os.environ, "PYTHONPATH": str(pytestconfig.rootpath)},
  )
  assert run.returncode == 0, run.stderr[-3000:]
