"""The documents: their Python runs, block after block as a reader would paste it, and what they name exists."""

import pathlib
import re
import shlex

import pytest

ROOT = pathlib.Path(__file__).parents[2]
DOCUMENTS = ["README.md", "docs/guide.md", "docs/integers.md"]


def blocks(document, language):
  text = (ROOT / document).read_text()
  return [(match.start(), match[1]) for match in re.finditer(rf"```{language}\n(.*?)```", text, re.DOTALL)]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_runs_in_order(document, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  names = {"__name__": "document"}
  found = blocks(document, "python")
  assert found, f"{document} has no Python"
  for at, code in found:
    line = (ROOT / document).read_text()[:at].count("\n") + 1
    exec(compile("\n" * line + code, str(ROOT / document), "exec"), names)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", *map(str, pathlib.Path("docs").glob("*.md"))])
def test_commands_and_links_name_what_exists(document):
  folder = (ROOT / document).parent
  text = (ROOT / document).read_text()
  for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
    if not target.startswith("http"):
      assert (folder / target).exists(), f"{document}: {target}"
  targets = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
  for _, code in blocks(document, "sh"):
    for command in code.splitlines():
      words = shlex.split(command.removesuffix("\\"), comments=True)
      for target in words[1:] if words[:1] == ["make"] else []:
        assert target in targets, f"{document}: make {target}"
      if words[:2] == ["python", "-m"]:
        module = ROOT / pathlib.Path(*words[2].replace("experiments.", "dorefa_study.").split("."))
        is_there = module.with_suffix(".py").exists() or (module / "__main__.py").exists()
        assert is_there or words[2] in ("pytest",), f"{document}: {words[2]}"
      for word in words:
        if word.startswith("--config="):
          assert (ROOT / word.removeprefix("--config=").partition(":")[0]).exists(), f"{document}: {word}"
