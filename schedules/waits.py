"""How a ``wait`` of a file is read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, Literal

from schedules.conditions import attribute_name
from schedules.durations import parse_clock, parse_duration, parse_offset
from schedules.kinds import SendStep, Step, UntilDate, UntilEvent, WaitStep
from schedules.reading import Table, matching, suggest

DURATION: Final = "a duration in text such as 20s, 5m, 2h, 3d or 1w"
CLOCK: Final = 'a time of day in text such as "09:30"'

EVENT: Final = "[A-Za-z0-9][A-Za-z0-9_.:-]{0,198}"
"""Pattern of the name of an event, such as ``subscription.resumed``."""

_OF_EVENT: Final = ("of", "ignore_bots", "timeout")
_WAYS: Final = ("delay", "calendar_days", "until_date", "until_event")
_MISSING: Final[dict[str, Literal["skip", "exit"]]] = {"skip": "skip", "exit": "exit"}


def read_wait(
    body: Table | None, id_: str, next_: str | None, paths: Table | None = None
) -> WaitStep:
    """Read the body of a wait; to be used only where the report stays empty.

    ``paths`` of a wait for an event say where it leads; without one of them the way is ``next_``.
    """
    unknown = WaitStep(id_, next_, delay=timedelta(seconds=1))
    if body is None:
        return unknown
    body.only((*_WAYS, "at", *_OF_EVENT))
    delay = body.text("delay", DURATION, parse_duration)
    days = body.whole("calendar_days", 0, 3650)
    at = body.text("at", CLOCK, parse_clock)
    until = _until_date(body.table("until_date")) if "until_date" in body else None
    event = _until_event(body, next_, paths) if "until_event" in body else None
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
    # Of a wait that says no way at all that alone is said: the others follow from it.
    for key in _OF_EVENT if ways and "until_event" not in body else ():
        if key in body:
            body.report.add_at(
                (*body.path, key),
                f"{key!r} of {body.name} says something of an event: expected 'until_event' beside"
                " it; add that or remove this",
            )
    if paths is not None and ways and "until_event" not in body:
        body.report.add(
            paths.node,
            f"{paths.name} stand beside a wait without 'until_event': expected 'next'; write that",
        )
    if event is not None and len(ways) == 1:
        to = paths.slug("event") if paths is not None and "event" in paths else next_
        return WaitStep(id_, to, until_event=event)
    if until is not None and delay is None and days is None:
        return WaitStep(id_, next_, until_date=until)
    if days is not None and delay is None:
        return WaitStep(id_, next_, calendar_days=days, at=at)
    return unknown if days is not None or delay is None else WaitStep(id_, next_, delay=delay)


def judge_of(top: Table, steps: Sequence[Step]) -> None:
    """Report each wait for an event ``of`` a step that sends nothing; steps as in the file."""
    sends = [step.id for step in steps if isinstance(step, SendStep)]
    for index, step in () if top.report.findings else enumerate(steps):
        of = step.until_event.of if isinstance(step, WaitStep) and step.until_event else None
        if of is not None and of not in sends:
            move = suggest(of, sends) or "name one"
            top.report.add_at(
                ("steps", index, "wait", "of"),
                f"'of' of step {step.id!r} is {of!r}, which is no step that sends a mail: expected"
                f" the id of one; {move}",
            )


def _until_event(body: Table, next_: str | None, paths: Table | None) -> UntilEvent | None:
    event = body.text("until_event", "the name of an event such as purchase", matching(EVENT))
    of, bots = body.slug("of"), body.flag("ignore_bots")
    timeout = body.text("timeout", DURATION, parse_duration, required=True)
    on_timeout = next_
    if paths is not None:
        paths.only(("event", "timeout"))
        on_timeout = paths.slug("timeout") if "timeout" in paths else next_
    if event is None or timeout is None:
        return None
    return UntilEvent(event, timeout, of, bool(bots), on_timeout)


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
