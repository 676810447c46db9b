"""The SVHN models A, B, C and D of the paper's section 3.1."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dorefa_jax.bits import BitWidths
from dorefa_jax.layer_bits import LayerBits
from dorefa_jax.linen import Dense
from dorefa_jax.linen.conv_block import ConvBlock
from dorefa_jax.methods.bounding import BoundKind
from dorefa_jax.methods.quantizers import Quantizers, check_quantizers
from dorefa_jax.ops.backends import Backend

MODEL_WIDTHS = {"A": 1.0, "B": 0.5, "C": 0.25, "D": 0.125}
"""The paper's names of the models, and their `width`."""


@dataclasses.dataclass(frozen=True)
class ConvSpec:
  """One convolution of the network, in model A."""

  features: int
  kernel: int
  padding: str = "VALID"
  pool: bool = False


CONVOLUTIONS = (
  ConvSpec(48, 5, pool=True),
  ConvSpec(64, 3, "SAME"),
  ConvSpec(64, 3, "SAME", pool=True),
  ConvSpec(128, 3),
  ConvSpec(128, 3, "SAME"),
  ConvSpec(128, 3),
  ConvSpec(512, 5),
)
MIN_IMAGE_SIZE = 40
MAX_WIDTH = 64
"""A layer of model A has 512 channels: beyond this there are more than a machine holds."""
BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-4}
INITIALIZER = nn.initializers.he_normal()


class SvhnConvNet(nn.Module):
  """Seven convolutions and a fully connected layer, for 40x40 images.

  A block is conv -> gradient quantizer -> batch norm -> (max pool) -> h -> activation
  quantizer; the last of these is the first act of the layer that takes the activation.
  The first convolution has a bias and no batch norm; its weights and gradients, and those
  of the last layer and the last layer's input, are not quantized unless asked for. An
  activation of 32 bits is bounded by a ReLU instead of h.

  Attributes:
    width: factor on the channels of all convolutions; A = 1, B = 1/2, C = 1/4, D = 1/8.
    num_classes: number of logits.
    backend: "auto", "emulated" or "integer", see `dorefa_jax.ops`.
    bits: W, A and G; a call's own `bits` go before them.
    quantizers: the method; a call's own go before it.
    quantize_first: quantize weights and gradients of the first convolution too. Its input,
      8-bit pixels, stays as it is.
    quantize_last: quantize input, weights and gradients of the last layer too.
    bound: h, "clip" or "abs_clip", see `dorefa_jax.bound`; by default that of the activation quantizer.
    dropout_rate: dropout in front of the last convolution.
    dtype: dtype of the computation, by default that of images and parameters.

  Raises:
    ValueError: `width` leaves a layer without channels.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> model = SvhnConvNet(width=0.125)
    >>> images = jnp.zeros((2, 40, 40, 3))
    >>> variables = model.init(jax.random.key(0), images)
    >>> model.apply(variables, images, bits=BitWidths(1, 2, 4)).shape
    (2, 10)

  References:
    arXiv 1606.06160, section 3.1.
  """

  width: float = 1.0
  num_classes: int = 10
  backend: Backend = "auto"
  bits: BitWidths | LayerBits = BitWidths()
  quantizers: Quantizers = Quantizers()
  quantize_first: bool = False
  quantize_last: bool = False
  bound: BoundKind | Literal["method"] = "method"
  dropout_rate: float = 0.5
  dtype: Any = None

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    *,
    bits: BitWidths | LayerBits | None = None,
    quantizers: Quantizers | None = None,
    train: bool = False,
  ) -> jax.Array:
    """Applies the network.

    Args:
      images: [batch, 40 or more, 40 or more, channels], floating, in [0, 1].
      bits: W, A and G instead of the model's own; may be traced.
      quantizers: those of this call instead of the model's own; arrays among their leaves may be traced.
      train: batch statistics and dropout; needs `mutable=["batch_stats"]` and PRNG streams
        "dropout" and, where G < 32, "gradients".

    Returns:
      [batch, num_classes] logits, float32 or wider.

    Raises:
      ValueError: images of another shape, or too small.
    """
    check_images(images)
    bits = self.bits if bits is None else bits
    rules = bits if isinstance(bits, LayerBits) else LayerBits((), bits)
    quantizers = check_quantizers(self.quantizers if quantizers is None else quantizers)
    # Rules that name an exempt layer go before its exemption.
    first, last = (rules.rule_of("/".join((*self.path, name))) for name in ("conv0", "fc"))
    exempt = ("activations",) if self.quantize_first or first else ("weights", "activations", "gradients")
    last_bits = last or (rules.default if self.quantize_last else BitWidths())
    features = scaled_features(self.width)

    x = images
    for index, spec in enumerate(CONVOLUTIONS):
      is_first, is_last = index == 0, index == len(CONVOLUTIONS) - 1
      block = ConvBlock(
        features[index],
        spec.kernel,
        padding=spec.padding,
        pool=2 if spec.pool else None,
        bound=self.bound,
        norm=not is_first,
        dropout_rate=self.dropout_rate if is_last else 0.0,
        full_precision=exempt if is_first else (),
        bits=self.bits,
        quantizers=self.quantizers,
        kernel_init=INITIALIZER,
        backend=self.backend,
        dtype=self.dtype,
        conv_name=f"conv{index}",
        norm_name=f"bn{index}",
        **BATCH_NORM,
      )
      nn.share_scope(self, block)  # the network's variables are named as the paper's layers
      x = block(x, bits=rules, quantizers=quantizers, train=train)
    x = x.reshape(x.shape[0], -1)
    x = Dense(
      self.num_classes,
      kernel_init=INITIALIZER,
      dtype=self.dtype,
      backend=self.backend,
      name="fc",
    )(x, bits=last_bits, quantizers=quantizers)
    return x if x.dtype.itemsize > 4 else x.astype(jnp.float32)

  def input_shape(self, params: Any) -> tuple[int, ...]:
    """The one shape of an image, without a batch axis, that parameters fit.

    Args:
      params: this network's parameters.

    Raises:
      ValueError: the parameters are another network's, or fit several sizes.
    """
    try:
      channels = params["conv0"]["kernel"].shape[2]
      positions = params["fc"]["kernel"].shape[0] // params["conv6"]["kernel"].shape[3]
    except (AttributeError, IndexError, KeyError, TypeError) as error:
      got = ", ".join(map(str, list(params)[:20])) if isinstance(params, Mapping) else type(params).__name__
      raise ValueError(f"the variables are not a SvhnConvNet's: params lacks {error}, and has {got}") from error
    if positions != 1:  # several sizes leave as many positions, and images need not be square
      raise ValueError(
        f"the model was initialized with images larger than {MIN_IMAGE_SIZE}x{MIN_IMAGE_SIZE}: pass their shape as "
        f"input_shape, such as ({MIN_IMAGE_SIZE + 8}, {MIN_IMAGE_SIZE + 8}, {channels})"
      )
    return MIN_IMAGE_SIZE, MIN_IMAGE_SIZE, channels


def scaled_features(width: float) -> tuple[int, ...]:
  """The channels of the seven convolutions at a width.

  Args:
    width: factor on the channels of model A.

  Returns:
    Seven channel counts.

  Raises:
    ValueError: a layer would have no channel, or more than a machine holds.

  Example:
    >>> scaled_features(0.125)
    (6, 8, 8, 16, 16, 16, 64)
  """
  if isinstance(width, bool) or not isinstance(width, (int, float)) or not math.isfinite(width):
    raise ValueError(f"width must be a finite number, got {width!r}")
  if width > MAX_WIDTH:
    raise ValueError(f"width must be at most {MAX_WIDTH}, got {width}")
  features = tuple(int(spec.features * width + 0.5) if width > 0 else 0 for spec in CONVOLUTIONS)
  if min(features) < 1:
    smallest = 0.5 / min(spec.features for spec in CONVOLUTIONS)
    raise ValueError(f"width must be at least {smallest:.4f} to leave every layer a channel, got {width}")
  return features


def check_images(images: jax.Array) -> None:
  """Raises ValueError unless `images` is a floating [batch, 40 or more, 40 or more, channels].

  Example:
    >>> import jax.numpy as jnp
    >>> check_images(jnp.zeros((1, 40, 40, 3)))
  """
  size = MIN_IMAGE_SIZE
  if images.ndim != 4 or min(images.shape[1:3]) < size:
    raise ValueError(f"images must be [batch, {size} or more, {size} or more, channels], got shape {images.shape}")
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(f"images must be floating, pixels divided by 256, got dtype {images.dtype}")
