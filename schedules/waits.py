"""How a ``wait`` of a file is read."""

from __future__ import annotations

from datetime import timedelta
from typing import Final, Literal

from schedules.conditions import attribute_name
from schedules.durations import parse_clock, parse_duration, parse_offset
from schedules.kinds import UntilDate, WaitStep
from schedules.reading import Table

DURATION: Final = "a duration in text such as 20s, 5m, 2h, 3d or 1w"
CLOCK: Final = 'a time of day in text such as "09:30"'

_LATER: Final = ("until_event", "of", "ignore_bots", "timeout")
_WAYS: Final = ("delay", "calendar_days", "until_date")
_MISSING: Final[dict[str, Literal["skip", "exit"]]] = {"skip": "skip", "exit": "exit"}


def read_wait(body: Table | None, id_: str, next_: str | None) -> WaitStep:
    """Read the body of a wait; to be used only where the report stays empty."""
    unknown = WaitStep(id_, next_, delay=timedelta(seconds=1))
    if body is None:
        return unknown
    body.only((*_WAYS, "at"), _LATER)
    delay = body.text("delay", DURATION, parse_duration)
    days = body.whole("calendar_days", 0, 3650)
    at = body.text("at", CLOCK, parse_clock)
    until = _until_date(body.table("until_date")) if "until_date" in body else None
    if any(key in body for key in _LATER):
        return unknown
    ways = [way for way in _WAYS if way in body]
    if len(ways) != 1:
        found = " and ".join(repr(way) for way in ways)
        found = f"both {found}" if len(ways) == 2 else found or "no time to wait"
        body.report.add(
            body.node,
            f"{body.name} has {found}: expected one of {', '.join(_WAYS)}; correct it",
        )
    elif "at" in body and ways != ["calendar_days"]:
        body.report.add_at(
            (*body.path, "at"),
            f"'at' of {body.name} stands beside {ways[0]!r}: expected it"
            f" {'in it' if ways == ['until_date'] else 'with calendar_days'}; remove it here",
        )
    elif days == 0 and "at" not in body:
        body.missing("at", "a time of day, since 'calendar_days: 0' alone waits for nothing")
    if until is not None and delay is None and days is None:
        return WaitStep(id_, next_, until_date=until)
    if days is not None and delay is None:
        return WaitStep(id_, next_, calendar_days=days, at=at)
    return unknown if days is not None or delay is None else WaitStep(id_, next_, delay=delay)


def _until_date(body: Table | None) -> UntilDate | None:
    if body is None:
        return None
    body.only(("attribute", "offset", "at", "missing"))
    attribute = body.text(
        "attribute", "the attribute that holds the date", attribute_name, required=True
    )
    offset = body.text("offset", "calendar days in text such as -3d", parse_offset)
    at = body.text("at", CLOCK, parse_clock, required=True)
    missing = body.choice("missing", _MISSING, required=True)
    if attribute is None or at is None or missing is None:
        return None
    return UntilDate(attribute, at, missing, offset or 0)
