"""The study's commands as they are run in a checkout: `python -m experiments.sweep` is `dorefa_study.sweep`."""

from dorefa_study import __path__ as __path__
