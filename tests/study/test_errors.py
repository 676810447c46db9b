import errno
import os
import subprocess
import sys

import pytest

from dorefa_study.errors import UsageError, did_you_mean, one_line_errors
from tests.faults.harness import ROOT


@pytest.mark.parametrize(
  ("error", "code", "line"),
  [
    (UsageError("config.x\n  must be 1"), 2, "error: config.x must be 1"),
    (
      OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/a"),
      2,
      "error: [Errno 28] No space left on device: '/full/a'",
    ),
    (OSError(errno.ENAMETOOLONG, "File name too long", "x"), 2, "error: [Errno 36] File name too long: 'x'"),
    (RuntimeError("Unable to initialize backend 'foo': no"), 2, "error: Unable to initialize backend 'foo': no"),
    (MemoryError(), 2, "error: out of memory"),
    (KeyboardInterrupt(), 130, "stopped"),
  ],
)
def test_what_a_user_can_mend_is_one_line(capsys, error, code, line):
  @one_line_errors
  def main():
    raise error

  assert main() == code
  assert capsys.readouterr().err == f"{line}\n"


def test_an_error_of_the_program_keeps_its_traceback():
  @one_line_errors
  def main():
    raise OSError(errno.EBADF, "Bad file descriptor")

  with pytest.raises(OSError, match="Bad file"):
    main()


PROGRAM = """
import sys
from dorefa_study.errors import one_line_errors

@one_line_errors
def main():
  print(sys.argv[1] if len(sys.argv) > 1 else "x" * 1_000_000, flush=True)
  return 0

sys.exit(main())
"""


def test_names_that_an_old_locale_cannot_write_are_shown_all_the_same():
  environment = os.environ | {"PYTHONIOENCODING": "ascii"}
  command = [sys.executable, "-c", PROGRAM, "Läufe/eins"]
  ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
  assert (ended.returncode, ended.stdout, ended.stderr) == (0, "L\\xe4ufe/eins\n", "")


def test_a_reader_that_has_seen_enough_is_no_error():
  script = f"{sys.executable} -c '{PROGRAM}' | head -c 10"
  ended = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
  assert (ended.stdout, ended.stderr) == ("x" * 10, "")


def test_hints():
  assert did_you_mean("widht", ["width", "bound"]) == "; did you mean 'width'? known: bound, width"
  assert did_you_mean("x", []) == "; there are none"
