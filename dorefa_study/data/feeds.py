"""Where a training's batches come from: images on the device, of which a step takes some, or images that are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import jax
import numpy as np

from dorefa_study.data.dataset import Split
from dorefa_study.data.streamed import Source, read_batches

Batch = tuple[Any, Any, np.ndarray]
"""Images, labels, and the indices of those among them that make the batch."""


class Feed(Protocol):
  """A split as batches.

  Attributes:
    count: number of images.
    shape: [height, width, channels].
  """

  @property
  def count(self) -> int:
    """Number of images."""
    ...

  @property
  def shape(self) -> tuple[int, int, int]:
    """Of an image."""
    ...

  def batches(self, order: np.ndarray) -> Iterator[Batch]:
    """The batches of an order.

    Args:
      order: [batches, images of a batch] indices.
    """
    ...


@dataclasses.dataclass(frozen=True)
class DeviceFeed:
  """Images and labels on the device.

  Attributes:
    images: [n, height, width, channels] uint8.
    labels: [n] int32.
  """

  images: jax.Array
  labels: jax.Array

  @classmethod
  def of(cls, split: Split) -> DeviceFeed:
    """A split, brought to the device."""
    return cls(jax.device_put(split.images), jax.device_put(split.labels))

  @property
  def count(self) -> int:
    """Number of images."""
    return int(self.images.shape[0])

  @property
  def shape(self) -> tuple[int, int, int]:
    """Of an image."""
    _, height, width, channels = self.images.shape
    return height, width, channels

  def batches(self, order: np.ndarray) -> Iterator[Batch]:
    """All images each time, and the indices of a batch: the step gathers them."""
    for indices in order:
      yield self.images, self.labels, indices


@dataclasses.dataclass(frozen=True)
class StreamFeed:
  """Images that are read as they are needed, ahead of the steps.

  Attributes:
    source: images and labels.
    shape: [height, width, channels].
  """

  source: Source
  shape: tuple[int, int, int]

  @property
  def count(self) -> int:
    """Number of images."""
    return len(self.source)

  def batches(self, order: np.ndarray) -> Iterator[Batch]:
    """The images of each batch."""
    everything = np.arange(order.shape[1], dtype=np.int32)
    for split in read_batches(self.source, order):
      yield split.images, split.labels, everything
