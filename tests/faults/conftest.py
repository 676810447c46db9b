"""The undisturbed study that all disturbed ones are compared with."""

import pytest

from tests.faults import harness


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
  """The directory of a study that nothing disturbed; copy it before you change it."""
  workdir = tmp_path_factory.mktemp("undisturbed") / "study"
  code, output = harness.run(workdir)
  assert code == 0, output
  return workdir


@pytest.fixture(scope="session")
def undisturbed(finished):
  return harness.snapshot(finished)
