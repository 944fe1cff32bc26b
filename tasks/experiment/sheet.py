"""A report as one HTML page: nothing is loaded from elsewhere, and it is readable on a phone. No numpy."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Final

STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 44em; margin: 1.5em auto; padding: 0 1em; color: #1a1a1a; background: #fff }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em } .wide { overflow-x: auto }
table { border-collapse: collapse; margin: 1em 0 } th, td { text-align: left; padding: .25em .9em .25em 0; white-space: nowrap }
th { border-bottom: 1px solid #777 } td.n { text-align: right; font-variant-numeric: tabular-nums }
.verdict { border-left: 6px solid #1a1a1a; padding: .5em 1em; background: #f2f2f2; margin: 1em 0 }
svg { width: 100%; height: auto; margin: .5em 0 } svg text { font: 13px system-ui, sans-serif }
svg .title { font-weight: 600 } svg .right { text-anchor: end } svg .middle { text-anchor: middle }
svg .grid { stroke: #ccc } svg .zero { stroke: #1a1a1a; stroke-dasharray: 4 3 } svg .interval { stroke: #0072b2; stroke-width: 2 }
svg polyline { fill: none } svg .dashed { stroke-dasharray: 6 4 } svg .mark { fill: #0072b2; stroke: #fff } svg .outline { fill: none; stroke: #0072b2 } small { color: #555 }
"""


def whole(title: str, body: Sequence[str]) -> str:
    """Return a page of these pieces of HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{''.join(body)}"
        "</body></html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table whose first column is words, and the others are figures."""
    told = "".join(
        "<tr>"
        + "".join(
            f"<td class=n>{escape(str(cell))}</td>" if k else f"<td>{escape(str(cell))}</td>"
            for k, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    names = "".join(f"<th>{escape(name)}" for name in head)
    return f'<div class="wide"><table><tr>{names}</tr>{told}</table></div>'
