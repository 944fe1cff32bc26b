"""How the ``exit`` rules of a file are read: who leaves at the next hand-off, and why."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from schedules.conditions import read_expression
from schedules.durations import parse_duration
from schedules.kinds import ExitRule
from schedules.reading import Table, matching
from schedules.waits import DURATION, EVENT

_WAYS: Final = ("event", "when", "after")
_EXAMPLE: Final = "{event: purchase, reason: converted}"


def read_exits(top: Table) -> tuple[ExitRule, ...]:
    """Read the rules; to be used only where the report stays empty."""
    if "exit" not in top:
        return ()
    rules: list[ExitRule] = []
    lines: dict[tuple[str | None, str | None, timedelta | None], int] = {}
    for path, node in top.rows("exit", _EXAMPLE):
        row = Table(top.report, path, f"exit rule {int(path[-1]) + 1}", node)
        row.only((*_WAYS, "reason"))
        reason = row.slug("reason", required=True)
        found = [way for way in _WAYS if way in row]
        if len(found) != 1:
            has = f"has {' and '.join(found)}" if found else "says not when"
            top.report.add(
                node, f"{row.name} {has}: expected exactly one of {', '.join(_WAYS)}; correct it"
            )
            continue
        event = row.text("event", "the name of an event such as purchase", matching(EVENT))
        when = read_expression(row, "when", scores=False) if "when" in row else None
        after = row.text("after", DURATION, parse_duration)
        same = event, " ".join(when.source.split()) if when else None, after
        if same in lines:
            top.report.add(
                node,
                f"{row.name} says the same as the one on line {lines[same]}, so it never acts: expected"
                " another event, condition or time; remove one of them",
            )
        elif any(same):
            lines[same] = node.start_mark.line + 1
        if reason is not None and (event or when or after):
            rules.append(ExitRule(reason, event, when, after))
    return tuple(rules)
