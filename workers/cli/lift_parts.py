"""What the mails brought by step, by segment and by score, on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.sequence.report_page import part_row
from workers.cli.render import emit, say


def show(parts: Sequence[dict[str, Any]]) -> None:
    """The lift by step, segment and score, a table; and why a part is not told."""
    heads = ("by", "part", "mailed", "held out", "conversions/1000 people", "value/1000 people")
    rows = []
    for part in parts:
        name, mailed, held, _, conversions, _, value, _ = part_row(part)
        rows.append(
            dict(zip(heads, (part["by"], name, mailed, held, conversions, value), strict=True))
        )
    if rows:
        emit(rows, title="what the mails brought", as_json=False)
    for part in parts:
        if part["said"] is not None:
            say(f"{part['by']} {part['part'] or 'before any mail'}: {part['said']}")
