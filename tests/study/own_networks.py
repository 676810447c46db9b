"""Networks and methods as somebody else would write them, for tests of the study."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

import dorefa_jax as dorefa


class Plain(nn.Module):
  """A float network that knows nothing of bits."""

  num_classes: int
  features: int = 8

  @nn.compact
  def __call__(self, x, train: bool):
    x = nn.Conv(self.features, (3, 3), strides=2)(x)
    x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
    x = nn.Dropout(0.1, deterministic=not train)(x)
    return nn.Dense(self.num_classes)(x.mean((1, 2)))


class Quantized(nn.Module):
  """Layers of ours, bits and method in the call; no backend is named."""

  num_classes: int = 10
  features: int = 32
  quantizers: dorefa.Quantizers = dorefa.Quantizers()

  @nn.compact
  def __call__(self, x, *, bits, quantizers=None, deterministic=True):
    quantizers = quantizers or self.quantizers
    x = nn.Conv(self.features, (3, 3), strides=2, name="stem")(x)
    x = dorefa.linen.Conv(self.features, (3, 3), name="middle", quantizers=self.quantizers)(
      dorefa.bound(x), bits=bits, quantizers=quantizers
    )
    x = nn.LayerNorm()(x)
    return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


class Own(nnx.Module):
  """An nnx network with layers of ours, assigned their bits."""

  def __init__(self, num_classes: int, width: int = 8, *, quantizers=dorefa.Quantizers(), rngs: nnx.Rngs):
    self.stem = nnx.Conv(3, width, (3, 3), strides=2, rngs=rngs)
    self.norm = nnx.BatchNorm(width, rngs=rngs)
    self.middle = dorefa.nnx.Conv(width, width, (3, 3), quantizers=quantizers, rngs=rngs)
    self.dropout = nnx.Dropout(0.1, rngs=rngs)
    self.head = nnx.Linear(width, num_classes, rngs=rngs)

  def __call__(self, x):
    x = dorefa.bound(self.norm(self.stem(x)))
    x = self.dropout(self.middle(x))
    return self.head(x.mean((1, 2)))


def make_own(num_classes: int, *, rngs: nnx.Rngs):
  """A factory that is a function."""
  return Own(num_classes, 4, rngs=rngs)


def no_network(size: int = 3):
  """Makes something else."""
  return size


def method(scale: float = 1.0):
  """A method of one's own."""
  return dorefa.Quantizers(weights=lambda w, bits: scale * jnp.sign(w) + w - jax.lax.stop_gradient(w))


def images(count: int = 12):
  """Data of one's own: grey squares whose brightness is the class, of five."""
  labels = jnp.arange(count) % 5
  return (jnp.full((count, 12, 10), 50, jnp.uint8) * labels[:, None, None].astype(jnp.uint8), labels)
