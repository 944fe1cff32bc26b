"""How the ``exit`` rules of a file are read: who leaves at the next hand-off, and why."""

from __future__ import annotations

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
    rules = []
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
        if reason is not None and (event or when or after):
            rules.append(ExitRule(reason, event, when, after))
    return tuple(rules)
