# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # dorefa_jax in ten minutes
#
# DoReFa-Net trains networks whose weights, activations **and gradients** have a few bits each. This
# notebook plots its quantizers with the gradients that they pretend to have, swaps quantized layers
# into a small model, trains it for ten steps, and prints what the model costs.

# %%
# Installs the package where it is missing, as on Colab: from the checkout that this notebook lies in, or by name.
import importlib.util
import pathlib
import subprocess
import sys

if importlib.util.find_spec("dorefa_jax") is None:
  source = ".." if pathlib.Path("../pyproject.toml").exists() else "dorefa-jax"
  subprocess.run([sys.executable, "-m", "pip", "install", "-q", source, "matplotlib"], check=True)

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import dorefa_jax as dorefa

# %% [markdown]
# ## Quantizers and their surrogate gradients
#
# Each quantizer is a pure function. Its true derivative is zero almost everywhere, so each defines the
# derivative that training uses instead: the straight-through estimator.


# %%
def plot(title, function, low, high, settings):
  x = jnp.linspace(low, high, 801)
  figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
  for bits in settings:
    y, vjp = jax.vjp(lambda x, bits=bits: function(x, bits), x)
    left.plot(x, y, label=f"{bits} bits")
    right.plot(x, vjp(jnp.ones_like(x))[0], label=f"{bits} bits")
  left.set(title=title, xlabel="input", ylabel="output")
  right.set(title="surrogate gradient", xlabel="input", ylim=(-0.2, 2.2))
  left.legend()
  plt.show()


plot(
  "activations: quantize(bound(x))",
  lambda x, bits: dorefa.quantize_activations(dorefa.bound(x), bits),
  -0.5,
  1.5,
  (1, 2, 4),
)

# %% [markdown]
# Weights of one bit keep their sign and share one scale; of more bits they pass through tanh. (The
# paper lets the gradient flow through the maximum too, which gives one weight a very large gradient;
# `stop_max_gradient` leaves that out, for a plot that can be read.)

# %%
plot(
  "weights",
  lambda w, bits: dorefa.quantize_weights(w, bits, stop_max_gradient=True),
  -2.0,
  2.0,
  (1, 2, 3),
)

# %% [markdown]
# The gradient quantizer does nothing on the way forward. On the way back it rounds at random, up with
# the probability of the fraction: a single draw is coarse, its expectation is exact.

# %%
g = jnp.linspace(-1, 1, 401)[None]


def quantized_gradient(key, bits):
  _, vjp = jax.vjp(lambda x: dorefa.quantize_gradients(x, key, bits), jnp.zeros_like(g))
  return vjp(g)[0]


keys = jax.random.split(jax.random.key(0), 1000)
draws = jax.vmap(lambda key: quantized_gradient(key, 2))(keys)
plt.figure(figsize=(6, 3), layout="constrained")
plt.plot(g[0], draws[0, 0], ".", markersize=3, label="one draw, 2 bits")
plt.plot(g[0], draws.mean(0)[0], label="mean of 1000 draws")
plt.gca().set(xlabel="gradient", ylabel="quantized gradient")
plt.legend()
plt.show()
assert np.abs(draws.mean(0) - g).max() < 0.1

# %% [markdown]
# ## Quantized layers in a small model
#
# `dorefa.linen.Conv` and `Dense` take flax's arguments and have flax's parameters. Only the class is
# swapped; a checkpoint of the float model loads as it is. Bit widths belong to the call, so one set of
# parameters runs at any precision.


# %%
class SmallNet(nn.Module):
  layers: object = nn

  @nn.compact
  def __call__(self, x, **call):
    x = nn.Conv(16, (3, 3), strides=2)(x)  # the first layer stays in float
    for _ in range(2):
      x = dorefa.bound(nn.GroupNorm(num_groups=4)(x))
      x = self.layers.Conv(32, (3, 3), strides=2)(x, **call)
    x = nn.relu(x).mean((1, 2))
    return nn.Dense(2)(x)  # and so does the last


images = jax.random.uniform(jax.random.key(1), (64, 16, 16, 1))
labels = (images[:, :, :8].mean((1, 2, 3)) > images[:, :, 8:].mean((1, 2, 3))).astype(jnp.int32)

float_model, model = SmallNet(), SmallNet(layers=dorefa.linen)
variables = float_model.init(jax.random.key(0), images)
same = jnp.array_equal(float_model.apply(variables, images), model.apply(variables, images))
print("the float checkpoint gives the same numbers in the quantized model at 32 bits:", bool(same))
assert same

# %% [markdown]
# ## Ten steps of training with 1-bit weights, 2-bit activations and 4-bit gradients
#
# The noise of the gradients comes from an explicit key. Without the key, differentiating raises an
# error: the quantizer is never left out silently.

# %%
bits = dorefa.BitWidths(weights=1, activations=2, gradients=4)
optimizer = optax.adam(1e-2)


def loss(variables, key):
  logits = model.apply(variables, images, bits=bits, rngs={"gradients": key})
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@jax.jit
def step(variables, state, key):
  value, gradients = jax.value_and_grad(loss)(variables, key)
  updates, state = optimizer.update(gradients, state)
  return optax.apply_updates(variables, updates), state, value


state, losses = optimizer.init(variables), []
for index in range(10):
  variables, state, value = step(variables, state, jax.random.fold_in(jax.random.key(2), index))
  losses.append(float(value))
print("loss:", " ".join(f"{value:.3f}" for value in losses))
assert min(losses[-3:]) < losses[0]

# %%
try:
  jax.grad(lambda v: model.apply(v, images, bits=bits).sum())(variables)
except ValueError as error:
  print(error)

# %% [markdown]
# ## What it costs
#
# `summary` traces a model and counts, without computing anything. Here is the paper's SVHN model A.

# %%
print(dorefa.summary(dorefa.models.SvhnConvNet(), (1, 40, 40, 3), bits=bits))
