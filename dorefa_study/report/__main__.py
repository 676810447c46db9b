"""`python -m experiments.report --workdir=runs/svhn_grid`."""

import sys

from dorefa_study.report.command import main

if __name__ == "__main__":
  sys.exit(main())
