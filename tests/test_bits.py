import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dorefa_jax as dorefa
from dorefa_jax.bits import check_bit_widths, check_bits, is_full_precision

widths = st.integers(1, 32)


@pytest.mark.parametrize("bad", [0, 33, -1, 1.5, 2.0, "4", None, True, np.float32(4), jnp.float32(4), jnp.array([4])])
@pytest.mark.parametrize("name", ["weights", "activations", "gradients"])
def test_bad_width_is_named_with_its_value_and_the_legal_range(name, bad):
  with pytest.raises(ValueError, match=rf"{name} must be an integer from 1 to 32") as error:
    dorefa.BitWidths(**{name: bad})
  assert "got" in str(error.value)


@pytest.mark.parametrize("value", [0, 33])
def test_concrete_array_is_checked_by_value(value):
  with pytest.raises(ValueError, match=f"got {value}"):
    check_bits(jnp.int32(value))


@given(widths, widths, widths)
def test_parse_reads_what_str_writes(w, a, g):
  bits = dorefa.BitWidths(w, a, g)
  assert dorefa.BitWidths.parse(str(bits)) == bits
  assert dorefa.BitWidths.parse(f" ({w}, {a},{g}) ") == bits


@given(st.text(max_size=12))
def test_parse_gives_bit_widths_or_a_value_error(text):
  try:
    bits = dorefa.BitWidths.parse(text)
  except ValueError:
    return
  assert dorefa.BitWidths.parse(str(bits)) == bits


@pytest.mark.parametrize("text", ["", "1,2", "1,2,3,4", "1;2;3", "a,b,c", "1,2,0", "1.0,2,4", "²,2,4", "((1,2,4))"])
def test_parse_rejects(text):
  with pytest.raises(ValueError, match="must be"):
    dorefa.BitWidths.parse(text)


@pytest.mark.parametrize("value", [[1, 2, 4], (1, 2, 4), np.array([1, 2, 4]), jnp.array([1, 2, 4]), [np.int8(1), 2, 4]])
def test_parse_reads_sequences(value):
  assert dorefa.BitWidths.parse(value) == dorefa.BitWidths(1, 2, 4)


def test_parse_returns_bit_widths_as_they_are():
  bits = dorefa.BitWidths(1, 2, 4)
  assert dorefa.BitWidths.parse(bits) is bits


@pytest.mark.parametrize(
  "value",
  [None, 4, 1.5, True, [], [1, 2], [1, 2, 4, 8], ["1", "2", "4"], [1, 2, 4.0], [1, 2, None], [[1, 2, 4]], {1, 2, 4}]
  + [
    {1: 2, 3: 4, 5: 6},
    b"1,2,4",
    b"abc",
    np.array(4),
    np.zeros((3, 3), int),
    np.array([1.0, 2, 4]),
    range(4),
    object(),
  ]
  + [[0, 2, 4], [1, 2, 33], [1, 2, 10**5000], [10**5000] * 2, 10**5000, "9" * 5000 + ",2,4", "-" * 100_000],
  ids=lambda value: type(value).__name__,
)
def test_parse_refuses_other_values_in_one_short_line(value):
  with pytest.raises(ValueError, match="must be (three|an) integer") as error:
    dorefa.BitWidths.parse(value)
  message = str(error.value)
  assert "\n" not in message
  assert len(message) < 250


@pytest.mark.parametrize(
  "bad", [np.zeros((9, 9)), 10**5000, -(10**5000), "x" * 9999, "a\nb"], ids=lambda bad: type(bad).__name__
)
def test_messages_show_little_of_a_large_value(bad):
  for call in (lambda: check_bits(bad, "weights"), lambda: check_bit_widths(bad)):
    with pytest.raises(ValueError, match="must be") as error:
      call()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250


def test_static_widths_are_python_ints():
  bits = dorefa.BitWidths(np.int64(1), np.uint8(2), 4)
  assert [type(width) for width in (bits.weights, bits.activations, bits.gradients)] == [int] * 3
  assert hash(bits) == hash(dorefa.BitWidths(1, 2, 4))


def test_is_a_pytree_that_is_traced_through_jit():
  seen = []

  @jax.jit
  def total(bits):
    seen.append(bits)
    return bits.weights + bits.activations + bits.gradients

  assert int(total(dorefa.BitWidths(1, 2, 4))) == 7
  assert int(total(dorefa.BitWidths(8, 8, 8))) == 24
  assert len(seen) == 1
  assert isinstance(seen[0].weights, jax.core.Tracer)


def test_survives_transformations_that_put_placeholders_into_leaves():
  bits = dorefa.BitWidths(1, 2, 4)
  leaves, structure = jax.tree.flatten(bits)
  assert leaves == [1, 2, 4]
  assert jax.tree.unflatten(structure, [object()] * 3).weights is not None
  assert jax.tree.map(lambda width: width + 1, bits) == dorefa.BitWidths(2, 3, 5)


def test_defaults_mean_not_quantized():
  assert dorefa.BitWidths() == dorefa.BitWidths(32, 32, 32)
  assert is_full_precision(32)
  assert not is_full_precision(jnp.int32(32))  # not known at trace time
