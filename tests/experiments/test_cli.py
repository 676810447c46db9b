import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.cli import Parser, load_config, parse
from experiments.config import TrialConfig, read
from experiments.errors import UsageError
from experiments.plan import SweepConfig

GRID = "configs/svhn_grid.py"


def parser():
  result = Parser()
  result.add_argument("--workdir")
  return result


def test_overrides_are_read_as_their_fields_types():
  overrides = {
    "grid.bits": "1,2,4;8,8,8",
    "grid.widths": "0.5",
    "grid.backends": "emulated; integer",
    "train.epochs": "3",
    "train.learning_rate": "1e-2",
    "data.stand_in": "no",
    "data.dir": "some/where",
  }
  config = load_config(GRID, overrides)
  assert config.grid.bits == ((1, 2, 4), (8, 8, 8))
  assert config.grid.widths == (0.5,)
  assert config.grid.backends == ("emulated", "integer")
  assert (config.train.epochs, config.train.learning_rate) == (3, 0.01)
  assert (config.data.stand_in, config.data.dir) == (False, "some/where")


@pytest.mark.parametrize("text", ["1,2,4", "(1, 2, 4)", "((1,2,4),)", "'1,2,4'"])
def test_one_setting_of_bits_in_every_spelling(text):
  sweep = read(SweepConfig, load_config(GRID, {"grid.bits": text}).to_dict())
  assert [str(bits) for bits in sweep.grid.settings()] == ["1,2,4"]


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("train.epohcs", "3", "config.train: no field 'epohcs'; did you mean 'epochs'?"),
    ("trian.epochs", "3", "config: no field 'trian'; did you mean 'train'?"),
    ("train.epochs", "many", "config.train.epochs must be an integer, got 'many'"),
    ("train.epochs", "1.5", "config.train.epochs must be an integer, got '1.5'"),
    ("train.learning_rate", "fast", "config.train.learning_rate must be a number, got 'fast'"),
    ("data.stand_in", "maybe", "config.data.stand_in must be true or false, got 'maybe'"),
    ("grid.bits", "1,2,", "integers"),
    ("grid.bits", "1,2,4;oops", "config.grid.bits must be values such as '1,2,4;8,8,8', got '1,2,4;oops'"),
    ("train.epochs.x", "1", "config.train.epochs: no field 'x'"),
    ("data", "x", "config.data must be one of its fields, got 'x'"),
  ],
)
def test_wrong_overrides_are_named(field, value, message):
  with pytest.raises(UsageError) as error:
    read(SweepConfig, load_config(GRID, {field: value}).to_dict())
  assert message in str(error.value)
  assert "\n" not in str(error.value)


@given(st.text(max_size=20))
def test_any_text_gives_a_config_or_a_usage_error(text):
  with contextlib.suppress(UsageError):
    read(SweepConfig, load_config(GRID, {"grid.bits": text}).to_dict())


@pytest.mark.parametrize(
  ("spec", "message"),
  [
    ("configs/none.py", "no file 'configs/none.py'"),
    (f"{GRID}:papre", "preset 'papre' is not in configs/svhn_grid.py; did you mean 'paper'?"),
    ("README.md", "not a Python file"),
    ("configs/svhn.py:quick", "preset 'quick' is not in configs/svhn.py"),
  ],
)
def test_wrong_config_files_are_named(spec, message):
  with pytest.raises(UsageError) as error:
    load_config(spec, {})
  assert message in str(error.value)


def test_config_files_that_do_not_run_are_named(tmp_path):
  path = tmp_path / "broken.py"
  path.write_text("1 / 0\n")
  with pytest.raises(UsageError, match="does not run: ZeroDivisionError"):
    load_config(str(path), {})


def test_flags():
  flags, overrides = parse(parser(), ["--workdir", "a", "--config.train.epochs", "2", "--config.bits=1,2,4"])
  assert flags.workdir == "a"
  assert overrides == {"train.epochs": "2", "bits": "1,2,4"}
  with pytest.raises(UsageError, match="unknown flag --wrokdir=a; did you mean '--workdir'"):
    parse(parser(), ["--wrokdir=a"])
  with pytest.raises(UsageError, match="needs a value"):
    parse(parser(), ["--config.train.epochs"])


@pytest.mark.parametrize("preset", ["", ":quick", ":paper"])
@pytest.mark.parametrize("name", ["svhn_grid", "svhn_first_last"])
def test_shipped_sweeps_are_legal(name, preset):
  read(SweepConfig, load_config(f"configs/{name}.py{preset}", {}).to_dict())


def test_other_shipped_configs_are_legal():
  read(SweepConfig, load_config("configs/cifar10_grid.py", {}).to_dict())
  assert read(TrialConfig, load_config("configs/svhn.py", {}).to_dict()).train.epochs == 200
