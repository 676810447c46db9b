"""Methods: each a file of quantizers of weights, activations and gradients."""

from dorefa_jax.methods.balanced import balanced as balanced
from dorefa_jax.methods.bernoulli import stochastic_bits as stochastic_bits
from dorefa_jax.methods.bi_real import bi_real as bi_real
from dorefa_jax.methods.bnn import bnn as bnn
from dorefa_jax.methods.fda_bnn import fda_bnn as fda_bnn
from dorefa_jax.methods.lsq import lsq as lsq
from dorefa_jax.methods.luq import luq as luq
from dorefa_jax.methods.pact import pact as pact
from dorefa_jax.methods.quantizers import dorefa as dorefa
from dorefa_jax.methods.ternary import ternary as ternary
from dorefa_jax.methods.xnor_net import xnor_net as xnor_net
