"""How the ``goal`` and the ``holdout`` of a file are read."""

from __future__ import annotations

from decimal import Decimal

from schedules.conditions import read_expression
from schedules.durations import parse_duration
from schedules.goal import Goal, Holdout
from schedules.reading import Table, matching
from schedules.waits import DURATION, EVENT


def read_goal(top: Table) -> Goal | None:
    """Read the goal; to be used only where the report stays empty."""
    table = top.table("goal")
    if table is None:
        return None
    table.only(("event", "window", "value"))
    expected = "the name of an event such as purchase"
    event = table.text("event", expected, matching(EVENT), required=True)
    window = table.text("window", DURATION, parse_duration, required=True)
    value = None
    if "value" in table:
        value = read_expression(table, "value", condition=False, scores=False, event=True)
        if value is not None and value.needs:
            table.report.add_at(
                (*table.path, "value"),
                f"'value' of {table.name} asks for more than the event: expected event.<property>"
                " alone, since it is read when the event comes; ask for that",
            )
    return Goal(event, window, value) if event and window else None


def read_holdout(top: Table, class_: str | None, key: str | None) -> Holdout | None:
    """Read the holdout; its salt is the key of the sequence where the file has none."""
    table = top.table("holdout")
    if table is None:
        return None
    table.only(("percent", "salt"))
    if class_ == "transactional":
        top.report.add_at(
            ("holdout",),
            "a transactional sequence has no holdout, since nobody is kept from mail that they have"
            " asked for: expected the file without it; remove it",
        )
    percent = table.values.get("percent")
    if percent is None:
        table.missing("percent", "how many of a hundred get no mail, such as 10")
        return None
    said = table.plain("percent")
    share = None
    if isinstance(said, int | float) and not isinstance(said, bool) and 0 < said <= 50:
        share = Decimal(str(said)).normalize()
    if said is not None and share is None:
        table.report.add(
            percent,
            f"'percent' of {table.name} is {said!r}: expected a number above 0 and at most 50, such"
            " as 10; correct it",
        )
    salt = table.text("salt", "a word that divides them, such as winback-2026", _salt)
    return None if share is None else Holdout(share, salt or key or "?")


def _salt(text: str) -> str:
    if not text.strip() or len(text) > 200 or not text.isprintable():
        raise ValueError
    return text
