"""Everything that runs on kernels, on a mesh of 8 devices: run as a program, it compares with the emulation."""

import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import dorefa_jax as dorefa
from dorefa_jax.ops.image_block import image_block
from tests.blocks import conv_block

BITS = dorefa.BitWidths(1, 2, 4)
KEY = jax.random.key(3)


def uniform(*shape, seed=0):
  return jax.random.uniform(jax.random.key(seed), shape)


def loss_of(layer, variables, x, bits):
  y = layer.apply(variables, x, bits=bits, rngs={"gradients": KEY})
  return jnp.sum(y * jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)), y


def step(layer, bits=None):
  return lambda variables, x: jax.value_and_grad(
    lambda variables, x: loss_of(layer, variables, x, bits), argnums=(0, 1), has_aux=True
  )(variables, x)


def layers(backend):
  dense = dorefa.linen.Dense(32, bits=BITS, backend=backend)
  conv = dorefa.linen.Conv(32, (3, 3), bits=BITS, backend=backend)
  image = dorefa.linen.Conv(8, (3, 3), padding="VALID", backend=backend)
  return {
    "dense": (dense, uniform(16, 32)),
    "conv": (conv, uniform(16, 6, 6, 32)),
    "image": (image, uniform(16, 8, 8, 3)),
  }


def blocks():
  x, w, norm = uniform(16, 6, 6, 16), uniform(3, 3, 16, 24, seed=1) - 0.5, jnp.stack([jnp.ones(24), jnp.zeros(24)])

  def block(w, x):
    return jax.value_and_grad(
      lambda w, x: (
        lambda out: (jnp.sum(out[0] * uniform(16, 3, 3, 24, seed=5) if out[0].shape[0] == 16 else out[0]), out)
      )(conv_block(x, w, norm, bits=BITS, key=KEY, padding="SAME", window=2)),
      argnums=(0, 1),
      has_aux=True,
    )(w, x)

  def images(w, x):
    return jax.value_and_grad(lambda w: jnp.sum(image_block(x, w, jnp.zeros(8)) ** 2))(w)

  return {"conv_block": (block, w, x), "image_block": (images, uniform(3, 3, 3, 8, seed=2) - 0.5, uniform(16, 8, 8, 3))}


def model_step(backend):
  model = dorefa.models.SvhnConvNet(width=0.25, backend=backend, dropout_rate=0.0)

  def run(variables, x):
    def loss(params):
      logits, updates = model.apply(
        {**variables, "params": params}, x, bits=BITS, train=True, mutable=["batch_stats"], rngs={"gradients": KEY}
      )
      return jnp.sum(logits**2), (logits, updates)

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])

  return model, run


def check(name, found, expected, tolerance=1e-4):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance * max(1.0, float(np.max(np.abs(b)))), err_msg=name
    ),
    found,
    expected,
  )


def on_mesh(kind):
  mesh = jax.make_mesh((8,), ("batch",), axis_types=({"explicit": AxisType.Explicit, "auto": AxisType.Auto}[kind],))

  def place(w, x):
    return jax.device_put(w, NamedSharding(mesh, P())), jax.device_put(x, NamedSharding(mesh, P("batch")))

  for backend in ("emulated", "auto", "integer"):
    for name, (layer, x) in layers(backend).items():
      variables = layer.init(jax.random.key(1), x)
      for bits in (None, jax.tree.map(jnp.int32, BITS)):
        if bits is not None and name == "image":
          continue
        expected = jax.jit(step(layer, bits))(variables, x)
        with jax.set_mesh(mesh):
          placed = place(variables, x)
          found = jax.jit(step(layer, bits))(*placed)
          if kind == "explicit":
            assert jax.typeof(found[0][1]).sharding.spec[0] == "batch", (backend, name, jax.typeof(found[0][1]))
            assert jax.typeof(found[1][1]).sharding.spec == jax.typeof(placed[1]).sharding.spec, (backend, name)
          check(f"{backend} {name}", found, expected)
  for name, (block, w, x) in blocks().items():
    expected = jax.jit(block)(w, x)
    with jax.set_mesh(mesh):
      check(name, jax.jit(block)(*place(w, x)), expected)
  images = uniform(8, 40, 40, 3)
  for backend in ("auto", "integer"):
    model, run = model_step(backend)
    variables = model.init(jax.random.key(1), images)
    expected = jax.jit(run)(variables, images)
    with jax.set_mesh(mesh):
      found = jax.jit(run)(*place(variables, images))
    # Gradients of a whole model are chaotic in the last bit of a sum; here they are asked to exist.
    check(f"model {backend}", found[0][1][0], expected[0][1][0], 5e-2)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(found[1])), backend
  packed = dorefa.freeze(model, variables, bits=BITS)
  expected = packed(images)
  with jax.set_mesh(mesh):
    found = packed(place(variables, images)[1])
  check("packed", found, expected)


def on_manual_axes():
  """Each device has its part of the batch; gradients of weights are summed where they do not vary."""
  mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))

  def split(function, w, x, checks, outs):
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=(P(), P("batch")), out_specs=outs, check_vma=checks))(
      w, x
    )

  for backend in ("emulated", "auto", "integer"):
    for name, (layer, x) in layers(backend).items():
      variables = layer.init(jax.random.key(1), x)

      def run(variables, x, layer=layer):
        (_, y), (dw, dx) = step(layer)(variables, x)
        return y, dw, dx

      expected = [run(variables, part) for part in jnp.split(x, 8)]
      y, dw, dx = split(run, variables, x, True, (P("batch"), P(), P("batch")))
      check(f"{backend} {name}", y, jnp.concatenate([part[0] for part in expected]))
      check(f"{backend} {name} dx", dx, jnp.concatenate([part[2] for part in expected]))
      check(f"{backend} {name} dw", dw, jax.tree.map(lambda *parts: sum(parts), *[part[1] for part in expected]))
  for name, (block, w, x) in blocks().items():

    def run_block(w, x, block=block):
      return jax.tree.map(lambda y: jnp.ones(1) * jnp.sum(y), block(w, x)[1])

    found = split(run_block, w, x, True, P() if name == "image_block" else (P(), P("batch")))
    parts = [run_block(w, part) for part in jnp.split(x, 8)]
    expected = jax.tree.map(lambda *parts: sum(parts), *parts)
    check(name, jax.tree.map(lambda y: jnp.sum(y, keepdims=True), found), expected, 1e-3)
  images = uniform(8, 40, 40, 3)
  model = dorefa.models.SvhnConvNet(width=0.25)
  variables = model.init(jax.random.key(1), images)
  packed = dorefa.freeze(model, variables, bits=BITS)
  found = jax.jit(jax.shard_map(packed, mesh=mesh, in_specs=P("batch"), out_specs=P("batch")))(images)
  check("packed", found, packed(images))


def on_mixed_axes():
  """Explicit axes beside automatic ones, and `jax.vmap` over an axis that is sharded."""
  for types in ((AxisType.Explicit, AxisType.Auto), (AxisType.Explicit, AxisType.Explicit)):
    mesh = jax.make_mesh((4, 2), ("batch", "model"), axis_types=types)
    for backend in ("emulated", "auto", "integer"):
      for name, (layer, x) in layers(backend).items():
        variables = layer.init(jax.random.key(1), x)

        def each(variables, x, layer=layer):
          def loss(variables):
            y = jax.vmap(lambda x: layer.apply(variables, x, rngs={"gradients": KEY}))(x[:, None])
            return jnp.sum(y * jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)), y

          return jax.value_and_grad(loss, has_aux=True)(variables)

        for run in (step(layer), each):
          expected = jax.jit(run)(variables, x)
          with jax.set_mesh(mesh):
            placed = (
              jax.device_put(variables, NamedSharding(mesh, P())),
              jax.device_put(x, NamedSharding(mesh, P("batch"))),
            )
            found = jax.jit(run)(*placed)
          assert jax.typeof(found[0][1]).sharding.spec[0] == "batch", (backend, name, jax.typeof(found[0][1]))
          check(f"{types} {backend} {name}", found, expected)
    for name, (block, w, x) in blocks().items():
      expected = jax.jit(block)(w, x)
      with jax.set_mesh(mesh):
        placed = jax.device_put(w, NamedSharding(mesh, P())), jax.device_put(x, NamedSharding(mesh, P("batch")))
        check(name, jax.jit(block)(*placed), expected)
    layer, x = layers("auto")["dense"]
    packed = dorefa.freeze(layer, layer.init(jax.random.key(1), x), input_shape=(32,))
    with jax.set_mesh(mesh):
      found = jax.jit(jax.vmap(lambda x, packed=packed: packed(x[None])[0]))(
        jax.device_put(x, NamedSharding(mesh, P("batch")))
      )
    check("packed", found, packed(x))


if __name__ == "__main__":
  {
    "explicit": lambda: on_mesh("explicit"),
    "auto": lambda: on_mesh("auto"),
    "manual": on_manual_axes,
    "mixed": on_mixed_axes,
  }[sys.argv[1]]()
