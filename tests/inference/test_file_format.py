"""The file of a packed model: round trips, and hostile bytes."""

import copy
import dataclasses
import hashlib
import json
import os
import pickle
import struct
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dorefa_jax as dorefa
from dorefa_jax.inference import file_format, packed_model
from dorefa_jax.inference.graph import FloatNode
from dorefa_jax.inference.validate import check_graph


@pytest.fixture(scope="module")
def packed():
  model = dorefa.models.SvhnConvNet(width=0.125)
  variables = model.init(jax.random.key(0), jnp.zeros((1, 40, 40, 3)))
  return dorefa.freeze(model, variables, bits=dorefa.BitWidths(1, 2, 4))


@pytest.fixture(scope="module")
def data(packed):
  return file_format.encode_graph(packed.graph)


def parts(data):
  version, size = struct.unpack_from("<II", data, 8)
  return json.loads(zlib.decompress(data[16 : 16 + size])), data[16 + size : -32]


def join(header, blobs, version=1):
  return joined(json.dumps(header).encode(), blobs, version)


def joined(text, blobs, version=1):
  text = zlib.compress(text)
  body = file_format.MAGIC + struct.pack("<II", version, len(text)) + text + blobs
  return body + hashlib.sha256(body).digest()


def test_copies_and_pickles_are_the_same(packed, data):
  for again in (pickle.loads(pickle.dumps(packed)), copy.copy(packed), copy.deepcopy(packed)):
    assert file_format.encode_graph(again.graph) == data
  assert len(pickle.dumps(packed)) < len(data) + 200
  damaged = pickle.dumps(packed).replace(data[200:210], b"0123456789")
  with pytest.raises(ValueError, match="damaged"):
    pickle.loads(damaged)


def test_a_model_is_described(packed):
  text = f"PackedModel(input_shape=(40, 40, 3), layers=7, bits=W1A2, weight_bytes={packed.weight_bytes})"
  assert repr(packed) == text


@pytest.mark.parametrize(
  ("x", "hint"),
  [
    (np.zeros((2, 40, 40, 3), np.uint8), r"got uint8 \[2, 40, 40, 3\]; pixels of uint8 are divided by 256"),
    (np.zeros((40, 40, 3), np.float32), r"a batch of one, images\[None\]"),
    (np.zeros((1, 32, 32, 3), np.float32), r"floating \[batch, 40, 40, 3\], with values in \[0, 1\], got float32"),
  ],
)
def test_images_of_another_kind_are_refused(packed, x, hint):
  with pytest.raises(ValueError, match=hint):
    packed(x)


def test_endless_files_are_not_read():
  with pytest.raises(ValueError, match="not a dorefa model file"):
    dorefa.load("/dev/zero")


def test_a_saved_model_is_the_same(packed, tmp_path):
  path = tmp_path / "model.dorefa"
  packed.save(path)
  x = jnp.asarray(np.random.default_rng(0).random((3, 40, 40, 3), np.float32))
  loaded = dorefa.load(path)
  np.testing.assert_array_equal(loaded(x), packed(x))
  assert loaded.summary() == packed.summary()
  assert [p.name for p in tmp_path.iterdir()] == ["model.dorefa"]
  assert file_format.encode_graph(loaded.graph) == path.read_bytes()


def test_weights_take_the_bits_that_they_need():
  model = dorefa.models.SvhnConvNet(width=1.0)
  variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 40, 40, 3), jnp.float32))
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.5, 0.1, leaf.shape), leaf.dtype), variables)
  packed = dorefa.freeze(model, variables, bits=dorefa.BitWidths(1, 2, 4))
  size = len(file_format.encode_graph(packed.graph))
  floats = sum(leaf.size * 4 for leaf in jax.tree.leaves(variables["params"]))
  assert size <= 1.05 * packed.weight_bytes
  assert floats >= 27 * size


@given(data=st.data())
def test_codes_are_packed_without_gaps(data):
  bits, shape = data.draw(st.integers(1, 8)), tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
  codes = np.random.default_rng(0).integers(0, 2**bits, shape).astype(np.uint8)
  packed = file_format.pack_codes(codes, bits)
  assert len(packed) == -(-codes.size * bits // 8)
  np.testing.assert_array_equal(file_format.unpack_codes(memoryview(packed), shape, bits), codes)


@given(draw=st.data())
def test_damage_is_found(data, draw):
  kind = draw.draw(st.sampled_from(["cut", "flip", "add"]))
  at = draw.draw(st.integers(0, len(data) - 1))
  if kind == "cut":
    damaged = data[:at]
  elif kind == "flip":
    damaged = data[:at] + bytes([data[at] ^ (1 << draw.draw(st.integers(0, 7)))]) + data[at + 1 :]
  else:
    damaged = data[:at] + draw.draw(st.binary(min_size=1, max_size=9)) + data[at:]
  with pytest.raises(ValueError, match="damaged|cut off|not a dorefa model file|version"):
    file_format.decode_graph(damaged)


VALUES = st.one_of(
  st.integers(-(2**70), 2**70), st.sampled_from([0, 1, -1, 2**31 - 1, None, True, "x", [], {}, 1e308, float("nan")]),
  st.lists(st.integers(-2, 2**40), max_size=4),
)  # fmt: skip


def places(value, path=()):
  yield path
  items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
  for key, inner in items:
    yield from places(inner, (*path, key))


@given(draw=st.data())
@settings(max_examples=150)
def test_a_hostile_header_with_a_right_checksum_is_an_error_or_a_sound_model(data, draw):
  header, blobs = parts(data)
  for _ in range(draw.draw(st.integers(1, 2))):
    path = draw.draw(st.sampled_from([path for path in places(header) if path]))
    target = header
    for key in path[:-1]:
      target = target[key]
    if draw.draw(st.booleans()):
      target[path[-1]] = draw.draw(VALUES)
    else:
      del target[path[-1]]
  try:
    graph = file_format.decode_graph(join(header, blobs))
  except ValueError:
    return
  check_graph(graph)


@given(noise=st.binary(max_size=400))
def test_noise_is_no_model(noise):
  for body in (noise, file_format.MAGIC + noise):
    with pytest.raises(ValueError, match="not a dorefa model file|cut off|version|damaged"):
      file_format.decode_graph(body)


@pytest.mark.parametrize(
  ("name", "parameters", "message"),
  [
    ("broadcast_in_dim", {"shape": (1, 2**30, 10), "broadcast_dimensions": (0, 2)}, "elements"),
    ("reduce_window_sum", {"window_dimensions": (1, 2**34), "window_strides": (1, 1), "padding": ((0, 0), (0, 2**34)),
                           "base_dilation": (1, 1), "window_dilation": (1, 1)}, "operations|elements|fit|beyond"),
    ("reduce_window_sum", {"window_dimensions": (1, 1), "window_strides": (1, 1), "padding": ((0, 0), (0, 0)),
                           "base_dilation": (1, 1), "window_dilation": (1, 1, 1)}, "are not 2 positive integers each"),
    ("system", {}, "unknown operation"),
    ("convert_element_type", {"new_dtype": "object"}, "of another kind"),
    ("reshape", {"new_sizes": (7, 7)}, "does not fit|no batch"),
  ],
)  # fmt: skip
def test_wild_operations_are_refused(packed, name, parameters, message):
  graph = packed.graph
  last = FloatNode(name, parameters, (graph.output,), 10**6)
  with pytest.raises(ValueError, match=message):
    check_graph(dataclasses.replace(graph, nodes=(*graph.nodes, last), output=10**6))


@pytest.mark.parametrize(
  ("at", "value", "message"),
  [
    (("arrays", 0, "shape"), [1, 1, 0, 2**31 - 1], "array 0 has 0 elements"),
    (("arrays", 0, "dtype"), "object", "elements of 'object'"),
    (("arrays", 0, "bits"), True, "an integer in .1, 8., got True"),
    (("nodes", 0, "layers", 0, "output"), "GRADIENT", "output is one of FLOATS, AFFINE, THRESHOLDS, VALLEY"),
    (("nodes", 0, "layers", 0, "name"), "a\nb", "expected a name"),
    (("nodes", 0, "layers", 0, "strides"), [1, 1, 1], "a list of 2 items"),
    (("nodes", 0, "layers", 0, "strides"), [1.0, 1], "expected an integer, got 1.0"),
    (("nodes", 0, "layers", 0, "groups"), -1, "an integer in .1"),
    (("nodes", 0, "layers", 0, "extra"), 1, "an object with name"),
    (("nodes", 0, "layers", 1, "on_sums"), 1, "true or false, got 1"),
    (("nodes", 0, "layers", 2, "weights"), 0, "array 0 does not exist, or is used twice"),
    (("nodes", -1, "parameters"), {"x": [[[[[[]]]]]]}, "unexpected parameter"),
    (("nodes", -1, "parameters"), {"x": [0] * 17}, "unexpected parameter"),
    (("nodes", -1, "parameters"), {"axes": None}, "has the parameters"),
    (("notes",), [], "an object at .notes."),
    (("output",), 10**6, "is never made"),
  ],
)
def test_a_header_with_one_wrong_field_is_refused(data, at, value, message):
  header, blobs = parts(data)
  target = header
  for key in at[:-1]:
    target = target[key]
  target[at[-1]] = value
  with pytest.raises(ValueError, match=message):
    file_format.decode_graph(join(header, blobs))


def test_a_key_twice_and_numbers_that_are_none_are_refused(data):
  header, blobs = parts(data)
  text = json.dumps(header)
  for twice in (text[:-1] + ', "output": 1}', text.replace('"groups": 1', '"groups": NaN', 1)):
    with pytest.raises(ValueError, match="a key twice|an integer, got NaN"):
      file_format.decode_graph(joined(twice.encode(), blobs))


def with_weights(data, index, change):
  """The file with the shape of a layer's weights changed."""
  header, blobs = parts(data)
  spec = header["arrays"][header["nodes"][0]["layers"][index]["weights"]]
  spec["shape"] = change(spec["shape"])
  return join(header, blobs)


@pytest.mark.parametrize("index", [0, 2])
def test_weights_have_four_axes(data, index):
  for change in (lambda s: [s[0] * s[1], s[2] * s[3]], lambda s: [1, *s]):
    with pytest.raises(ValueError, match="weights of 4 axes"):
      file_format.decode_graph(with_weights(data, index, change))


def test_another_version_and_a_missing_file_are_named(data, tmp_path):
  header, blobs = parts(data)
  path = tmp_path / "new.dorefa"
  path.write_bytes(join(header, blobs, version=2))
  with pytest.raises(ValueError, match=r"new.dorefa: the file has version 2; this library reads version 1"):
    dorefa.load(path)
  with pytest.raises(FileNotFoundError):
    dorefa.load(tmp_path / "none.dorefa")


def test_a_failed_save_leaves_the_old_file(packed, tmp_path, monkeypatch):
  path = tmp_path / "model.dorefa"
  packed.save(path)
  before = path.read_bytes()
  monkeypatch.setattr(packed_model, "encode_graph", lambda graph: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    packed.save(path)
  assert path.read_bytes() == before


def test_a_file_is_saved_through_a_link_and_over_no_device(packed, tmp_path):
  (tmp_path / "link.dorefa").symlink_to(tmp_path / "real.dorefa")
  packed.save(tmp_path / "link.dorefa")
  assert (tmp_path / "link.dorefa").is_symlink()
  assert (tmp_path / "real.dorefa").is_file()
  os.mkfifo(tmp_path / "pipe")
  with pytest.raises(OSError, match="not a regular file"):
    packed.save(tmp_path / "pipe")
  assert (tmp_path / "pipe").is_fifo()
