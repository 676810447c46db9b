from hypothesis import given
from hypothesis import strategies as st

from dorefa_study.queue import Queue


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("xyz")), min_size=1, max_size=20))
def test_everything_is_taken_once_whatever_ends_when(items):
  queue = Queue(list(range(len(items))), costs=[cost for cost, _ in items], programs=[program for _, program in items])
  taken = []
  while queue:
    taken.append(queue.take())
    if len(taken) % 2:
      queue.ended(taken[-1])
  assert sorted(taken) == list(range(len(items)))


def test_the_longest_first_and_no_program_compiled_twice_at_once():
  queue = Queue("abcd", costs=[4, 3, 2, 1], programs=["x", "x", "y", "x"])
  assert [queue.take(), queue.take()] == ["a", "c"]
  assert queue.take() == "b"  # nothing else is left
  queue.ended("a")
  assert queue.take() == "d"


def test_what_is_put_back_comes_again():
  queue = Queue("ab", costs=[2, 1], programs=["x", "y"])
  first = queue.take()
  queue.put_back(first, last=True)
  assert [queue.take(), queue.take()] == ["b", "a"]
  queue.put_back("b", last=False)
  assert queue.take() == "b"
  assert not queue
