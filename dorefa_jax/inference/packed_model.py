"""A frozen model: called like a function, saved as a file, described as a table."""

from __future__ import annotations

import errno
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dorefa_jax.inference.file_format import MAGIC, decode_graph, encode_graph
from dorefa_jax.inference.graph import Conv, Graph, Layer, Segment
from dorefa_jax.inference.runtime import run_graph
from dorefa_jax.kernels.availability import available


class PackedModel:
  """A model of packed integer weights, from `dorefa_jax.freeze` or `dorefa_jax.load`.

  Example:
    >>> import jax, jax.numpy as jnp, dorefa_jax as dorefa
    >>> model = dorefa.models.SvhnConvNet(width=0.125)
    >>> images = jnp.zeros((2, 40, 40, 3))
    >>> variables = model.init(jax.random.key(0), images)
    >>> packed = dorefa.freeze(model, variables, bits=dorefa.BitWidths(1, 2, 4))
    >>> packed(images).shape
    (2, 10)
  """

  def __init__(self, graph: Graph):
    self._graph = graph
    # A program is of one instruction set, by whose name JAX tells programs apart.
    self._run = jax.jit(lambda images, instruction_set: run_graph(graph, images), static_argnames="instruction_set")

  def __repr__(self) -> str:
    """The input's shape, the layers with weights, their bit widths and bytes."""
    layers = [layer for layer in self._layers() if isinstance(layer, Conv)]
    bits = sorted({f"W{layer.weight_bits}A{layer.activation_bits}" for layer in layers if layer.weight_bits})
    return (
      f"PackedModel(input_shape={self.input_shape}, layers={len(layers)}, bits={'+'.join(bits)}, "
      f"weight_bytes={self.weight_bytes})"
    )

  def __reduce__(self) -> tuple[Any, ...]:
    """Pickles as the file that `save` writes."""
    return _unpickle, (encode_graph(self._graph),)

  def __copy__(self) -> PackedModel:
    """Another model of the same graph, which never changes."""
    return PackedModel(self._graph)

  def __deepcopy__(self, memo: dict[int, Any]) -> PackedModel:
    """The same as a copy."""
    return PackedModel(self._graph)

  def _layers(self) -> list[Layer]:
    return [layer for node in self._graph.nodes if isinstance(node, Segment) for layer in node.layers]

  @property
  def graph(self) -> Graph:
    """What the model is made of."""
    return self._graph

  @property
  def input_shape(self) -> tuple[int, ...]:
    """The shape of an image."""
    return self._graph.input_shape

  def __call__(self, images: jax.Array) -> jax.Array:
    """Applies the model.

    Args:
      images: floating [batch, *input_shape], in [0, 1] where the model was trained on such.

    Returns:
      What the model gave before it was frozen; an image with a NaN gives NaN, and infinite values count as the
      model's first layer takes them.

    Raises:
      ValueError: images of another shape or dtype.
    """
    images = jnp.asarray(images)
    is_floating = jnp.issubdtype(images.dtype, jnp.floating)
    if images.shape[1:] != self.input_shape or images.ndim == 0 or not is_floating:
      hint = "" if is_floating else "; pixels of uint8 are divided by 256"
      if images.shape == self.input_shape:
        hint += "; one image is a batch of one, images[None]"
      raise ValueError(
        f"images must be floating [batch, {', '.join(map(str, self.input_shape))}], with values in [0, 1], "
        f"got {images.dtype} {list(images.shape)}{hint}"
      )
    return self._run(images.astype(jnp.float32), instruction_set=available().path)

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes the model to a file, atomically; through a symbolic link to the file that it names.

    Args:
      path: where to write, by convention with the suffix ".dorefa".

    Raises:
      OSError: the directory does not exist or cannot be written, or the path is a directory or a device.

    Example:
      >>> packed.save("model.dorefa")  # doctest: +SKIP
    """
    target = pathlib.Path(os.path.realpath(path))
    if not target.parent.is_dir():
      raise FileNotFoundError(errno.ENOENT, "no such directory", str(target.parent))
    if target.is_dir():
      raise IsADirectoryError(errno.EISDIR, "a directory is in the file's place", str(target))
    if target.exists() and not target.is_file():
      raise FileExistsError(errno.EEXIST, "not a regular file", str(target))
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
      partial.write_bytes(encode_graph(self._graph))
      os.replace(partial, target)
    finally:
      partial.unlink(missing_ok=True)

  def summary(self) -> str:
    """A table of the layers: what they take and give, and where floats are stored between them.

    Example:
      >>> print(packed.summary())  # doctest: +SKIP
    """
    lines = []
    for node in self._graph.nodes:
      if not isinstance(node, Segment):
        lines.append(f"  {node.name:28} float")
        continue
      note = next((self._graph.notes.get(layer.name) for layer in node.layers if isinstance(layer, Conv)), None)
      lines.append("integer segment" + (f" (reads floats: {note})" if note else ""))
      for layer, op in zip(node.layers, node.ops()):
        shape = "x".join(map(str, op.out_shape))
        if isinstance(layer, Conv):
          kind = f"W{layer.weight_bits}A{layer.activation_bits}" if layer.weight_bits else "float weights"
          lines.append(
            f"  {layer.name:28} {kind:14} {op.format.name.lower():6} -> {shape:12} {layer.output.name.lower()}"
          )
        else:
          lines.append(f"  {'max pool':28} {'codes':14} {op.format.name.lower():6} -> {shape}")
    return "\n".join(lines)

  @property
  def weight_bytes(self) -> int:
    """Bytes that the weights of the integer and first layers need, packed without gaps."""
    bits = 0
    for node in self._graph.nodes:
      if isinstance(node, Segment):
        bits += sum(layer.weights.size * (layer.weight_bits or 32) for layer in node.layers if isinstance(layer, Conv))
      else:
        bits += sum(32 * value.size for value in node.inputs if isinstance(value, np.ndarray))
    return -(-bits // 8)


def _unpickle(data: bytes) -> PackedModel:
  from dorefa_jax.inference.file_format import decode_graph

  return PackedModel(decode_graph(data))


def load(path: str | os.PathLike[str]) -> PackedModel:
  """Reads a packed model that `PackedModel.save` wrote.

  Args:
    path: the file.

  Returns:
    The model.

  Raises:
    ValueError: the file is no packed model, of another version, damaged, or asks for more than
      `dorefa_jax.inference.limits` allows: what is loaded can be called. Nothing in a file is executed.
    OSError: the file cannot be read.

  Example:
    >>> packed = load("model.dorefa")  # doctest: +SKIP
  """
  try:
    with open(path, "rb") as stream:
      head = stream.read(len(MAGIC))
      # Of another file, which may have no end, nothing more is read.
      return PackedModel(decode_graph(head + stream.read() if head == MAGIC else head))
  except ValueError as error:
    raise ValueError(f"{os.fspath(path)}: {error}") from error
