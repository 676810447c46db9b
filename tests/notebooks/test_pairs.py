"""Every notebook is a script and a notebook with the same cells."""

import pathlib

import pytest

jupytext = pytest.importorskip("jupytext", reason="needs the extra 'notebooks'")
NOTEBOOKS = sorted((pathlib.Path(__file__).parents[2] / "notebooks").glob("*.py"))


@pytest.mark.parametrize("script", NOTEBOOKS, ids=lambda path: path.stem)
def test_script_and_notebook_have_the_same_cells(script):
  cells = [
    [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]
    for path in (script, script.with_suffix(".ipynb"))
  ]
  assert cells[0] == cells[1], f"run: jupytext --to ipynb {script}"
