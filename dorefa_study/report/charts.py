"""Small charts as SVG text, for a report that needs nothing else to be shown."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 12, 44
PALETTE = ("#3566b0", "#c2571a", "#2a8a57", "#8a4fa8", "#b0303f", "#6f6a1f", "#1d8a99", "#7a5641", "#d0488f", "#5b6470")
DASHES = ("", "6 3", "2 3")


@dataclasses.dataclass(frozen=True)
class Series:
  """Points of one colour.

  Attributes:
    name: name for the legend, where series of one name and color stand once.
    points: (x, y).
    labels: shown when a point is pointed at; one for each point, or none.
    color: which of the palette, where several series are of one kind; by default each has its own.
  """

  name: str
  points: tuple[tuple[float, float], ...]
  labels: tuple[str, ...] = ()
  color: int | None = None


def chart(series: Sequence[Series], *, x_label: str, y_label: str, is_share: bool = True) -> str:
  """An SVG chart with its legend.

  Args:
    series: what to draw; those without points are left out.
    x_label: under the x axis.
    y_label: beside the y axis.
    is_share: y is a share, shown in per cent.

  Returns:
    HTML.

  Example:
    >>> "polyline" in chart([Series("a", ((1, 0.1), (2, 0.2)))], x_label="epoch", y_label="accuracy")
    True
  """
  drawn = [(index if one.color is None else one.color, one) for index, one in enumerate(series) if one.points]
  if not drawn:
    return "<p>Nothing to draw yet.</p>"
  xs = [x for _, one in drawn for x, _ in one.points]
  ys = [y for _, one in drawn for _, y in one.points]
  x_ticks = ticks(min(xs), max(xs), whole=True)
  y_ticks = ticks(min(ys), max(ys))
  x_low, x_high = min(x_ticks[0], *xs), max(x_ticks[-1], *xs)
  x_high = x_high if x_high > x_low else x_low + 1
  y_low, y_high = y_ticks[0], y_ticks[-1]

  def place(x: float, y: float) -> tuple[float, float]:
    across = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
    return across, HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

  parts = [
    f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_text(y_label)} by {_text(x_label)}">'
  ]
  for tick in y_ticks:
    _, y = place(x_low, tick)
    parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    text = _percent(tick, y_ticks) if is_share else f"{tick:.4g}"
    parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
  for tick in x_ticks:
    x, _ = place(tick, y_low)
    parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
  middle = (LEFT + WIDTH - RIGHT) / 2
  parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{_text(x_label)}</text>')
  turned = f"translate(12 {(HEIGHT - BOTTOM + TOP) / 2}) rotate(-90)"
  parts.append(f'<text transform="{turned}" text-anchor="middle">{_text(y_label)}</text>')
  for index, one in drawn:
    parts += _draw(one, index, [place(x, y) for x, y in one.points])
  parts.append("</svg>")
  return "".join(parts) + _legend(drawn)


def colour(index: int) -> str:
  """The colour of a series.

  Example:
    >>> colour(0) == colour(len(PALETTE))
    True
  """
  return PALETTE[index % len(PALETTE)]


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
  """Round numbers that enclose a range.

  Args:
    low: smallest value.
    high: largest value.
    whole: whole numbers only.

  Returns:
    At least two numbers in order; the first is at most `low`, the last at least `high`.

  Example:
    >>> ticks(0.12, 0.88)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
  """
  span = max(high - low, 1.0 if whole else 0.02)
  step = 10.0 ** math.floor(math.log10(span))
  step = next(step * factor for factor in (0.2, 0.5, 1.0, 2.0) if span / (step * factor) <= 6)
  step = max(1.0, round(step)) if whole else step
  first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
  last = max(last, first + 1)
  return [round(index * step, 10) for index in range(first, last + 1)]


def bars(histogram: Mapping[str, Any], *, title: str) -> str:
  """A histogram as a small SVG.

  Args:
    histogram: {"low", "high", "counts"}.
    title: above it.

  Example:
    >>> "rect" in bars({"low": 0.0, "high": 1.0, "counts": [1, 2]}, title="weights")
    True
  """
  counts, top = histogram["counts"], max(histogram["counts"], default=0) or 1
  width, height = 300 / max(1, len(counts)), 60
  drawn = "".join(
    f'<rect x="{10 + index * width:.1f}" y="{78 - height * count / top:.1f}" width="{width:.1f}" '
    f'height="{height * count / top:.1f}" fill="{colour(0)}"/>'
    for index, count in enumerate(counts)
  )
  ends = ((10, "start", histogram["low"]), (310, "end", histogram["high"]))
  texts = "".join(f'<text x="{x}" y="94" text-anchor="{anchor}">{value:.3g}</text>' for x, anchor, value in ends)
  label = f'<text x="10" y="13">{_text(title)}</text>'
  return f'<svg class="chart" viewBox="0 0 320 100" role="img" aria-label="{_text(title)}">{label}{drawn}{texts}</svg>'


def _draw(one: Series, index: int, places: Sequence[tuple[float, float]]) -> list[str]:
  parts = []
  stroke, dash = colour(index), DASHES[index // len(PALETTE) % len(DASHES)]
  path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
  parts.append(f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="2" stroke-dasharray="{dash}"/>')
  labels = one.labels or (one.name,) * len(places)
  for (x, y), label in zip(places, labels):
    parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{stroke}"><title>{_text(label)}</title></circle>')
  return parts


def _legend(drawn: Sequence[tuple[int, Series]]) -> str:
  entries = []
  for index, name in dict.fromkeys((index, one.name) for index, one in drawn):
    dash = DASHES[index // len(PALETTE) % len(DASHES)]
    mark = (
      f'<svg class="key" viewBox="0 0 22 8"><line x1="0" x2="22" y1="4" y2="4" stroke="{colour(index)}" '
      f'stroke-width="3" stroke-dasharray="{dash}"/></svg>'
    )
    entries.append(f"<span>{mark}{_text(name)}</span>")
  return f'<p class="legend">{"".join(entries)}</p>'


def _percent(value: float, all_ticks: Sequence[float]) -> str:
  fine = any(abs(tick * 100 - round(tick * 100)) > 1e-6 for tick in all_ticks)
  return f"{value * 100:.1f}%" if fine else f"{value * 100:.0f}%"


def _text(value: str) -> str:
  return html.escape(value)
