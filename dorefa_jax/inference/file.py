"""The file of a packed model: numbers and names, nothing executable.

```
bytes
0          8          89 44 4f 52 45 46 41 0a: a byte, "DOREFA", a newline
8          4          version, 1                                     integers are little-endian
12         4          n, bytes of the header
16         n          header: JSON, deflated by zlib, at most 16 MiB when inflated
16 + n     ...        arrays, one after another, as the header lists them
end - 32   32         SHA-256 of all bytes before it
```

The header: `{"input_shape", "output", "nodes", "arrays", "notes"}`. An array is
`{"shape", "dtype", "bits"}`: "codes" are unsigned integers of `bits` bits without gaps, bit 0 of
the first code in bit 0 of the first byte; other dtypes are NumPy's, little-endian, and have no
bits. A node is a segment, `{"layers", "input", "output", "input_shape", "output_shape"}`, or a
float operation, `{"op", "parameters", "inputs", "output"}`, whose constant inputs are
`{"array": index}`. The fields of layers are those of `dorefa_jax.inference.graph`; parameters
that are the same for all channels are one column.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
import struct
import zlib
from typing import Any

import numpy as np

from dorefa_jax.inference.check import MAX_ELEMENTS, check_graph
from dorefa_jax.inference.graph import Conv, FloatNode, Graph, Layer, MaxPool, Node, Segment
from dorefa_jax.inference.packed import PackedModel
from dorefa_jax.kernels.program import Output

MAGIC = b"\x89DOREFA\n"
VERSION = 1
MAX_HEADER = 16 << 20
DIGEST = 32
DTYPES = {"float32", "float16", "int32", "int8", "uint8", "uint32", "bool"}


def load(path: str | os.PathLike[str]) -> PackedModel:
  """Reads a packed model that `PackedModel.save` wrote.

  Args:
    path: of the file.

  Returns:
    The model.

  Raises:
    ValueError: the file is no packed model, of another version, or damaged. Nothing in a file is
      executed, and no file makes this allocate more than a small multiple of its size.
    OSError: the file cannot be read.

  Example:
    >>> packed = load("model.dorefa")  # doctest: +SKIP
  """
  data = pathlib.Path(path).read_bytes()
  try:
    return PackedModel(decode_graph(data))
  except ValueError as error:
    raise ValueError(f"{os.fspath(path)}: {error}") from error


def encode_graph(graph: Graph) -> bytes:
  """A graph as the bytes of a file."""
  arrays: list[dict[str, Any]] = []
  blobs: list[bytes] = []

  def put(array: np.ndarray, bits: int | None = None) -> int:
    array = np.asarray(array)
    if bits is None and array.dtype.name not in DTYPES:
      raise ValueError(f"an array of dtype {array.dtype} cannot be saved; there are: {', '.join(sorted(DTYPES))}")
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
    "notes": graph.notes,
  }
  text = zlib.compress(json.dumps(header, separators=(",", ":"), allow_nan=True).encode(), 9)
  body = MAGIC + struct.pack("<II", VERSION, len(text)) + text + b"".join(blobs)
  return body + hashlib.sha256(body).digest()


def decode_graph(data: bytes) -> Graph:
  """The graph in a file's bytes.

  Raises:
    ValueError: the bytes are no packed model, of another version, or damaged.
  """
  start = len(MAGIC) + 8
  if data[: len(MAGIC)] != MAGIC:
    raise ValueError("this is no packed model: its first bytes are others")
  if len(data) < start + DIGEST:
    raise ValueError("the file is cut off")
  version, size = struct.unpack_from("<II", data, len(MAGIC))
  if version != VERSION:
    raise ValueError(f"the file has version {version}; this library reads version {VERSION}")
  if hashlib.sha256(data[:-DIGEST]).digest() != data[-DIGEST:]:
    raise ValueError("the file is damaged or cut off: its checksum differs")
  if size > len(data) - start - DIGEST:
    raise ValueError("the header is cut off")
  header = _header(data[start : start + size])
  try:
    arrays = _arrays(_list(header, "arrays"), memoryview(data)[start + size : -DIGEST])
    nodes = tuple(_decode_node(node, arrays) for node in _list(header, "nodes"))
    notes = {str(key): str(value) for key, value in header.get("notes", {}).items()}
    graph = Graph(_shape(header["input_shape"]), nodes, _integer(header["output"], 0), notes)
  except (KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
    raise ValueError(f"the header is damaged: {type(error).__name__} {error}") from error
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
  planes = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits, bitorder="little").reshape(count, bits)
  codes = np.zeros(count, np.uint8)
  for bit in range(bits):
    codes |= planes[:, bit] << bit
  return codes.reshape(shape)


def _header(compressed: bytes) -> dict[str, Any]:
  try:
    inflater = zlib.decompressobj()
    text = inflater.decompress(compressed, MAX_HEADER)
    if inflater.unconsumed_tail or not inflater.eof:
      raise ValueError(f"the header is cut off or exceeds {MAX_HEADER} bytes")
    header = json.loads(text)
  except (zlib.error, UnicodeDecodeError, RecursionError) as error:
    raise ValueError(f"the header is damaged: {error}") from error
  if not isinstance(header, dict):
    raise ValueError("the header is no object")
  return header


def _arrays(specs: list[Any], data: memoryview) -> list[tuple[np.ndarray, int | None]]:
  arrays: list[tuple[np.ndarray, int | None]] = []
  at = 0
  for spec in specs:
    shape = _shape(spec["shape"])
    count = math.prod(shape)
    bits = None if spec["bits"] is None else _integer(spec["bits"], 1, 8)
    if count == 0 or count > MAX_ELEMENTS or (bits is None) == (spec["dtype"] == "codes"):
      raise ValueError(f"an array of {count} elements of {spec['dtype']!r} with bits {bits}")
    if bits is None and spec["dtype"] not in DTYPES:
      raise ValueError(f"an array of dtype {spec['dtype']!r}")
    dtype = np.dtype(np.uint8) if bits is not None else np.dtype(spec["dtype"])
    size = -(-count * bits // 8) if bits is not None else count * dtype.itemsize
    if size > len(data) - at:
      raise ValueError("its arrays are cut off")
    part = data[at : at + size]
    if bits is not None:
      array = unpack_codes(part, shape, bits)
    else:
      array = np.frombuffer(part, dtype.newbyteorder("<")).astype(dtype).reshape(shape)
    arrays.append((array, bits))
    at += size
  if at != len(data):
    raise ValueError(f"{len(data) - at} bytes belong to no array")
  return arrays


def _encode_segment(segment: Segment, put: Any) -> dict[str, Any]:
  layers: list[dict[str, Any]] = []
  for layer in segment.layers:
    if isinstance(layer, MaxPool):
      pool = {"window": layer.window, "strides": layer.strides, "padding": layer.padding, "on_sums": layer.on_sums}
      layers.append(pool)
      continue
    layers.append(
      {
        "name": layer.name,
        "weights": put(layer.weights, layer.weight_bits),
        "activation_bits": layer.activation_bits,
        "strides": layer.strides,
        "dilation": layer.dilation,
        "padding": layer.padding,
        "groups": layer.groups,
        "output": layer.output.name,
        "parameters": put(_narrow_columns(layer.parameters)),
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


def _decode_node(node: Any, arrays: list[tuple[np.ndarray, int | None]]) -> Node:
  output = _integer(node["output"], 1)
  if "op" in node:
    parameters = {str(name): _tuples(value) for name, value in node["parameters"].items()}
    inputs = tuple(
      arrays[_integer(value["array"], 0)][0] if isinstance(value, dict) else _integer(value, 0)
      for value in _list(node, "inputs")
    )
    return FloatNode(str(node["op"]), parameters, inputs, output)
  layers = tuple(_decode_layer(layer, arrays) for layer in _list(node, "layers"))
  height, width, channels = _shape(node["input_shape"])
  return Segment(layers, _integer(node["input"], 0), output, (height, width, channels), _shape(node["output_shape"]))


def _decode_layer(layer: Any, arrays: list[tuple[np.ndarray, int | None]]) -> Layer:
  strides, padding = _pair(layer["strides"]), (_pair(layer["padding"][0]), _pair(layer["padding"][1]))
  if "window" in layer:
    return MaxPool(_pair(layer["window"]), strides, padding, bool(layer.get("on_sums", False)))
  weights, bits = arrays[_integer(layer["weights"], 0)]
  parameters = arrays[_integer(layer["parameters"], 0)][0]
  if parameters.ndim == 2 and parameters.shape[1] == 1 and weights.ndim == 4:
    parameters = np.broadcast_to(parameters, (len(parameters), weights.shape[3]))  # a view: nothing is allocated
  activation_bits = None if layer["activation_bits"] is None else _integer(layer["activation_bits"], 1, 8)
  return Conv(
    str(layer["name"]), weights, bits, activation_bits, strides, _pair(layer["dilation"]), padding,
    _integer(layer["groups"], 1), Output[layer["output"]], parameters,
  )  # fmt: skip


def _list(header: dict[str, Any], key: str) -> list[Any]:
  value = header[key]
  if not isinstance(value, list):
    raise ValueError(f"{key!r} is no list")
  return value


def _integer(value: Any, low: int, high: int = 2**31 - 1) -> int:
  if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
    raise ValueError(f"a number from {low} to {high} is {value!r}")
  return value


def _shape(value: Any) -> tuple[int, ...]:
  if not isinstance(value, list) or len(value) > 16:
    raise ValueError(f"a shape is {value!r}")
  return tuple(_integer(size, 0) for size in value)


def _pair(value: Any) -> tuple[int, int]:
  first, second = _shape(value)
  return first, second


def _tuples(value: Any) -> Any:
  return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
