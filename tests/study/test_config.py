import pytest

from dorefa_study.config import TrialConfig, read
from dorefa_study.errors import UsageError
from dorefa_study.plan import SweepConfig


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"bits": "1,2,40"}, "config.bits: gradients must be an integer from 1 to 32 (32 = not quantized), got 40"),
    ({"bits": "0,2,4"}, "config.bits: weights must be"),
    ({"bits": 4}, "config.bits must be text, got 4"),
    ({"model": {"width": 0.005}}, "config.model.width must be at least 0.0104"),
    ({"model": {"width": True}}, "config.model.width must be a number, got True"),
    ({"model": {"bound": "tanh"}}, "config.model.bound must be method, clip or abs_clip, got 'tanh'"),
    ({"model": {"backend": "gpu"}}, "config.model.backend must be auto, emulated or integer, got 'gpu'"),
    ({"model": {"dropout_rate": 1.0}}, "config.model.dropout_rate must be"),
    ({"data": {"name": "mnits"}}, "config.data.name must be one of svhn, street_digits, cifar10, cifar100"),
    ({"data": {"name": "mnits"}}, "did you mean 'mnist'?"),
    ({"method": "dorfa"}, "config.method must be package.module:function or of the library, got 'dorfa'; did you mean"),
    ({"method": "bnn", "bits": "1,2,4"}, "config.method: bnn at bits 1,2,4: activations: Sign is defined for 1 bits"),
    ({"method": "lsq(steps=3)"}, "config.method: no field 'steps'"),
    ({"rules": "fc"}, "config.rules: rules must be written PATTERN=W,A,G"),
    ({"schedule": "noise=0..1"}, "config.schedule: dorefa has no number 'noise' that may change"),
    ({"schedule": "bits=1,2@0.5"}, "config.schedule must be entries such as bits=32,32,32@0.9"),
    ({"model": {"name": "nowhere.nets:Net"}}, "config.model.name: no module 'nowhere'; looked in"),
    ({"model": {"name": "math:pie"}}, "config.model.name: math has no 'pie'; did you mean 'pi'?"),
    ({"model": {"widht": 1.0}}, "config.model: no field 'widht'; did you mean 'width'?"),
    ({"train": {"optimizer": "adma"}}, "config.train.optimizer: no optimizer 'adma'; did you mean 'adam'?"),
    ({"train": {"optimizer": "sgd(momentun=0.9)"}}, "config.train.optimizer: no field 'momentun'"),
    ({"train": {"optimizer": "sgd(learning_rate=1.0)"}}, "learning_rate of sgd is a field of config.train"),
    ({"train": {"schedule": "step"}}, "config.train.schedule must be step(at=(0.5, 0.75), factor=0.1)"),
    ({"train": {"init_except": "("}}, "config.train.init_except must be a regular expression"),
    ({"train": {"resized_crop": (0.5,)}}, "config.train.resized_crop must be two shares"),
    ({"data": {"train_size": -1}}, "config.data.train_size must be"),
    ({"data": {"image_size": 32}}, "config.data.image_size must be an integer from 40 for svhn, got 32"),
    ({"data": {"extra": 1}}, "config.data.extra must be true or false, got 1"),
    ({"train": {"epochs": 0}}, "config.train.epochs must be an integer from 1, got 0"),
    ({"train": {"learning_rate": float("nan")}}, "config.train.learning_rate must be a number above 0"),
    ({"train": {"halve_at": (2.0,)}}, "config.train.halve_at must be fractions from 0 to 1"),
    ({"train": {"halve_at": 0.5}}, "config.train.halve_at must be a tuple, got 0.5"),
    ({"train": {"contrast": (1.5, 0.5)}}, "config.train.contrast must be two numbers"),
    ({"train": {"seed": -1}}, "config.train.seed must be"),
    ({"train": 3}, "config.train must be a group of fields, got 3"),
    ({"trian": {}}, "config: no field 'trian'; did you mean 'train'?"),
  ],
)
def test_illegal_trials_are_named(values, message):
  with pytest.raises(UsageError) as error:
    read(TrialConfig, values)
  assert message in str(error.value)


@pytest.mark.parametrize(
  ("grid", "message"),
  [
    ({"bits": ("1,2,4",), "seeds": ()}, "config.grid.seeds must have at least one value"),
    ({"bits": ((1, 2, 0),)}, "config.grid.bits: gradients must be an integer from 1 to 32"),
    ({"bits": ((1, 2),)}, "config.grid.bits"),
    ({"bits": ("1,2,4",), "widths": (0.5, 0.001)}, "config.grid.widths[1]: width must be at least"),
    ({"bits": ("1,2,4",), "first_last": ((True,),)}, "config.grid.first_last must be pairs"),
    ({"bits": ("1,2,4",), "seeds": (1.5,)}, "config.grid.seeds[0] must be an integer, got 1.5"),
  ],
)
def test_illegal_grids_are_named(grid, message):
  with pytest.raises(UsageError) as error:
    read(SweepConfig, {"grid": grid})
  assert message in str(error.value)


def test_integers_are_numbers():
  assert read(TrialConfig, {"train": {"learning_rate": 1}}).train.learning_rate == 1.0


def test_defaults_are_the_papers_recipe():
  train = TrialConfig().train
  assert (train.epochs, train.batch_size, train.learning_rate, train.adam_epsilon) == (200, 128, 1e-3, 1e-5)
  assert (train.halve_at, train.last_layer_l2, train.brightness, train.contrast) == ((0.5,), 1e-7, 30.0, (0.5, 1.5))
