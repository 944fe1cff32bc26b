"""Drawings of a report as inline SVG, to be read without color and on a phone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Final

WIDTH: Final = 640
LEFT: Final = 130
RIGHT: Final = 84
MARKS: Final = ("circle", "square", "triangle", "diamond")
"""Of the arms in their order: shapes, since not everybody sees colors."""

Interval = tuple[str, float, float, float]
"""What it is of, the value, its low and its high end."""


def intervals(rows: Sequence[Interval], *, title: str, unit: str = "%") -> str:
    """A line an arm: its interval, its value as a mark, and the value in words; values in ``unit``."""
    low, high = min(row[2] for row in rows), max(row[3] for row in rows)
    row, top = 30, 34
    height = top + row * len(rows) + 26
    parts = [_text(8, 16, title, "title")]
    parts += _axis(low, high, top - 6, height - 22, unit)
    if low < 0 < high:
        parts.append(_line(_x(0, low, high), top - 6, _x(0, low, high), height - 22, "zero"))
    for k, (name, value, a, b) in enumerate(rows):
        y = top + row * k + 10
        at, start, end = (_x(v, low, high) for v in (value, a, b))
        parts.append(_text(LEFT - 12, y + 4, _short(name), "right"))
        parts.append(_line(start, y, end, y, "interval"))
        parts += [_line(x, y - 5, x, y + 5, "interval") for x in (start, end)]
        parts.append(_mark(at, y, k))
        parts.append(_text(WIDTH - RIGHT + 10, y + 4, f"{value:.2f} {unit}".rstrip(), ""))
    return _svg(height, parts, title)


def bars(rows: Sequence[tuple[str, float, float]], *, title: str) -> str:
    """A bar a row: how many, and filled, how many of them; both in figures beside it."""
    most = max(row[1] for row in rows) or 1
    row, top = 28, 34
    parts = [_text(8, 16, title, "title")]
    for k, (name, whole, part) in enumerate(rows):
        y = top + row * k
        widths = [(WIDTH - LEFT - 130) * n / most for n in (whole, part)]
        parts.append(_text(LEFT - 12, y + 13, _short(name), "right"))
        for width, kind in zip(widths, ("outline", "mark"), strict=True):
            parts.append(
                f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="17" class="{kind}"/>'
            )
        parts.append(_text(LEFT + widths[0] + 8, y + 13, f"{part:,.0f} of {whole:,.0f}", ""))
    return _svg(top + row * len(rows) + 8, parts, title)


def course(rows: Sequence[Interval], *, title: str, mark: int = 1) -> str:
    """A column a day: the interval as it stood then; a dashed line at zero."""
    # A first day knows nothing, and would flatten the others.
    width = max(row[3] - row[2] for row in rows[len(rows) // 3 :])
    middle = rows[-1][1]
    bottom, over = min(middle - width, 0.0), max(middle + width, 0.0)
    top, height = 34, 240
    floor = height - 34

    def y(value: float) -> float:
        return floor - (min(max(value, bottom), over) - bottom) / (over - bottom or 1) * (
            floor - top
        )

    parts = [_text(8, 16, title, "title")]
    for value in (bottom, 0.0, over):
        parts.append(
            _line(LEFT - 60, y(value), WIDTH - 12, y(value), "zero" if not value else "grid")
        )
        told = f"{value:+.1f}" if value else "0"
        parts.append(_text(LEFT - 66, y(value) + 4, told, "right"))
    step = (WIDTH - LEFT + 60 - 24) / len(rows)
    every = max(1, len(rows) // 6)
    for k, (name, value, a, b) in enumerate(rows):
        x = LEFT - 60 + step * (k + 0.5)
        parts.append(_line(x, y(a), x, y(b), "interval"))
        parts.append(_mark(x, y(value), mark))
        if k % every == 0:
            parts.append(_text(x, height - 12, name, "middle"))
    return _svg(height, parts, title)


def lines(rows: Sequence[tuple[str, Sequence[tuple[float, float]]]], *, title: str) -> str:
    """A line a row over days, from 0 to the highest; each has its mark, and dashes from the second on.

    Args:
        rows: name, and points (day, value) by day; two points at least.
        title: in words.
    """
    top, height = 34, 260
    floor, left, right = height - 40, 52, WIDTH - 100
    last = max(points[-1][0] for _, points in rows) or 1
    most = max(value for _, points in rows for _, value in points) or 1
    parts = [_text(8, 16, title, "title")]
    for k in range(5):
        y = floor - (floor - top) * k / 4
        parts.append(_line(left, y, right, y, "grid"))
        parts.append(_text(left - 8, y + 4, f"{most * k / 4:.3g}", "right"))
    for k in range(5):
        x = left + (right - left) * k / 4
        parts.append(_text(x, floor + 18, f"{last * k / 4:.3g}", "middle"))
    parts.append(_text((left + right) / 2, height - 4, "days", "middle"))
    names: list[tuple[float, str]] = []
    for k, (name, points) in enumerate(rows):
        at = [
            (left + (right - left) * day / last, floor - (floor - top) * value / most)
            for day, value in points
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        parts.append(f'<polyline points="{path}" class="interval{" dashed" if k else ""}"/>')
        parts += [_mark(x, y, k) for x, y in at[:: max(1, len(at) // 8)]]
        names.append((at[-1][1], name))
    # Names that would lie on each other move apart.
    free = 0.0
    for y, name in sorted(names):
        free = max(y, free)
        parts.append(_text(right + 10, free + 4, _short(name), ""))
        free += 16
    return _svg(height, parts, title)


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"


def _axis(low: float, high: float, top: float, bottom: float, unit: str) -> list[str]:
    parts = []
    for k in range(5):
        value = low + (high - low) * k / 4
        x = _x(value, low, high)
        parts.append(_line(x, top, x, bottom, "grid"))
        parts.append(_text(x, bottom + 16, f"{value:.1f}", "middle"))
    return parts


def _x(value: float, low: float, high: float) -> float:
    return LEFT + (value - low) / (high - low or 1) * (WIDTH - LEFT - RIGHT)


def _mark(x: float, y: float, which: int) -> str:
    shape = MARKS[which % len(MARKS)]
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" class="mark"/>'
    if shape == "square":
        return f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9" class="mark"/>'
    tip = f"{x:.1f},{y - 6:.1f} {x + 6:.1f},{y + 5:.1f} {x - 6:.1f},{y + 5:.1f}"
    if shape == "diamond":
        tip = f"{x:.1f},{y - 6:.1f} {x + 6:.1f},{y:.1f} {x:.1f},{y + 6:.1f} {x - 6:.1f},{y:.1f}"
    return f'<polygon points="{tip}" class="mark"/>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _text(x: float, y: float, text: Any, kind: str) -> str:
    of = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{of}>{escape(str(text))}</text>'


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
