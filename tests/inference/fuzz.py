"""A structure-aware fuzzer of packed files. File number `index` of a seed is always the same: `mutant(seed, index)`.

`python -m tests.inference.fuzz SEED FIRST COUNT` goes through files and prints counts; a fault ends it with the number
of the file. The compiled library is the one in the package or, as for the kernels' tests, DOREFA_JAX_TEST_LIBRARY.
"""

import collections
import copy
import functools
import hashlib
import json
import math
import os
import random
import struct
import sys
import time
import tracemalloc
import zlib

import numpy as np

from dorefa_jax.inference import file_format
from dorefa_jax.inference.float_ops import FLOAT_OPS
from dorefa_jax.inference.graph import Segment
from dorefa_jax.inference.limits import LOAD_BASE, LOAD_FACTOR
from dorefa_jax.kernels.program import Output
from tests.inference import oracle
from tests.inference.samples import random_graph
from tests.kernels import native

SAMPLES = 40
SECONDS = 1.0
"""Of processor time, for a file to be loaded or refused."""
TRACED = 50
"""One file in so many has its memory measured, which takes long."""
IN_XLA = 200
"""One accepted file in so many runs in XLA too, which has to compile it."""
INTERESTING = [
  -(2**63), -(2**31) - 1, -(2**31), -2, -1, 0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 64, 255, 256, 1000, 2**16,
  2**24, 2**24 + 1, 2**28, 2**31 - 1, 2**31, 2**53, 2**63, 10**30, True, False, None, "", "x", "codes", "float32",
  "GRADIENT", "bfloat16", "object", "\ud800", "a\nb", [], {}, [[]], [1], [0, 0], [1, 1, 1, 1], 0.5, 1e308,
  float("nan"), float("inf"), [float("nan")], {"array": 0}, {"array": 10**6}, list(range(40)), "y" * 500,
]  # fmt: skip


@functools.cache
def sample(number):
  """(bytes, header, arrays) of a sound file."""
  data = file_format.encode_graph(random_graph(np.random.default_rng(number)))
  _, size = struct.unpack_from("<II", data, 8)
  header, at, arrays = json.loads(zlib.decompress(data[16 : 16 + size])), 16 + size, []
  for spec in header["arrays"]:
    arrays.append(data[at : at + stored_size(spec)])
    at += len(arrays[-1])
  return data, header, arrays


def stored_size(spec):
  """Bytes that an array takes; raises where the fields are no sizes."""
  if not all(isinstance(size, int) for size in spec["shape"]):
    raise TypeError("sizes are integers")
  count = math.prod(spec["shape"])
  return -(-count * spec["bits"] // 8) if spec["bits"] is not None else count * np.dtype(spec["dtype"]).itemsize


def assemble(text, blobs, version=1):
  deflated = zlib.compress(text, 1)
  return sealed(file_format.MAGIC + struct.pack("<II", version, len(deflated)) + deflated + blobs)


def sealed(body):
  return body + hashlib.sha256(body).digest()


def mutant(seed, index):
  """(kind, bytes of a mutated file, bytes of the file it was made of)."""
  rng = random.Random(f"{seed}:{index}")
  data, header, arrays = sample(rng.randrange(SAMPLES))
  kind = rng.choices(["damaged", "mended", "header", "arrays"], [1, 2, 6, 2])[0]
  if kind == "damaged":
    return kind, _edit_bytes(rng, data), data
  if kind == "mended":
    return kind, sealed(_edit_bytes(rng, data[:-32])), data
  header, arrays = copy.deepcopy(header), list(arrays)
  if kind == "header":
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
      _edit_header(rng, header)
  if kind == "arrays" or rng.random() < 0.1:
    _edit_arrays(rng, header, arrays)
  if rng.random() < 0.7:
    _mend_sizes(rng, header, arrays)
  text = json.dumps(header)
  if rng.random() < 0.02:
    at = rng.randrange(len(text))
    text = text[:at] + rng.choice(["[" * 5000, "[]," * 30000, text[:at], '"', "1e400", "\\"]) + text[at:]
  return kind, assemble(text.encode(), b"".join(arrays)), data


def _edit_bytes(rng, data):
  data = bytearray(data)
  for _ in range(rng.choice([1, 1, 2, 8])):
    at = rng.randrange(min(len(data), rng.choice([24, 600, len(data)])))
    edit = rng.randrange(5)
    if edit == 0:
      data[at] ^= 1 << rng.randrange(8)
    elif edit == 1:
      data[at] = rng.choice([0, 1, 127, 128, 255])
    elif edit == 2:
      data[at:at] = rng.randbytes(rng.randrange(1, 9))
    elif edit == 3:
      del data[at : at + rng.randrange(1, 9)]
    else:
      del data[at:]
    if not data:
      break
  return bytes(data)


def _places(value, path=()):
  if path:
    yield path
  pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
  for key, inner in pairs:
    yield from _places(inner, (*path, key))


def _at(value, path):
  for key in path:
    value = value[key]
  return value


def _edit_header(rng, header):
  places = list(_places(header))
  inner = [path for path in places if "parameters" in path[:-1]] if rng.random() < 0.3 else []
  path = rng.choice(inner or places)
  parent, key = _at(header, path[:-1]), path[-1]
  old = parent[key]
  edit = rng.randrange(9)
  if edit == 0:
    parent[key] = copy.deepcopy(rng.choice(INTERESTING))
  elif edit == 1:
    del parent[key]
  elif edit == 2 and isinstance(parent, list):
    parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(old))
  elif edit == 3:  # another value of the same field: wiring, sizes, outputs, operations
    parent[key] = copy.deepcopy(_at(header, rng.choice([other for other in places if other[-1] == key])))
  elif edit == 4:
    parent[key] = copy.deepcopy(_at(header, rng.choice(places)))
  elif edit == 5 and isinstance(parent, list):
    rng.shuffle(parent)
  elif edit == 6 and isinstance(parent, dict):
    parent[rng.choice(["extra", "op", "window", "layers", "on_sums"])] = copy.deepcopy(rng.choice(INTERESTING))
  elif isinstance(old, int) and not isinstance(old, bool):
    parent[key] = rng.choice([old + 1, old - 1, 2 * old, -old, old * 100, old + rng.randrange(-9, 10)])
  elif isinstance(old, str):
    parent[key] = rng.choice(
      [*FLOAT_OPS, *Output.__members__, *file_format.SAVED_DTYPES, "codes", "int64", "float64", old + "x"]
    )


def _edit_arrays(rng, header, arrays):
  index = rng.randrange(len(arrays))
  specs = header.get("arrays")
  spec = specs[index] if isinstance(specs, list) and index < len(specs) else None
  blob = bytearray(arrays[index])
  if isinstance(spec, dict) and spec.get("dtype") in ("float32", "int32") and len(blob) >= 4 and rng.random() < 0.7:
    values = np.frombuffer(bytes(blob[: len(blob) // 4 * 4]), "<i4").copy()
    at = rng.randrange(len(values))
    special = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1e-45, 1e38, -1e38, 3.0, 0.5], np.float32).view(np.int32)
    values[at] = rng.choice([*special.tolist(), 0, 1, -1, 2**31 - 1, -(2**31), rng.getrandbits(31)])
    if rng.random() < 0.2:
      values = np.full_like(values, values[at])
    elif rng.random() < 0.2:
      values = np.sort(values)
    arrays[index] = values.tobytes()
    return
  for _ in range(rng.choice([1, 4, 100])):
    blob[rng.randrange(len(blob))] = rng.getrandbits(8)
  arrays[index] = bytes(blob)


def _mend_sizes(rng, header, arrays):
  """Fits the stored arrays to what the header says of them, so that other checks are reached."""
  specs = header.get("arrays")
  for index, spec in enumerate(specs if isinstance(specs, list) else []):
    try:
      size = stored_size(spec)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
      continue
    if isinstance(size, int) and 0 < size <= 1 << 20:
      blob = arrays[index] if index < len(arrays) else b""
      blob = blob[:size] + rng.randbytes(max(0, size - len(blob)))
      arrays[index : index + 1] = [blob]
  del arrays[len(specs) if isinstance(specs, list) else 0 :]


def check(seed, index, counts, seen):
  """Loads a file, and runs it if it is sound. Raises AssertionError with what is wrong.

  `counts` and `seen` are what the files before left: how many there were of each kind, and what needs no second look.
  """
  kind, data, original = mutant(seed, index)
  counts["files"] += 1
  is_traced = index % TRACED == 0
  if is_traced:
    tracemalloc.start()
  begin, graph, message = time.process_time(), None, ""
  try:
    graph = file_format.decode_graph(data)
  except ValueError as error:
    message = str(error)
  finally:
    seconds = time.process_time() - begin
    if is_traced:
      _, peak = tracemalloc.get_traced_memory()
      tracemalloc.stop()
      assert peak <= LOAD_BASE + LOAD_FACTOR * len(data), f"{peak} bytes for a file of {len(data)}"
  assert seconds <= SECONDS * (5 if is_traced else 1), f"{seconds} seconds"
  assert len(message) < 1500, "a long message"
  assert "\n" not in message, "a message of several lines"
  if graph is None:
    counts[f"{kind}: refused"] += 1
    return
  counts[f"{kind}: accepted"] += 1
  assert kind != "damaged" or data == original, "damage was not found"
  assert file_format.decode_graph(file_format.encode_graph(graph)).output == graph.output
  digest = hashlib.sha256(file_format.encode_graph(graph)).digest()[:8]
  if digest in seen:
    counts["the same as before"] += 1
    return
  seen.add(digest)
  rng = np.random.default_rng(index)
  if not oracle.is_small(graph):
    counts["too large to run"] += 1
    return
  for segment in (node for node in graph.nodes if isinstance(node, Segment)):
    x = rng.integers(-4, 21, (3, *segment.input_shape)).astype(np.float32) / 16
    counts["segments with codes that rounding decides"] += oracle.check_on_kernels(segment, x, native.paths())
    counts["segments"] += 1
  counts["ran"] += 1
  counts["float operations compiled"] += oracle.compile_float_operations(graph, seen)
  if not os.environ.get(native.LIBRARY_VARIABLE) and counts["ran"] % IN_XLA == 0:
    oracle.check_in_xla(graph, rng)
    counts["ran in XLA"] += 1


def go(seed, first, count, report=lambda counts: None):
  """Checks files `first` to `first + count - 1` of a seed; returns the counts."""
  counts, seen = collections.Counter(), set()
  for index in range(first, first + count):
    try:
      check(seed, index, counts, seen)
    except BaseException as error:
      error.add_note(f"file {index} of seed {seed}: python -m tests.inference.fuzz {seed} {index} 1")
      raise
    if (index - first + 1) % 5000 == 0:
      report(counts)
  return counts


if __name__ == "__main__":
  seed, first, count = map(int, sys.argv[1:])
  total = go(seed, first, count, lambda counts: print(json.dumps({"seed": seed, **counts}), flush=True))
  print("done", json.dumps({"seed": seed, **total}), flush=True)
