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
# # A packed network: size, speed, and one image's path through the integers
#
# A network with 1-bit weights and 2-bit activations is trained for a moment, frozen, and looked into: what it
# weighs, how fast it is, and what one image looks like between the layers, where there are only codes.

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
import statistics
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import dorefa_jax as dorefa
from dorefa_jax.inference.graph import Conv, Segment
from dorefa_jax.inference.runtime import layer_codes

print(dorefa.kernels.available())

# %% [markdown]
# ## Train
#
# The images are generated: four classes of stripes, in noise.


# %%
def stripes(rng, count):
  labels = rng.integers(0, 4, count)
  y, x = np.mgrid[0:40, 0:40]
  waves = np.stack([x, y, x + y, x - y])[labels] * 0.6 + rng.uniform(0, 6, (count, 1, 1))
  images = 0.5 + 0.25 * np.sin(waves)[..., None] + rng.normal(0, 0.15, (count, 40, 40, 3))
  return jnp.asarray(images.clip(0, 1), jnp.float32), jnp.asarray(labels)


bits = dorefa.BitWidths(weights=1, activations=2, gradients=4)
model = dorefa.models.SvhnConvNet(width=0.25, num_classes=4, dropout_rate=0.0)
rng = np.random.default_rng(0)
variables = model.init(jax.random.key(0), stripes(rng, 1)[0])
optimizer = optax.adam(2e-3)
state = optimizer.init(variables["params"])


@jax.jit
def step(variables, state, images, labels, key):
  def loss(params):
    logits, updates = model.apply(
      {**variables, "params": params}, images, bits=bits, train=True, mutable=["batch_stats"], rngs={"gradients": key}
    )
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates

  (value, updates), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
  changes, state = optimizer.update(gradients, state)
  return {"params": optax.apply_updates(variables["params"], changes), **updates}, state, value


for number in range(60):
  variables, state, value = step(variables, state, *stripes(rng, 64), jax.random.key(number))
print(f"loss of the last step: {value:.3f}")

# %% [markdown]
# ## Freeze
#
# Batch norm, bounding function and quantizer become thresholds of integer sums. The summary shows one segment:
# from the first layer's thresholds to the last quantized product nothing is stored but codes.

# %%
packed = dorefa.freeze(model, variables, bits=bits)
print(packed.summary())

# %%
images, labels = stripes(rng, 512)
evaluate = jax.jit(lambda images: model.clone(backend="emulated").apply(variables, images, bits=bits))
before, after = evaluate(images), packed(images)
print(f"accuracy before {(before.argmax(1) == labels).mean():.3f}, after {(after.argmax(1) == labels).mean():.3f}")
print(f"read differently: {(before.argmax(1) != after.argmax(1)).sum()} of {len(labels)}")
print(f"largest difference of logits: {jnp.abs(before - after).max():.1e}, largest logit {jnp.abs(before).max():.2f}")

# %% [markdown]
# ## Size

# %%
packed.save("stripes.dorefa")
size = pathlib.Path("stripes.dorefa").stat().st_size
floats = sum(leaf.size * 4 for leaf in jax.tree.leaves(variables["params"]))
print(f"{floats:,} bytes of float32 parameters, {size:,} in the file: {floats / size:.1f} times smaller")
print("the same after loading:", bool((dorefa.load("stripes.dorefa")(images) == after).all()))
pathlib.Path("stripes.dorefa").unlink()

# %% [markdown]
# ## Speed
#
# Times of this machine, whatever it is and does besides; `python -m benchmarks.inference` measures properly.


# %%
def median_ms(run):
  jax.block_until_ready(run())
  times = []
  for _ in range(15):
    start = time.perf_counter()
    jax.block_until_ready(run())
    times.append(time.perf_counter() - start)
  return statistics.median(times) * 1e3


for batch in (1, 128):
  given = images[:batch]
  slow, fast = median_ms(lambda given=given: evaluate(given)), median_ms(lambda given=given: packed(given))
  print(f"batch {batch}: {slow:.2f} ms emulated, {fast:.2f} ms packed, {slow / fast:.1f} times faster")

# %% [markdown]
# ## One image's path
#
# The codes that the layers give, channel by channel: 0 black, 3 white. Between the layers this is all there is,
# two bits a value.

# %%
segment = next(node for node in packed.graph.nodes if isinstance(node, Segment))
codes = [np.asarray(values[0]) for values in layer_codes(segment, images[:1])]
names = [layer.name if isinstance(layer, Conv) else "max pool" for layer in segment.layers][: len(codes)]
figure, axes = plt.subplots(2, len(codes) + 1, figsize=(2 * len(codes) + 2, 4.2), layout="constrained")
for row in range(2):
  axes[row, 0].imshow(images[0])
  axes[row, 0].set_title("image" if row == 0 else "")
  for column, (name, values) in enumerate(zip(names, codes), start=1):
    axes[row, column].imshow(values[..., row], cmap="gray", vmin=0, vmax=3)
    axes[row, column].set_title(f"{name}\n{values.shape[0]}x{values.shape[1]}x{values.shape[2]}" if row == 0 else "")
for axis in axes.flat:
  axis.set_axis_off()
plt.show()

# %%
figure, axis = plt.subplots(figsize=(8, 3), layout="constrained")
for code in range(4):
  axis.bar(
    np.arange(len(codes)) + 0.2 * code - 0.3, [(values == code).mean() for values in codes], 0.2, label=f"code {code}"
  )
axis.set(xticks=range(len(codes)), xticklabels=names, ylabel="share of values", title="which codes occur")
axis.legend()
plt.show()
