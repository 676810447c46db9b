import os
import pathlib
import pwd

import pytest

from dorefa_study.paths import PathError, expand


def test_tildes_stand_for_home_directories(monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  assert expand("~") == pathlib.Path("/home/me")
  assert expand("~/a b/ä") == pathlib.Path("/home/me/a b/ä")
  account = pwd.getpwuid(0)
  assert expand(f"~{account.pw_name}/x") == pathlib.Path(account.pw_dir) / "x"


@pytest.mark.parametrize("path", ["runs/one", "/runs", ".", "./~", "./~/a", "a/~/b", "a~", " ~"])
def test_other_paths_stay_as_they_are(path):
  assert expand(path) == pathlib.Path(path)


def test_the_account_is_asked_where_home_is_not_set(monkeypatch):
  monkeypatch.delenv("HOME", raising=False)
  assert expand("~/a") == pathlib.Path(pwd.getpwuid(os.getuid()).pw_dir) / "a"


@pytest.mark.parametrize("path", ["~", "~/a", "~/"])
@pytest.mark.parametrize("home", ["", None])
def test_an_unknown_home_directory_is_one_line(monkeypatch, path, home):
  def no_account(_):
    raise KeyError("getpwuid(): uid not found")

  monkeypatch.setattr("pwd.getpwuid", no_account)
  if home is None:
    monkeypatch.delenv("HOME", raising=False)
  else:
    monkeypatch.setenv("HOME", home)
  with pytest.raises(PathError, match="home directory .* is not known; set HOME") as error:
    expand(path)
  assert "\n" not in str(error.value)


def test_an_unknown_user_an_empty_path_and_a_null_are_refused():
  with pytest.raises(PathError, match="'~no-such-user-here'"):
    expand("~no-such-user-here/x")
  with pytest.raises(ValueError, match="empty"):
    expand("")
  with pytest.raises(ValueError, match="null"):
    expand("a\0b")
