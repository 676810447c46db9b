"""What freeze is given: variables, shapes, and models whose call has flags."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dorefa_jax as dorefa

BITS = dorefa.BitWidths(1, 2, 32)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"bits": dorefa.BitWidths(jnp.int32(1), 2, 4), "input_shape": (4,)}, "static bit widths"),
    ({}, "needs input_shape"),
    ({"input_shape": (4,), "variables": None}, "needs the variables"),
    ({"input_shape": (4, 0)}, "positive integers"),
    ({"input_shape": (4,)}, "nothing to pack"),
    ({"bits": dorefa.BitWidths(16, 2, 32), "input_shape": (4,)}, "of 1 to 8 bits, got 16,2,32"),
  ],
)
def test_bad_arguments_are_refused(arguments, message):
  model = dorefa.linen.Dense(3)
  variables = arguments.pop("variables", model.init(jax.random.key(0), jnp.zeros((1, 4))))
  with pytest.raises(ValueError, match=message):
    dorefa.freeze(model, variables, **arguments)


def svhn_variables(size):
  model = dorefa.models.SvhnConvNet(width=0.125)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
  return model, jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1, leaf.dtype), shapes)


def test_images_of_another_size():
  model, variables = svhn_variables(48)
  with pytest.raises(ValueError, match=r"larger than 40x40: pass their shape as input_shape, such as \(48, 48, 3\)"):
    dorefa.freeze(model, variables, bits=BITS)
  assert dorefa.freeze(model, variables, bits=BITS, input_shape=(48, 48, 3)).input_shape == (48, 48, 3)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda v: None, "needs the variables"),
    (lambda v: v["params"], "with the key 'params', as model.init returns, got the keys bn1, bn2"),
    (lambda v: {"params": {"layer": 1}}, "params lacks 'conv0', and has layer"),
    (lambda v: {"params": None}, "and has NoneType"),
    (lambda v: {"params": v["params"]}, '"mean" from collection "batch_stats" in "/bn1"'),
    (lambda v: 3, "must be a dict"),
  ],
)
def test_variables_that_are_not_the_models_are_refused(change, message):
  model, variables = svhn_variables(40)
  with pytest.raises(ValueError, match=message):
    dorefa.freeze(model, change(variables), bits=BITS)


@pytest.mark.parametrize("input_shape", [np.array([16]), (np.int64(16),), [16]])
def test_shapes_of_other_integers(input_shape):
  layer = dorefa.linen.Dense(3, bits=BITS)
  variables = layer.init(jax.random.key(0), jnp.zeros((1, 16)))
  assert dorefa.freeze(layer, variables, input_shape=input_shape).input_shape == (16,)


class Flagged(nn.Module):
  """Dropout that a flag of some name turns off; the call's other arguments are the test's."""

  flag: str

  @nn.compact
  def __call__(self, x, *, off):
    return dorefa.linen.Dense(4, bits=BITS)(nn.Dropout(0.5, deterministic=off)(x))


@pytest.mark.parametrize("flag", ["train", "training", "is_training", "deterministic"])
def test_flags_of_evaluation(flag):
  is_deterministic = flag == "deterministic"
  code = f"""
class Model(Flagged):
  def __call__(self, x, {flag}={not is_deterministic}):
    return super().__call__(x, off={flag if is_deterministic else "not " + flag})
"""
  scope = {"Flagged": Flagged}
  exec(code, scope)
  model = scope["Model"](flag)
  variables = model.init(jax.random.key(0), jnp.zeros((1, 16)), **{flag: is_deterministic})
  assert dorefa.freeze(model, variables, input_shape=(16,)).input_shape == (16,)


def test_other_arguments_of_a_call_are_named():
  model = Flagged("off")
  variables = model.init(jax.random.key(0), jnp.zeros((1, 16)), off=True)
  with pytest.raises(ValueError, match=r"needs the argument 'off'.*freeze\(lambda images: model.apply"):
    dorefa.freeze(model, variables, input_shape=(16,))

  class InTraining(Flagged):
    def __call__(self, x, off=False):
      return super().__call__(x, off=off)

  with pytest.raises(ValueError, match=r"needs PRNG.*freeze\(lambda images: model.apply"):
    dorefa.freeze(InTraining("off"), variables, input_shape=(16,))


def test_a_call_without_bits_is_named():
  layer = nn.Dense(4)
  variables = layer.init(jax.random.key(0), jnp.ones((1, 8)))
  with pytest.raises(ValueError, match="takes no argument 'bits'"):
    dorefa.freeze(layer, variables, bits=dorefa.BitWidths(1, 2, 32), input_shape=(8,))
