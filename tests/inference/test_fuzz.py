"""Mutated packed files: refused with a ValueError, quickly, or sound and the same on every path.

The long run: `DOREFA_JAX_FUZZ_COUNT=1000000 python -m pytest -m slow tests/inference/test_fuzz.py -s`. With the
sanitized library, which `make sanitize` builds: set DOREFA_JAX_TEST_LIBRARY and LD_PRELOAD as the Makefile does.
"""

import json
import os

import numpy as np
import pytest

from dorefa_jax.inference.graph import Segment
from tests.inference import fuzz, oracle
from tests.inference.samples import random_graph
from tests.kernels import native

COUNT, SEED = "DOREFA_JAX_FUZZ_COUNT", "DOREFA_JAX_FUZZ_SEED"


@pytest.mark.parametrize("number", range(fuzz.SAMPLES))
def test_sound_graphs_are_the_same_on_every_path(number):
  graph, rng = random_graph(np.random.default_rng(number)), np.random.default_rng(0)
  for segment in (node for node in graph.nodes if isinstance(node, Segment)):
    x = rng.integers(-4, 21, (5, *segment.input_shape)).astype(np.float32) / 16
    oracle.check_on_kernels(segment, x, native.paths())
  if number % 10 == 0 and not os.environ.get(native.LIBRARY_VARIABLE):
    oracle.check_in_xla(graph, rng)


def test_some_mutated_files():
  counts = fuzz.go(seed=0, first=0, count=1000)
  assert counts["ran"] > 50
  assert all(counts[f"{kind}: refused"] > 0 for kind in ("damaged", "mended", "header", "arrays"))


@pytest.mark.slow
def test_many_mutated_files():
  count, seed = int(os.environ.get(COUNT, "1000000")), int(os.environ.get(SEED, "1"))
  counts = fuzz.go(seed, 0, count, lambda counts: print(json.dumps(counts), flush=True))
  assert counts["files"] == count
