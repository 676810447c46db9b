"""The file of a packed model: numbers and names, nothing executable.

```
bytes
0          8          89 44 4f 52 45 46 41 0a: a byte, "DOREFA", a newline
8          4          version, 1                                     integers are little-endian
12         4          n, bytes of the header
16         n          header: JSON, deflated by zlib; `dorefa_jax.inference.limits` bounds it
16 + n     ...        arrays, one after another, as the header lists them
end - 32   32         SHA-256 of all bytes before it
```

The header: `{"input_shape", "output", "nodes", "arrays", "notes"}`, whose numbers are integers. An
array is `{"shape", "dtype", "bits"}`: "codes" are unsigned integers of `bits` bits without gaps, bit
0 of the first code in bit 0 of the first byte; other dtypes are NumPy's, little-endian, and have no
bits. Each array is used in exactly one place. A node is a segment, `{"layers", "input", "output",
"input_shape", "output_shape"}`, or a float operation, `{"op", "parameters", "inputs", "output"}`,
whose constant inputs are `{"array": index}`. The fields of layers are those of
`dorefa_jax.inference.graph`; parameters that are the same for all channels are one column.
"""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from dorefa_jax.inference.fields import (
  flag,
  integer,
  items,
  pair,
  parameter,
  printable,
  read_header,
  record,
  shape,
  text,
)
from dorefa_jax.inference.float_ops import SAVED_DTYPES
from dorefa_jax.inference.graph import Conv, FloatNode, Graph, Layer, MaxPool, Node, Segment
from dorefa_jax.inference.limits import MAX_ELEMENTS, MAX_HEADER, header_limit
from dorefa_jax.inference.validate import LAYER_OUTPUTS, check_graph

MAGIC = b"\x89DOREFA\n"
VERSION = 1
DIGEST = 32
UNPACKED_AT_ONCE = 1 << 20
"""Codes whose bits are apart in memory at a time; a multiple of 8."""


def encode_graph(graph: Graph) -> bytes:
  """A graph as the bytes of a file."""
  arrays: list[dict[str, Any]] = []
  blobs: list[bytes] = []

  def put(array: np.ndarray, bits: int | None = None) -> int:
    array = np.asarray(array)
    if bits is None and array.dtype.name not in SAVED_DTYPES:
      raise ValueError(f"an array of dtype {array.dtype} cannot be saved; there are: {', '.join(sorted(SAVED_DTYPES))}")
    dtype = array.dtype.name if bits is None else "codes"
    arrays.append({"shape": list(array.shape), "dtype": dtype, "bits": bits})
    little = array.astype(array.dtype.newbyteorder("<"), order="C")
    blobs.append(little.tobytes() if bits is None else pack_codes(array, bits))
    return len(arrays) - 1

  nodes = [_encode_segment(node, put) if isinstance(node, Segment) else _encode_op(node, put) for node in graph.nodes]
  header = {
    "input_shape": list(graph.input_shape),
    "output": graph.output,
    "nodes": nodes,
    "arrays": arrays,
    "notes": {printable(name): printable(note) for name, note in graph.notes.items()},
  }
  raw = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
  if len(raw) > MAX_HEADER:
    raise ValueError(f"a model whose names and operations take {len(raw)} bytes cannot be saved; at most {MAX_HEADER}")
  deflated = zlib.compress(raw, 9)
  if len(raw) > header_limit(len(deflated)):  # layer after layer the same
    deflated = zlib.compress(raw, 0)
  body = MAGIC + struct.pack("<II", VERSION, len(deflated)) + deflated + b"".join(blobs)
  return body + hashlib.sha256(body).digest()


def decode_graph(data: bytes) -> Graph:
  """The graph in a file's bytes.

  Raises:
    ValueError: the bytes are no packed model, of another version, or damaged.
  """
  start = len(MAGIC) + 8
  if data[: len(MAGIC)] != MAGIC:
    raise ValueError("not a dorefa model file (bad magic number)")
  if len(data) < start + DIGEST:
    raise ValueError("the file is cut off")
  version, size = struct.unpack_from("<II", data, len(MAGIC))
  if version != VERSION:
    raise ValueError(f"the file has version {version}; this library reads version {VERSION}")
  if hashlib.sha256(data[:-DIGEST]).digest() != data[-DIGEST:]:
    raise ValueError("the file is damaged or cut off: its checksum differs")
  if size > len(data) - start - DIGEST:
    raise ValueError("the header is cut off")
  header = read_header(data[start : start + size])
  arrays = _Arrays(items(header["arrays"]), memoryview(data)[start + size : -DIGEST])
  nodes = tuple(_decode_node(node, arrays) for node in items(header["nodes"]))
  arrays.check_all_used()
  if not isinstance(header["notes"], dict):
    raise ValueError("the header is damaged: expected an object at 'notes'")
  notes = {text(key): text(value) for key, value in header["notes"].items()}
  graph = Graph(shape(header["input_shape"]), nodes, integer(header["output"], 0), notes)
  check_graph(graph)
  return graph


def pack_codes(codes: np.ndarray, bits: int) -> bytes:
  """Codes of `bits` bits each, without gaps.

  Example:
    >>> pack_codes(np.array([1, 2, 3], np.uint8), 2).hex()
    '39'
  """
  planes = (codes.reshape(-1, 1) >> np.arange(bits, dtype=np.uint8)) & 1
  return np.packbits(planes.reshape(-1), bitorder="little").tobytes()


def unpack_codes(data: memoryview, shape: tuple[int, ...], bits: int) -> np.ndarray:
  """The inverse of `pack_codes`."""
  count = math.prod(shape)
  packed, codes = np.frombuffer(data, np.uint8), np.zeros(count, np.uint8)
  for start in range(0, count, UNPACKED_AT_ONCE):
    part = codes[start : start + UNPACKED_AT_ONCE]
    planes = np.unpackbits(packed[start * bits // 8 :], count=len(part) * bits, bitorder="little").reshape(-1, bits)
    for bit in range(bits):
      part |= planes[:, bit] << bit
  return codes.reshape(shape)


class _Arrays:
  """The arrays of a file, each of which is taken once."""

  def __init__(self, specs: Sequence[Any], data: memoryview):
    self._left: dict[int, tuple[memoryview, tuple[int, ...], np.dtype[Any], int | None]] = {}
    at = 0
    for index, spec in enumerate(specs):
      fields = record(spec, ("shape", "dtype", "bits"))
      sizes, dtype = shape(fields["shape"]), fields["dtype"]
      bits = None if fields["bits"] is None else integer(fields["bits"], 1, 8)
      count = math.prod(sizes)
      is_known = dtype == "codes" if bits is not None else isinstance(dtype, str) and dtype in SAVED_DTYPES
      if not 0 < count <= MAX_ELEMENTS or not is_known:
        raise ValueError(f"array {index} has {count} elements of {reprlib.repr(dtype)} with bits {bits}")
      little = np.dtype(np.uint8 if bits is not None else dtype).newbyteorder("<")
      size = -(-count * bits // 8) if bits is not None else count * little.itemsize
      if size > len(data) - at:
        raise ValueError("its arrays are cut off")
      self._left[index] = data[at : at + size], sizes, little, bits
      at += size
    if at != len(data):
      raise ValueError(f"{len(data) - at} bytes belong to no array")

  def take(self, index: Any) -> tuple[np.ndarray, int | None]:
    """An array and the bits of its codes."""
    if integer(index, 0) not in self._left:
      raise ValueError(f"array {index} does not exist, or is used twice")
    data, sizes, dtype, bits = self._left.pop(index)
    if bits is not None:
      return unpack_codes(data, sizes, bits), bits
    array = np.frombuffer(data, np.uint8 if dtype == np.bool_ else dtype)
    if dtype == np.bool_ and array.max() > 1:
      raise ValueError(f"array {index} of truth values has others than 0 and 1")
    return array.astype(dtype.newbyteorder("=")).reshape(sizes), None

  def check_all_used(self) -> None:
    if self._left:
      raise ValueError(f"array {next(iter(self._left))} is not used")


def _encode_segment(segment: Segment, put: Any) -> dict[str, Any]:
  layers: list[dict[str, Any]] = []
  for layer in segment.layers:
    if isinstance(layer, MaxPool):
      pool = {"window": layer.window, "strides": layer.strides, "padding": layer.padding, "on_sums": layer.on_sums}
      layers.append(pool)
      continue
    layers.append(
      {
        "name": printable(layer.name),
        "weights": put(layer.weights, layer.weight_bits),
        "activation_bits": layer.activation_bits,
        "strides": layer.strides,
        "dilation": layer.dilation,
        "padding": layer.padding,
        "groups": layer.groups,
        "output": layer.output.name,
        "parameters": put(_narrow_columns(layer.parameters)),
        **{
          field: getattr(layer, field) for field in ("weight_zero", "input_zero") if getattr(layer, field) is not None
        },
      }
    )
  return {
    "layers": layers,
    "input": segment.input,
    "output": segment.output,
    "input_shape": segment.input_shape,
    "output_shape": segment.output_shape,
  }


def _encode_op(node: FloatNode, put: Any) -> dict[str, Any]:
  inputs = [value if isinstance(value, int) else {"array": put(value)} for value in node.inputs]
  return {"op": node.name, "parameters": node.parameters, "inputs": inputs, "output": node.output}


def _narrow_columns(parameters: np.ndarray) -> np.ndarray:
  """One column where all are the same, as the factors of a layer that gives floats are."""
  return parameters[:, :1] if (parameters == parameters[:, :1]).all() else parameters


def _decode_node(node: Any, arrays: _Arrays) -> Node:
  if isinstance(node, dict) and "op" in node:
    record(node, ("op", "parameters", "inputs", "output"))
    parameters = {
      text(name): parameter(value) for name, value in record(node["parameters"], (), node["parameters"]).items()
    }
    inputs = tuple(
      arrays.take(record(value, ("array",))["array"])[0] if isinstance(value, dict) else integer(value, 0)
      for value in items(node["inputs"])
    )
    return FloatNode(text(node["op"]), parameters, inputs, integer(node["output"], 1))
  record(node, ("layers", "input", "output", "input_shape", "output_shape"))
  layers = tuple(_decode_layer(layer, arrays) for layer in items(node["layers"]))
  height, width, channels = shape(items(node["input_shape"], 3))
  sizes = height, width, channels
  return Segment(layers, integer(node["input"], 0), integer(node["output"], 1), sizes, shape(node["output_shape"]))


def _decode_layer(layer: Any, arrays: _Arrays) -> Layer:
  if isinstance(layer, dict) and "window" in layer:
    record(layer, ("window", "strides", "padding"), ("on_sums",))
    on_sums = flag(layer.get("on_sums", False))  # the first files had none
    return MaxPool(pair(layer["window"]), pair(layer["strides"]), _padding(layer["padding"]), on_sums)
  record(
    layer, ("name", "weights", "activation_bits", "strides", "dilation", "padding", "groups", "output", "parameters"),
    ("weight_zero", "input_zero"),
  )  # fmt: skip
  output = {output.name: output for output in LAYER_OUTPUTS}.get(text(layer["output"]))
  if output is None:
    raise ValueError(
      f"a layer's output is one of {', '.join(known.name for known in LAYER_OUTPUTS)}, got {layer['output'][:40]!r}"
    )
  weights, bits = arrays.take(layer["weights"])
  parameters, parameter_bits = arrays.take(layer["parameters"])
  if weights.ndim != 4 or parameter_bits is not None:
    raise ValueError(f"a layer has weights of 4 axes, got {weights.shape}, and its parameters must not be codes")
  activation_bits = None if layer["activation_bits"] is None else integer(layer["activation_bits"], 1, 8)
  return Conv(
    text(layer["name"]), weights, bits, activation_bits, pair(layer["strides"]), pair(layer["dilation"]),
    _padding(layer["padding"]), integer(layer["groups"], 1), output, parameters,
    **{field: integer(layer[field], 0, 2 * (2**8 - 1)) for field in ("weight_zero", "input_zero") if field in layer},
  )  # fmt: skip


def _padding(value: Any) -> tuple[tuple[int, int], tuple[int, int]]:
  rows, columns = items(value, 2)
  return pair(rows), pair(columns)
