import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dorefa_study.statistics import mean, wilson


def test_a_mean_of_three_is_students():
  found = mean([0.90, 0.91, 0.95])
  scipy = pytest.importorskip("scipy.stats")
  low, high = scipy.t.interval(0.95, 2, loc=0.92, scale=np.std([0.90, 0.91, 0.95], ddof=1) / np.sqrt(3))
  assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
  assert found.count == 3


def test_one_value_has_no_interval():
  found = mean([0.9])
  assert (found.value, found.half_width, found.low, found.high) == (0.9, None, 0.9, 0.9)


@given(st.floats(0, 1), st.integers(1, 10**6))
def test_wilsons_interval_holds_the_accuracy(accuracy, images):
  low, high = wilson(accuracy, images)
  assert 0 <= low <= accuracy + 1e-12
  assert accuracy - 1e-12 <= high <= 1


def test_intervals_hold_the_truth_as_often_as_they_say():
  rng = np.random.default_rng(0)
  hits = [mean(sample).low <= 0 <= mean(sample).high for sample in rng.normal(size=(2000, 4)).tolist()]
  assert np.mean(hits) == pytest.approx(0.95, abs=0.015)
