"""Drawings of a report as inline SVG: curves, bars, points in two dimensions, a circuit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

COLORS: Final = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#b8a000",
    "#5d3a9b", "#1a1a1a", "#aa4499", "#117733",
)  # fmt: skip
"""Okabe and Ito's, which color-blind people tell apart, and a few more."""


def curve(points: Mapping[int, float], *, title: str) -> str:
    """⟨C⟩ against the optimum by layers: x is p, y is 0 … 1."""
    width, height, left, top = 320, 180, 44, 24
    parts = [_text(left, 14, title, "title")]
    low = min([0.5, *points.values()])
    for share in (low, (1 + low) / 2, 1.0):
        y = top + (1 - (share - low) / (1 - low or 1)) * (height - top - 28)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{width - 8}" y2="{y:.1f}" class="grid"/>')
        parts.append(_text(left - 4, y + 4, f"{share:.2f}", "right"))
    step = (width - left - 24) / max(len(points), 1)
    at = []
    for k, (p, value) in enumerate(sorted(points.items())):
        x = left + step * (k + 0.5)
        y = top + (1 - (value - low) / (1 - low or 1)) * (height - top - 28)
        at.append((x, y))
        parts.append(_text(x, height - 8, f"p = {p}", "middle"))
        parts.append(_text(x, y - 7, f"{value:.3f}", "middle"))
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{COLORS[0]}" stroke-width="2"/>')
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{COLORS[0]}"/>' for x, y in at]
    return _svg(width, height, parts)


def bars(
    rows: Sequence[tuple[str, float | None, float | None, float | None]], *, title: str
) -> str:
    """A bar a solver: name, value against the optimum, and its interval where there is one."""
    width, left, row, top = 460, 190, 20, 26
    scale = width - left - 60
    parts = [_text(8, 14, title, "title")]
    for k, (name, value, low, high) in enumerate(rows):
        y = top + k * row
        parts.append(_text(left - 6, y + 12, name, "right"))
        if value is None:
            parts.append(_text(left + 4, y + 12, "—", ""))
            continue
        color = COLORS[0] if name.startswith("QAOA") else COLORS[6]
        length = max(0.0, min(value, 1.05)) * scale
        parts.append(
            f'<rect x="{left}" y="{y + 2}" width="{length:.1f}" height="13" fill="{color}"/>'
        )
        if low is not None and high is not None and high > low:
            a, b = (left + max(0.0, min(v, 1.05)) * scale for v in (low, high))
            parts.append(
                f'<line x1="{a:.1f}" y1="{y + 8}" x2="{b:.1f}" y2="{y + 8}" stroke="#000"'
                ' stroke-width="2"/>'
            )
        parts.append(_text(left + length + 4, y + 12, f"{value:.4f}", ""))
    return _svg(width, top + row * len(rows) + 6, parts)


def scatter(
    points: Sequence[tuple[float, float]],
    masses: Sequence[float],
    groups: Sequence[int],
    labels: Sequence[str],
    *,
    title: str,
    axes: tuple[str, str],
) -> str:
    """The coreset's points in two dimensions; area is mass, color is segment."""
    width, height, edge, legend = 460, 300, 34, 150
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    largest = max(masses)
    parts = [_text(8, 14, title, "title")]
    for (x, y), mass, group in zip(points, masses, groups, strict=True):
        cx = edge + (x - x0) / ((x1 - x0) or 1) * (width - legend - 2 * edge)
        cy = height - edge - (y - y0) / ((y1 - y0) or 1) * (height - 2 * edge - 10)
        radius = 3 + 17 * (mass / largest) ** 0.5
        parts.append(
            f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="{radius:.1f}" fill="{COLORS[group % len(COLORS)]}"'
            f' fill-opacity=".75"><title>{mass:,.0f} subscribers, {escape(labels[group])}</title>'
            "</circle>"
        )
    parts.append(_text((width - legend) / 2, height - 4, axes[0], "middle"))
    parts.append(
        f'<text x="10" y="{height / 2:.0f}" transform="rotate(-90 10 {height / 2:.0f})"'
        f' class="middle">{escape(axes[1])}</text>'
    )
    for k, label in enumerate(labels):
        y = 34 + 18 * k
        color = COLORS[k % len(COLORS)]
        parts.append(f'<circle cx="{width - legend + 8}" cy="{y - 4}" r="5" fill="{color}"/>')
        parts.append(_text(width - legend + 18, y, label, ""))
    return _svg(width, height, parts)


def circuit(n: int, rounds: Sequence[Sequence[tuple[int, int]]], layers: int, *, title: str) -> str:
    """One layer of QAOA: H, the ZZ terms in their rounds, Rx, and the measurement."""
    top, gap, left = 34, 18, 40
    parts = [_text(8, 14, title, "title")]
    x = left + 24
    gates: list[str] = []
    for q in range(n):
        gates.append(_box(left + 8, top + gap * q, "H"))
    for pairs in rounds:
        # Pairs of a round that cross on paper are drawn beside each other.
        lanes: list[list[tuple[int, int]]] = []
        for a, b in sorted((min(p), max(p)) for p in pairs):
            lane = next((one for one in lanes if all(b < c or d < a for c, d in one)), None)
            if lane is None:
                lane = []
                lanes.append(lane)
            lane.append((a, b))
        for lane in lanes:
            x += 9
            for a, b in lane:
                y1, y2 = top + gap * a, top + gap * b
                gates.append(f'<line x1="{x}" y1="{y1}" x2="{x}" y2="{y2}" stroke="{COLORS[1]}"/>')
                gates += [
                    f'<circle cx="{x}" cy="{y}" r="2.5" fill="{COLORS[1]}"/>' for y in (y1, y2)
                ]
        x += 5
    x += 16
    for q in range(n):
        gates.append(_box(x, top + gap * q, "Rx"))
        gates.append(_box(x + 34, top + gap * q, "M"))
    width = x + 54
    for q in range(n):
        y = top + gap * q
        parts.append(f'<line x1="{left}" y1="{y}" x2="{width - 8}" y2="{y}" class="grid"/>')
        parts.append(_text(left - 6, y + 4, f"q{q}", "right"))
    parts += gates
    times = "once" if layers == 1 else f"{layers} times"
    parts.append(_text(left, top + gap * n, f"from the first ZZ to Rx {times}", ""))
    return _svg(width, top + gap * n + 8, parts)


def _box(x: float, y: float, text: str) -> str:
    return (
        f'<rect x="{x - 9}" y="{y - 7}" width="{8 + 7 * len(text)}" height="14" fill="#fff" stroke="#333"/>'
        f'<text x="{x - 5}" y="{y + 4}">{text}</text>'
    )


def _text(x: float, y: float, text: Any, kind: str) -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{named}>{escape(str(text))}</text>'


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
        f' role="img">{"".join(parts)}</svg>'
    )
