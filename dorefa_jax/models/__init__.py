"""Models of the paper."""

from dorefa_jax.models.svhn import SvhnConvNet as SvhnConvNet
