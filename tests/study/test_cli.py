import contextlib
import pathlib
import time
import warnings

import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import config_flags

from dorefa_study.cli import define_path, load_config, new_flags, parse
from dorefa_study.config import TrialConfig, read
from dorefa_study.errors import UsageError
from dorefa_study.plan import SweepConfig

GRID = "configs/svhn_grid.py"


def line(*arguments, config=SweepConfig, words=""):
  values = new_flags()
  define_path("workdir", None, "where results go", flag_values=values)
  flags.DEFINE_integer("workers", 0, "trials at once", flag_values=values)
  return parse(values, arguments, "Does something.", config=config, words=words)


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
    ("grid.widths", "narrow", "config.grid.widths must be values such as '0.5;0.25', got 'narrow'"),
    ("grid.bits", "-" * 100_000, "config.grid.bits must be values such as '1,2,4;8,8,8', got '-----"),
    ("grid.bits", "(" * 100_000, "config.grid.bits must be values such as"),
    ("grid.seeds", "[" * 100_000, "config.grid.seeds must be values such as '0;1;2', got '[[["),
    ("train.epochs", "9" * 100_000, "config.train.epochs must be an integer, got '999"),
    ("data", "x", "config.data must be one of its fields, got 'x'"),
  ],
)
def test_wrong_overrides_are_named(field, value, message):
  for declared in (None, SweepConfig):
    with pytest.raises(UsageError) as error:
      read(SweepConfig, load_config(GRID, {field: value}, declared).to_dict())
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


FIELDS = ["grid.bits", "grid.widths", "grid.first_last", "grid.backends", "data.stand_in", "train.epochs", "name"]


@given(st.sampled_from(FIELDS), st.text(max_size=20) | st.text("0123456789,;()[]'. -TrueFals", max_size=30))
def test_any_text_gives_a_config_or_a_usage_error(field, text):
  with contextlib.suppress(UsageError):
    read(SweepConfig, load_config(GRID, {field: text}, SweepConfig).to_dict())


def test_a_hundred_thousand_seeds_are_read_and_planned_at_once():
  seeds = ";".join(map(str, range(100_000)))
  start = time.process_time()
  sweep = read(SweepConfig, load_config(GRID, {"grid.seeds": seeds}, SweepConfig).to_dict())
  assert len(sweep.grid.seeds) == 100_000
  assert time.process_time() - start < 5


WRITTEN_AS = """
import ml_collections
from ml_collections import config_dict

def get_config():
  {}
"""
KINDS = {
  "tuples": "return ml_collections.ConfigDict({'grid': {'bits': ((1, 2, 4),), 'widths': (0.5,)}})",
  "lists": "return ml_collections.ConfigDict({'grid': {'bits': ['1,2,4'], 'widths': [0.5]}})",
  "empty lists": "return ml_collections.ConfigDict({'grid': {'bits': [], 'widths': []}})",
  "integers": "return ml_collections.ConfigDict({'grid': {'bits': (1, 2, 4), 'widths': (1,)}})",
  "none": "return ml_collections.ConfigDict({'grid': {'bits': None, 'widths': None}})",
  "missing": "return ml_collections.ConfigDict({})",
  "frozen": "return ml_collections.FrozenConfigDict({'grid': {'bits': ((1, 2, 4),), 'widths': (0.5,)}})",
  "locked": "return ml_collections.ConfigDict({'grid': {'bits': (), 'widths': (0.5,)}}).lock()",
  "dict": "return {'grid': {'bits': (), 'widths': (0.5,)}}",
  "placeholders": "c = ml_collections.ConfigDict({'grid': {}})\n  c.grid.bits = config_dict.placeholder(tuple)\n"
  "  c.grid.widths = config_dict.required_placeholder(tuple)\n  return c",
  "references": "c = ml_collections.ConfigDict({'all': (0.5,), 'grid': {'bits': ()}})\n"
  "  c.grid.widths = c.get_ref('all')\n  del c['all']\n  return c",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", ["1,2,4;8,8,8", "[(1,2,4),(8,8,8)]", "['1,2,4','8,8,8']", "(1,2,4);(8,8,8)"])
@pytest.mark.parametrize("widths", ["0.25;0.125", "0.25,0.125", "[0.25, 0.125]", "(0.25,0.125)"])
def test_overrides_are_read_as_declared_whatever_stands_there(tmp_path, kind, bits, widths):
  path = tmp_path / "mine.py"
  path.write_text(WRITTEN_AS.format(KINDS[kind]))
  config = load_config(str(path), {"grid.bits": bits, "grid.widths": widths}, SweepConfig)
  sweep = read(SweepConfig, config.to_dict())
  assert [str(setting) for setting in sweep.grid.settings()] == ["1,2,4", "8,8,8"]
  assert sweep.grid.widths == (0.25, 0.125)


def test_what_no_file_says_is_set_all_the_same():
  config = load_config("configs/cifar10_grid.py", {"data.extra": "true", "train.seed": "3"}, SweepConfig)
  assert (config.data.extra, config.train.seed) == (True, 3)


def test_what_ml_collections_alone_cannot_read(tmp_path):
  """Why overrides have a reader of their own: these are a user's, and config_flags refuses or misreads them."""
  path = tmp_path / "mine.py"
  path.write_text(WRITTEN_AS.format("return ml_collections.ConfigDict({'widths': [0.5], 'bits': ((1, 2, 4),)})"))
  for override in ("--config.widths=0.25;0.125", "--config.bits=1,2,4;8,8,8", "--config.seed=3"):
    values = flags.FlagValues()
    argv = ["", f"--config={path}", override]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values(argv)
    except (flags.Error, AttributeError, KeyError):
      continue
    assert override == "--config.bits=1,2,4;8,8,8"
    assert values.config.bits != ((1, 2, 4), (8, 8, 8))


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


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("1 / 0\n", "mine.py:1: ZeroDivisionError: division by zero"),
    ("\n\ndef get_config():\n  return int('x')\n", "mine.py:4: ValueError: invalid literal"),
    ("\ndef get_config(:\n", "mine.py:2: SyntaxError: invalid syntax"),
    ("def get_config():\n  return open('/nowhere/at/all')\n", "mine.py:2: FileNotFoundError: "),
    ("def helper():\n  raise KeyError('a')\n\ndef get_config():\n  helper()\n", "mine.py:2: KeyError: 'a'"),
    ("import nothing_of_this_name\n", "mine.py:1: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
    ("import sys\nsys.exit(3)\n", "mine.py:2: SystemExit: 3"),
    ("x = 1\n", "has no function get_config"),
    ("def get_config():\n  return None\n", "must return a ConfigDict, got NoneType"),
    ("def get_config():\n  return 3\n", "must return a ConfigDict, got int"),
  ],
)
def test_a_configs_own_errors_are_one_line_with_file_and_line(tmp_path, capfd, text, message):
  path = tmp_path / "mine.py"
  path.write_text(text)
  with pytest.raises(UsageError) as error:
    load_config(str(path), {})
  assert message in " ".join(str(error.value).split())
  assert capfd.readouterr() == ("", "")


def test_presets_are_told_or_refused(tmp_path):
  path = tmp_path / "mine.py"
  path.write_text("def get_config(name):\n  return {'name': name}\n")
  assert load_config(f"{path}:anything", {}).name == "anything"
  load_config(f"{GRID}:paper", {})
  path.write_text("def get_config():\n  return {'name': 'x'}\n")
  with pytest.raises(UsageError, match="preset 'paper' is not in .*; there are none"):
    load_config(f"{path}:paper", {})


def test_flags():
  parsed = line("--workdir", "a", "--config.train.epochs", "2", "--config.name=x", "--noconfig.data.extra")
  assert parsed.flags.workdir == pathlib.Path("a")
  assert parsed.overrides == {"train.epochs": "2", "name": "x", "data.extra": "false"}
  assert line("--config.train.epochs=2", "--config.train.epochs=3").overrides == {"train.epochs": "3"}
  assert line("a", "--workers=2", "b", words="FILES").words == ("a", "b")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--wrokdir=a"], "unknown flag --wrokdir=a; did you mean '--workdir'"),
    (["--config.train.epochs"], "Missing value for flag --config.train.epochs"),
    (["--workdir"], "Missing value for flag --workdir"),
    (["--workdir="], "--workdir=: the path is empty"),
    (["--workers=x"], "--workers=x: invalid literal"),
    (["stray"], "unexpected argument 'stray'"),
    (["--flagfile=/nowhere"], "Unable to open flagfile"),
  ],
)
def test_wrong_flags_are_one_line(arguments, message):
  with pytest.raises(UsageError, match=message) as error:
    line(*arguments)
  assert "\n" not in str(error.value)


def test_a_command_without_a_config_says_so():
  with pytest.raises(UsageError, match=r"unknown flag --config.x=1: this command takes no config"):
    line("--config.x=1", config=None)


def test_a_file_of_flags(tmp_path):
  (tmp_path / "flags").write_text("--workdir=q\n# a comment\n--config.train.epochs=7\n")
  parsed = line(f"--flagfile={tmp_path / 'flags'}", "--workers=2")
  assert (str(parsed.flags.workdir), parsed.flags.workers, parsed.overrides) == ("q", 2, {"train.epochs": "7"})


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpshort", "--helpfull"])
def test_help_shows_flags_and_in_full_the_fields_of_the_config(capsys, flag):
  with pytest.raises(SystemExit) as stop:
    line("--wrong_flag_later", flag) if flag == "-h" else line(flag)
  assert stop.value.code == 0
  text = capsys.readouterr().out
  assert "Does something." in text
  assert "--workers: trials at once" in text
  assert ("--config.train.halve_at: fractions of the training" in text) == (flag == "--helpfull")


def test_tildes_in_flags_and_config_paths(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "mine.py").write_text("def get_config():\n  return {'name': 'x'}\n")
  assert line("--workdir=~/runs").flags.workdir == tmp_path / "runs"
  assert load_config("~/mine.py", {}).name == "x"


@pytest.mark.parametrize("preset", ["", ":quick", ":paper"])
@pytest.mark.parametrize("name", ["svhn_grid", "svhn_first_last"])
def test_shipped_sweeps_are_legal(name, preset):
  read(SweepConfig, load_config(f"configs/{name}.py{preset}", {}).to_dict())


def test_other_shipped_configs_are_legal():
  read(SweepConfig, load_config("configs/cifar10_grid.py", {}).to_dict())
  assert read(TrialConfig, load_config("configs/svhn.py", {}).to_dict()).train.epochs == 200


def test_names_in_brackets_are_a_list():
  config = load_config(GRID, {"grid.backends": "[auto, integer]"}, SweepConfig)
  assert tuple(config.grid.backends) == ("auto", "integer")


CONFIGS = {
  "a placeholder that must be set": ("ConfigDict({'name': config_dict.required_placeholder(str)})", {}, "required"),
  "a name that is no text": ("{1: 2}", {}, "must have names of fields for keys, got 1"),
  "names of two types": ("{1: 2, 'a': 3}", {}, "must have names of fields for keys, got 1"),
  "a name inside": ("ConfigDict({'train': ConfigDict({'a': {2: 3}}, convert_dict=False)})", {}, "keys, got 2"),
  "depth": ("functools.reduce(lambda inner, _: {'a': inner}, range(5000), {})", {}, "deep|recursion"),
  "a width of 400 digits": ("{'grid': {'widths': (10**400,), 'bits': (1, 2, 4)}}", {}, "widths.0. must be a number"),
  "a width of 1e308": ("{'grid': {'widths': (1e308,), 'bits': (1, 2, 4)}}", {}, "width must be at most 64"),
  "epochs of 400 digits": ("{'grid': {'bits': (1, 2, 4)}}", {"train.epochs": "1" + "0" * 400}, "epochs must be"),
  "no seeds": ("{'grid': {'seeds': ()}}", {}, "config.grid.seeds must have at least one value"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_odd_configs_are_one_line(tmp_path, kind):
  returned, overrides, message = CONFIGS[kind]
  path = tmp_path / "mine.py"
  path.write_text(
    f"import functools\nfrom ml_collections import ConfigDict, config_dict\ndef get_config():\n  return {returned}\n"
  )
  with pytest.raises(UsageError, match=message):
    read(SweepConfig, load_config(str(path), overrides, SweepConfig).to_dict())


def test_a_config_of_plain_dicts_takes_overrides(tmp_path):
  path = tmp_path / "mine.py"
  path.write_text(
    "from ml_collections import ConfigDict\n"
    "def get_config():\n  return ConfigDict({'train': {'epochs': 1}}, convert_dict=False)\n"
  )
  config = load_config(str(path), {"train.epochs": "3", "train.seed": "5"}, SweepConfig)
  assert config.to_dict()["train"] == {"epochs": 3, "seed": 5}


def test_whatever_a_config_raises_is_named_with_its_line(tmp_path):
  path = tmp_path / "mine.py"
  path.write_text("class Odd(BaseException):\n  pass\ndef get_config():\n  raise Odd('no')\n")
  with pytest.raises(UsageError, match=r"mine\.py:4: Odd: no"):
    load_config(str(path), {})


def test_a_field_that_is_no_switch_has_no_opposite():
  with pytest.raises(UsageError, match="--noconfig.train.epochs: that field is not true or false"):
    line("--noconfig.train.epochs")
