"""Our layers under flax's protocols for modules, side by side with flax's own layers."""

import copy
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import dorefa_jax as dorefa

BITS = dorefa.BitWidths(1, 2, 4)
PAIRS = {"dense": (nn.Dense, dorefa.linen.Dense), "conv": (nn.Conv, dorefa.linen.Conv)}
NNX_PAIRS = {"linear": (nnx.Linear, dorefa.nnx.Linear), "conv": (nnx.Conv, dorefa.nnx.Conv)}
SHAPES = {"dense": (4, 16), "linear": (4, 16), "conv": (4, 6, 6, 16)}


def inputs(kind):
  return jnp.full(SHAPES[kind], 0.5)


def arguments(kind):
  return (18, (3, 3)) if kind == "conv" else (18,)


def shapes(tree):
  return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)


def partitioned():
  return nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))


def captured(layer, variables, x):
  return shapes(layer.apply(variables, x, capture_intermediates=True)[1])


def intercepted(layer, variables, x):
  seen = []

  def record(method, args, kwargs, context):
    seen.append((context.method_name, context.module.path))
    return method(*args, **kwargs)

  with nn.intercept_methods(record):
    layer.apply(variables, x)
  return seen


def shared_scope(layer, variables, x):
  class Outer(nn.Module):
    @nn.compact
    def __call__(self, x):
      inner = type(layer)(*arguments_of(layer))
      nn.share_scope(self, inner)
      return inner(x)

  return shapes(Outer().init(jax.random.key(0), x))


def lifted(layer, variables, x):
  many = nn.vmap(type(layer), variable_axes={"params": 0}, split_rngs={"params": True, "gradients": True})
  fields = {"kernel_size": layer.kernel_size} if isinstance(layer, nn.Conv) else {}
  return shapes(many(features=18, **fields).init(jax.random.key(0), jnp.stack([x, x])))


def differentiated(layer, variables, x):
  def loss(variables):
    return jnp.sum(layer.apply(variables, x, rngs={"gradients": jax.random.key(1)}))

  return jax.tree.structure(jax.grad(loss)(variables))


LINEN = {
  "captured": captured,
  "intercepted": intercepted,
  "shared_scope": shared_scope,
  "lifted": lifted,
  "differentiated": differentiated,
  "bound": lambda layer, variables, x: layer.bind(variables)(x).shape,
  "specs": lambda layer, variables, x: nn.get_partition_spec(variables),
  "tabulated": lambda layer, variables, x: layer.tabulate(jax.random.key(0), x).count("kernel"),
  "copied": lambda layer, variables, x: copy.deepcopy(layer).apply(variables, x).shape,
  "remat": lambda layer, variables, x: nn.remat(type(layer))(*arguments_of(layer)).apply(variables, x).shape,
  "weight_norm": lambda layer, variables, x: shapes(nn.WeightNorm(layer).init(jax.random.key(0), x)),
}


def arguments_of(layer):
  return arguments("conv" if isinstance(layer, nn.Conv) else "dense")


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("protocol", LINEN)
@pytest.mark.parametrize("fields", [{}, {"kernel_init": partitioned}])
def test_linen_layers_follow_a_protocol_as_flax_own(kind, protocol, fields):
  fields = {name: value() if value is partitioned else value for name, value in fields.items()}
  if "kernel_init" in fields and kind == "conv":
    fields["kernel_init"] = nn.with_partitioning(nn.initializers.lecun_normal(), (None, None, None, "model"))
  x, results = inputs(kind), []
  for layer_type, ours in zip(PAIRS[kind], ({}, {"bits": BITS})):
    layer = layer_type(*arguments(kind), **fields, **ours)
    results.append(LINEN[protocol](layer, layer.init(jax.random.key(0), x), x))
  assert results[0] == results[1]


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16, jnp.float16])
def test_types_of_parameters_and_results_are_flax_own(kind, dtype):
  x, results = inputs(kind).astype(jnp.bfloat16), []
  for layer_type, ours in zip(PAIRS[kind], ({}, {"bits": BITS})):
    layer = layer_type(*arguments(kind), param_dtype=jnp.bfloat16, dtype=dtype, **ours)
    results.append(shapes(layer.init_with_output(jax.random.key(0), x)))
  assert results[0] == results[1]


def merged(layer, x):
  return shapes(nnx.merge(*nnx.split(layer))(x))


def ensemble(layer, x):
  many = nnx.vmap(lambda rngs: type(layer)(*arguments_of_nnx(layer), rngs=rngs))(
    nnx.Rngs(jax.random.split(jax.random.key(0), 3))
  )
  return shapes(nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None))(many, x))


def arguments_of_nnx(layer):
  return (16, *arguments("conv" if isinstance(layer, nnx.Conv) else "linear"))


NNX = {
  "merged": merged,
  "ensemble": ensemble,
  "cloned": lambda layer, x: shapes(nnx.clone(layer)(x)),
  "copied": lambda layer, x: shapes(copy.deepcopy(layer)(x)),
  "pickled": lambda layer, x: shapes(pickle.loads(pickle.dumps(layer))(x)),
  "abstract": lambda layer, x: shapes(nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: layer), nnx.Param))),
  "evaluated": lambda layer, x: nnx.eval_shape(lambda layer, x: layer(x), layer, x).shape,
  "jit": lambda layer, x: shapes(nnx.jit(lambda layer, x: layer(x))(layer, x)),
  "remat": lambda layer, x: shapes(nnx.remat(lambda layer, x: layer(x))(layer, x)),
  "differentiated": lambda layer, x: shapes(
    nnx.to_pure_dict(nnx.jit(nnx.grad(lambda layer, x: jnp.sum(layer(x))))(layer, x))
  ),
  "parameters": lambda layer, x: shapes(nnx.to_pure_dict(nnx.state(layer, nnx.Param))),
  "metadata": lambda layer, x: layer.kernel.get_metadata().get("note"),
}


@pytest.mark.parametrize("kind", NNX_PAIRS)
@pytest.mark.parametrize("protocol", NNX)
def test_nnx_layers_follow_a_protocol_as_flax_own(kind, protocol):
  x, results = inputs(kind), []
  for layer_type, ours in zip(NNX_PAIRS[kind], ({}, {"bits": BITS})):
    layer = layer_type(16, *arguments(kind), rngs=nnx.Rngs(0), kernel_metadata={"note": 1}, **ours)
    results.append(NNX[protocol](layer, x))
  assert results[0] == results[1]


@pytest.mark.parametrize("rngs", [nnx.Rngs(params=1), nnx.Rngs(params=1, dropout=2)])
def test_rngs_without_a_stream_for_gradients_are_no_source_of_keys(rngs):
  layer = dorefa.nnx.Linear(16, 18, bits=BITS, rngs=rngs)
  x = inputs("linear")
  assert layer(x).shape == layer(x, rngs=rngs).shape == (4, 18)
  with pytest.raises(ValueError, match="no PRNG key"):
    nnx.grad(lambda layer: jnp.sum(layer(x, rngs=rngs)))(layer)


@pytest.mark.parametrize(
  "source", [nnx.Rngs(0), nnx.Rngs(gradients=1), nnx.Rngs(gradients=1).gradients, jax.random.key(1)]
)
def test_sources_of_keys(source):
  layer = dorefa.nnx.Linear(16, 18, bits=BITS, rngs=nnx.Rngs(params=0))
  gradient = nnx.grad(lambda layer, source: jnp.sum(layer(inputs("linear"), rngs=source)))(layer, source)
  assert jnp.all(jnp.isfinite(gradient["kernel"][...]))


def test_a_mask_runs_on_every_backend():
  x = inputs("conv")
  layer = dorefa.linen.Conv(18, (3, 3), mask=jnp.ones((3, 3, 16, 18)), bits=BITS, backend="integer")
  variables = layer.init(jax.random.key(0), x)
  expected = layer.clone(backend="emulated").apply(variables, x)
  assert jnp.abs(layer.apply(variables, x) - expected).max() < 1e-5


def test_a_symbolic_batch_is_emulated_or_refused():
  (batch,) = jax.export.symbolic_shape("batch")
  x = jax.ShapeDtypeStruct((batch, 16), jnp.float32)
  layer = dorefa.linen.Dense(18, bits=BITS)
  variables = layer.init(jax.random.key(0), jnp.ones((2, 16)))
  exported = jax.export.export(jax.jit(layer.apply))(variables, x)
  assert jnp.all(exported.call(variables, jnp.ones((3, 16))) == layer.apply(variables, jnp.ones((3, 16))))
  with pytest.raises(ValueError, match="backend 'integer': sizes must be numbers"):
    jax.export.export(jax.jit(layer.clone(backend="integer").apply))(variables, x)


@pytest.mark.parametrize(
  "layer",
  [dorefa.linen.Dense(18, bits=BITS, backend="integer"), dorefa.linen.Conv(16, (3, 3), bits=BITS, backend="integer")],
)
def test_a_second_derivative_is_refused_with_the_way_out(layer):
  if not dorefa.kernels.available().is_compiled:
    pytest.skip("no compiled library")
  x = inputs("dense" if isinstance(layer, nn.Dense) else "conv")
  variables = layer.init(jax.random.key(0), x)

  def loss(x):
    return jnp.sum(layer.apply(variables, x, rngs={"gradients": jax.random.key(1)}) ** 2)

  with pytest.raises(ValueError, match="backend='emulated'"):
    jax.grad(lambda x: jnp.sum(jax.grad(loss)(x)))(x)


def test_a_kernel_by_itself_is_not_differentiated():
  if not dorefa.kernels.available().is_compiled:
    pytest.skip("no compiled library")
  weights = dorefa.kernels.pack_weights(jnp.ones((16, 18), jnp.uint8), bits=1, activation_bits=2)
  for differentiate in (jax.grad, jax.jacfwd):
    with pytest.raises(ValueError, match="backend='emulated'"):
      differentiate(lambda x: jnp.sum(dorefa.kernels.dot(x, weights, activation_bits=2)))(jnp.ones((3, 16)))


def test_a_view_of_nnx_layers_is_in_evaluation():
  layer = dorefa.nnx.Linear(32, 16, bits=dorefa.BitWidths(1, 2, 4), rngs=nnx.Rngs(0))
  model = nnx.Sequential(layer, nnx.Dropout(0.5, rngs=nnx.Rngs(1)))
  view = nnx.view(model, deterministic=True)
  assert [part.deterministic for part in view.layers] == [True, True]
  assert not layer.deterministic


@pytest.mark.parametrize("backend", ["emulated", "auto", "integer"])
def test_an_empty_result_is_emulated_or_refused(backend):
  layer = dorefa.linen.Conv(16, (3, 3), padding="VALID", bits=dorefa.BitWidths(1, 2, 4), backend=backend)
  variables = layer.init(jax.random.key(0), jnp.ones((1, 4, 4, 16)))

  def loss(x):
    return layer.apply(variables, x, rngs={"gradients": jax.random.key(1)}).sum()

  x = jnp.ones((1, 2, 2, 16))
  if backend == "integer":
    with pytest.raises(ValueError, match="is smaller than the kernel"):
      jax.grad(loss)(x)
  else:
    assert not jax.grad(loss)(x).any()
