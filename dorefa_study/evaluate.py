"""Tests a trained trial on other images: `python -m experiments.evaluate --workdir=DIR --mat=test_32x32.mat`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from absl import flags as absl_flags

from dorefa_study.cli import define_path, new_flags, parse
from dorefa_study.config import parse_bits
from dorefa_study.data.feeds import DeviceFeed
from dorefa_study.data.svhn import read_mat
from dorefa_study.errors import UsageError, one_line_errors
from dorefa_study.restore import require_channels, restore_trial
from dorefa_study.trial import evaluate


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
  define_path("mat", None, "a file of SVHN's cropped digits", flag_values=values, required=True)
  absl_flags.DEFINE_string("bits", "", "W,A,G instead of the trial's own", values)
  flags = parse(values, sys.argv[1:] if argv is None else argv, __doc__ or "").flags
  directory, mat = flags.workdir, flags.mat
  trained = restore_trial(directory)
  if not mat.is_file():
    raise UsageError(f"--mat: no file {str(mat)!r}")
  split = read_mat(mat)
  require_channels(split, trained.shape[2], f"--mat: {mat}")
  bits = parse_bits(flags.bits or trained.config.bits, "--bits")
  steps = trained.steps if not flags.bits else trained.at_bits(bits)
  accuracy = evaluate(steps, trained.variables, DeviceFeed.of(split))
  share = np.bincount(split.labels).max() / len(split.labels)
  print(
    f"accuracy {accuracy:.2%} on {len(split.labels)} images of {mat} with bits {bits} (commonest digit: {share:.2%})"
  )
  return 0


if __name__ == "__main__":
  sys.exit(main())
