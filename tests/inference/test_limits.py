"""Small files that ask for much: refused, and cheaply."""

import dataclasses
import time
import tracemalloc

import numpy as np
import pytest

from dorefa_jax.inference import file_format
from dorefa_jax.inference.graph import Conv, FloatNode, Graph, MaxPool, Segment
from dorefa_jax.inference.limits import HEADER_BASE, LOAD_BASE, LOAD_FACTOR, MAX_HEADER, MAX_OPERANDS, MAX_OPERATIONS
from dorefa_jax.inference.validate import check_graph
from dorefa_jax.kernels.program import Output
from tests.inference.test_file_format import join, joined, parts

SECONDS = 3.0  # of a processor that others use too


def conv(shape, output=Output.FLOATS, parameters=None, bits=(1, 1), **geometry):
  codes = np.zeros(shape, np.uint8) if bits[0] else np.zeros(shape, np.float32)
  if parameters is None:
    parameters = np.array([[1], [0]], np.float32)
  options = {"strides": (1, 1), "dilation": (1, 1), "padding": ((0, 0), (0, 0)), "groups": 1, **geometry}
  return Conv("layer", codes, *bits, output=output, parameters=parameters, **options)


def graph(layers, input_shape, output_shape):
  segment = Segment(tuple(layers), 0, 1, input_shape, (1, *output_shape))
  return Graph(input_shape, (segment,), 1)


def decode_within_bounds(data):
  """Decodes, and returns the error or None; fails where that took more than the limits say."""
  tracemalloc.start()
  begin = time.process_time()
  try:
    error = None
    file_format.decode_graph(data)
  except ValueError as refused:
    error = refused
  seconds, (_, peak) = time.process_time() - begin, tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak <= LOAD_BASE + LOAD_FACTOR * len(data), f"{peak} bytes for a file of {len(data)}"
  assert seconds <= SECONDS
  return error


@pytest.mark.parametrize("unit", [b"[],", b"{},", b"[[]],", b'"a",', b"1,", b" "])
@pytest.mark.parametrize("size", [HEADER_BASE, MAX_HEADER, 16 * MAX_HEADER])
def test_headers_that_inflate(unit, size):
  text = b'{"arrays":[],"input_shape":[1],"notes":{},"output":1,"nodes":[' + unit * (size // len(unit)) + b"0]}"
  error = decode_within_bounds(joined(text, b""))
  assert error is not None
  assert len(str(error)) < 500


def test_a_column_of_thresholds_for_many_outputs_is_not_broadcast_while_loading():
  outputs = 400_000
  thresholds = np.arange(255, dtype=np.int32)[:, None]
  some = graph(
    [conv((1, 1, 1, outputs), Output.THRESHOLDS, thresholds), conv((1, 1, outputs, 1), bits=(1, 8))],
    (1, 1, 1),
    (1, 1, 1),
  )
  assert decode_within_bounds(file_format.encode_graph(some)) is None
  wide = graph(
    [conv((1, 1, 1, 2 * outputs), Output.THRESHOLDS, thresholds), conv((1, 1, 2 * outputs, 1), bits=(1, 8))],
    (1, 1, 1),
    (1, 1, 1),
  )
  wider = graph([*wide.nodes[0].layers[:1], *some.nodes[0].layers[1:]], (1, 1, 1), (1, 1, 1))
  for refused, message in ((wider, "groups of weights"), (dataclasses.replace(wide, output=2), "never made")):
    assert message in str(decode_within_bounds(file_format.encode_graph(refused)))


def many_layers(count):
  layers = [conv((1, 1, 64, 64), Output.THRESHOLDS, np.zeros((1, 1), np.int32)) for _ in range(count - 1)]
  return file_format.encode_graph(graph([*layers, conv((1, 1, 64, 64))], (1, 1, 64), (1, 1, 64)))


def test_a_model_of_the_most_layers_is_loaded():
  assert decode_within_bounds(many_layers(MAX_OPERATIONS)) is None


def test_layers_do_not_share_arrays():
  header, blobs = parts(many_layers(100))
  for layer in header["nodes"][0]["layers"]:
    layer["weights"], layer["parameters"] = 0, 1
  del header["arrays"][2:]
  assert "used twice" in str(decode_within_bounds(join(header, blobs[: 64 * 64 // 8 + 4])))


@pytest.mark.parametrize(
  ("count", "message"), [(3, None), (100, "operations for an image"), (MAX_OPERATIONS, "at most 2000 operations")]
)
def test_work_is_bounded_in_sum(count, message):
  def product(index):
    parameters = {"dimension_numbers": (((2,), (1,)), ((0,), (0,))), "preferred_element_type": None}
    return FloatNode("dot_general", parameters, (index, index), index + 1)

  nodes = (
    FloatNode("broadcast_in_dim", {"shape": (1, 1500, 1500), "broadcast_dimensions": (0, 1)}, (0,), 1),
    *(product(index) for index in range(1, count + 1)),
  )
  some = Graph((1500,), nodes, count + 1)
  if message is None:
    check_graph(some)
    return
  with pytest.raises(ValueError, match=message):
    check_graph(some)


def test_memory_is_bounded_in_sum():
  wide = {"shape": (1, 2**24), "broadcast_dimensions": (0, 1)}
  nodes = [FloatNode("broadcast_in_dim", wide, (0,), index) for index in range(1, 30)]
  check_graph(Graph((1,), tuple(nodes[:10]), 1))
  with pytest.raises(ValueError, match="elements for an image up to node 15"):
    check_graph(Graph((1,), tuple(nodes), 1))


def test_operands_are_bounded_in_sum():
  joined_many = FloatNode("concatenate", {"dimension": 1}, (0,) * (MAX_OPERANDS + 1), 1)
  with pytest.raises(ValueError, match="8000 inputs"):
    check_graph(Graph((1,), (joined_many,), 1))


@pytest.mark.parametrize(
  ("layers", "shape", "result", "message"),
  [
    ([conv((1, 1, 1, 1), padding=((2**25, 0), (0, 0)))], (1, 1, 1), (1, 1, 1), "padding that is not"),
    ([conv((1, 1, 2**24 + 32, 1))], (1, 1, 2**24 + 32), (1, 1, 1), "a size"),
    ([conv((1, 1, 1, 1), padding=((20000, 0), (20000, 0)))], (1, 1, 1), (20001, 20001, 1), "elements for an image"),
    # Tables of one channel take 64 bytes a pixel, for all rows that a window reaches over.
    (
      [conv((3, 3, 1, 64), bits=(1, 2), dilation=(8000, 1), strides=(9000, 1))],
      (16384, 16384, 1),
      (1, 16382, 64),
      "elements",
    ),
    ([conv((1, 1, 1, 2**18), groups=2**18)], (1, 1, 2**18), (1, 1, 2**18), "panels of weights"),
    ([conv((1, 1, 33026, 1), bits=(8, 8))], (1, 1, 33026), (1, 1, 1), "sums beyond 32 bits"),
  ],
)
def test_what_kernels_refuse_is_refused(layers, shape, result, message):
  with pytest.raises(ValueError, match=message):
    check_graph(graph(layers, shape, result))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"weights": np.full((3, 3, 3, 8), np.nan, np.float32)}, "not finite"),
    ({"weights": np.full((3, 3, 3, 8), 1e30, np.float32)}, "beyond"),
    ({"parameters": np.full((1, 8), np.nan, np.float32)}, "not finite"),
    ({"output": Output.GRADIENT}, "gives GRADIENT"),
    ({"output": Output.AFFINE, "parameters": np.full((2, 8), np.inf, np.float32)}, "not finite"),
    ({"output": Output.AFFINE, "parameters": np.full((2, 8), -1, np.float32)}, "falls"),
    ({"weights": np.zeros((3, 24), np.float32)}, "4 axes"),
  ],
)
def test_parameters_that_paths_would_read_differently_are_refused(change, message):
  first = conv((3, 3, 3, 8), Output.THRESHOLDS, np.zeros((1, 8), np.float32), bits=(None, None))
  second = conv((1, 1, 8, 4))
  pool = MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)))
  check_graph(graph([first, pool, second], (6, 6, 3), (2, 2, 4)))
  with pytest.raises(ValueError, match=message):
    check_graph(graph([dataclasses.replace(first, **change), pool, second], (6, 6, 3), (2, 2, 4)))


def test_names_that_cannot_be_loaded_are_changed_when_they_are_saved():
  layer = dataclasses.replace(conv((1, 1, 4, 4)), name="a\n\ud800" + "b" * 1000)
  some = dataclasses.replace(graph([layer], (1, 1, 4), (1, 1, 4)), notes={"a\nb": "c\td"})
  loaded = file_format.decode_graph(file_format.encode_graph(some))
  assert loaded.nodes[0].layers[0].name == "a??" + "b" * 497
  assert loaded.notes == {"a?b": "c?d"}


@pytest.mark.parametrize(
  ("name", "change"),
  [
    ("conv_general_dilated", {"rhs_dilation": (1, 1, 1)}),
    ("conv_general_dilated", {"padding": ((0, 0),)}),
    ("conv_general_dilated", {"dimension_numbers": ((0, 3, 1, 1), (3, 2, 0, 1), (0, 3, 1, 2))}),
    ("reduce_window_max", {"window_dilation": (1, 1)}),
    ("reduce_window_max", {"base_dilation": None}),
  ],
)
def test_windows_have_an_entry_for_each_axis(name, change):
  if name == "reduce_window_max":
    ones = dict.fromkeys(["window_dimensions", "window_strides", "base_dilation", "window_dilation"], (1,) * 4)
    inputs, parameters = (0,), {**ones, "padding": ((0, 0),) * 4}
  else:
    steps = dict.fromkeys(["window_strides", "lhs_dilation", "rhs_dilation"], (1, 1))
    orders = (0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)
    parameters = {**steps, "padding": ((0, 0), (0, 0)), "dimension_numbers": orders, "feature_group_count": 1}
    inputs, parameters = (0, np.ones((1, 1, 3, 3), np.float32)), {**parameters, "preferred_element_type": None}
  check_graph(Graph((4, 4, 3), (FloatNode(name, parameters, inputs, 1),), 1))
  with pytest.raises(ValueError, match="does not fit its operands"):
    check_graph(Graph((4, 4, 3), (FloatNode(name, {**parameters, **change}, inputs, 1),), 1))
