"""The table of a report: a cell for each setting, colored on an absolute scale."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping

from dorefa_study.statistics import mean, wilson
from dorefa_study.study import WIDTH, Cell, Row, Study

BAD = frozenset({"diverged", "failed", "damaged"})
LEAST_ERROR = 0.005
"""Error that has the darkest color: halving the error is the same step everywhere between it and chance."""
SHOWN_ACCURACIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
LARGEST_DIFFERENCE = 0.1
"""Difference of accuracies that has the full color."""


def heat_map(study: Study) -> str:
  """The table as HTML, with switches between accuracies and differences, and a legend.

  Args:
    study: the results.
  """
  chance = 1 / max(2, (study.data or {}).get("classes") or 10)
  floats = _float_cells(study)
  has_paper = any(cell.paper is not None for row in study.rows for cell in row.cells)
  head = ["setting", *(_text(column_title(study, index)) for index in range(len(study.columns)))]
  head += ["training", "inference", "storage"]
  lines = [f"<thead><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr></thead><tbody>"]
  for row in study.rows:
    cost = row.complexity
    costs = "".join(
      f"<td class=num>{'' if v is None else v}</td>" for v in (cost.training, cost.inference, cost.storage)
    )
    cells = "".join(_cell(cell, chance, floats.get((_without_bits(row), i)), study) for i, cell in enumerate(row.cells))
    lines.append(f"<tr><th>{_text(row.label)}</th>{cells}{costs}</tr>")
  views = [("accuracy", "best test accuracy"), *([("float", "minus float")] if floats else [])]
  views += [("paper", "minus the paper")] if has_paper else []
  switches = "".join(
    f"<label><input type=radio name=view value={name}{' checked' if name == 'accuracy' else ''}> {title}</label>"
    for name, title in views
  )
  table = f'<div class="wide"><table class="heat">{"".join(lines)}</tbody></table></div>'
  return f'<div class="switch">{switches}</div>{table}{_legend(chance)}{_caption(study, has_paper)}'


def column_title(study: Study, index: int) -> str:
  """The heading of a column."""
  column = study.columns[index]
  if study.column_field == WIDTH:
    return f"model {column}" if len(column) == 1 else column
  return column if not study.column_field else f"{study.column_field.rpartition('.')[2]} {column}"


def _without_bits(row: Row) -> str:
  return row.label.removeprefix(str(row.bits))


def _float_cells(study: Study) -> Mapping[tuple[str, int], float]:
  """Accuracies at 32 bits, of each setting of what else varies and each column."""
  found: dict[tuple[str, int], float] = {}
  for row in study.rows:
    if str(row.bits) == "32,32,32":
      found |= {(_without_bits(row), i): cell.mean for i, cell in enumerate(row.cells) if cell.mean is not None}
  return found


def _cell(cell: Cell, chance: float, of_float: float | None, study: Study) -> str:
  mark = " bad" if {trial.status for trial in cell.trials} & BAD else ""
  paper = "" if cell.paper is None else f"<small>paper {cell.paper:.3f}</small>"
  if cell.mean is None:
    return f'<td class="cell{mark}"><b>{_text(cell.text)}</b>{paper}</td>'
  found = mean(cell.accuracies)
  notes = [f"{found.count} of {len(cell.trials)} seeds" if len(cell.trials) > 1 else "one seed"]
  if found.half_width is not None:
    notes.append(f"95 % interval {found.low:.3f} to {found.high:.3f}, standard deviation {found.spread:.4f}")
  images = (study.data or {}).get("test")
  if images:
    low, high = wilson(found.value, images)
    notes.append(f"{images:,} test images alone leave {low:.3f} to {high:.3f}")
  share = f"{found.count} of {len(cell.trials)}: {cell.missing}"
  missing = "" if cell.is_complete else f"<small>{_text(share)}</small>"
  half = "" if found.half_width is None else f" <small>± {found.half_width:.3f}</small>"
  texts = {"accuracy": f"<b>{found.value:.3f}</b>{half}"}
  colors = {"accuracy": _sequential(found.value, chance)}
  for name, other in (("float", of_float), ("paper", cell.paper)):
    difference = None if other is None else found.value - other
    texts[name] = "" if difference is None else f"<b>{100 * difference:+.1f}</b>"
    colors[name] = ("transparent", "inherit") if difference is None else _diverging(difference)
  style = ";".join(f"--{name}:{back};--{name}-ink:{ink}" for name, (back, ink) in colors.items())
  spans = "".join(f'<span class="{name}">{text}</span>' for name, text in texts.items())
  return f'<td class="cell{mark}" style="{style}" title="{_text("; ".join(notes))}">{spans}{missing}{paper}</td>'


def _sequential(accuracy: float, chance: float) -> tuple[str, str]:
  """The color of an accuracy, on an absolute scale of its error, and that of the ink on it."""
  error = max(1 - accuracy, LEAST_ERROR)
  share = math.log((1 - chance) / error) / math.log((1 - chance) / LEAST_ERROR)
  return _color(212, 96 - 62 * min(1.0, max(0.0, share)))


def _diverging(difference: float) -> tuple[str, str]:
  """The color of a difference of accuracies, and that of the ink on it."""
  return _color(150 if difference >= 0 else 14, 97 - 40 * min(1.0, abs(difference) / LARGEST_DIFFERENCE))


def _color(hue: int, lightness: float) -> tuple[str, str]:
  return f"hsl({hue} 62% {lightness:.0f}%)", "#fff" if lightness < 60 else "#12202e"


def _legend(chance: float) -> str:
  stops = "".join(
    f'<i style="background:{_sequential(accuracy, chance)[0]}"></i><span>{accuracy:.0%}</span>'
    for accuracy in (chance, *(shown for shown in SHOWN_ACCURACIES if shown > chance + 0.05))
  )
  return (
    f'<div class="legend accuracy"><span>chance</span>{stops}</div>'
    f'<div class="legend difference"><span>-{100 * LARGEST_DIFFERENCE:.0f} points</span>'
    + "".join(f'<i style="background:{_diverging(step / 50)[0]}"></i>' for step in range(-5, 6))
    + f"<span>+{100 * LARGEST_DIFFERENCE:.0f}</span></div>"
  )


def _caption(study: Study, has_paper: bool) -> str:
  seeds = (
    f" Mean over {study.seeds} seeds, with half of its 95 % confidence interval (Student's t)."
    if study.seeds > 1
    else ""
  )
  paper = " The paper's number on SVHN is below." if has_paper else ""
  statuses = {trial.status for row in study.rows for cell in row.cells for trial in cell.trials}
  partial = (
    " A dashed frame marks cells with trials that diverged or failed, which no mean includes." if statuses & BAD else ""
  )
  costs = " Training (W A + W G), inference (W A) and storage (W) complexity as the paper defines them."
  return f'<p class="soft">{_text(f"Best test accuracy of each training.{seeds}{paper}{partial}{costs}")}</p>'


def _text(value: str) -> str:
  return html.escape(value)
