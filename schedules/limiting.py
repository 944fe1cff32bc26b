"""How the ``limits`` and the ``pause`` of a file are read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import time
from typing import TYPE_CHECKING, Final

from ruamel.yaml.nodes import ScalarNode, SequenceNode

from schedules.durations import parse_clock, parse_duration
from schedules.entry import Rate, parse_rate
from schedules.findings import Path
from schedules.kinds import SendStep, Step
from schedules.limits import (
    UNLIMITED,
    WEEKDAYS,
    Cap,
    Hours,
    Limits,
    OnHit,
    PauseClock,
    Scope,
    SendWindow,
)
from schedules.reading import Table, suggest
from schedules.waits import CLOCK, DURATION

if TYPE_CHECKING:
    from schedules.definition import CatchUp

_SCOPES: Final[dict[str, Scope]] = {"topic": "topic", "sequence": "sequence", "all": "all"}
_ON_HIT: Final[dict[str, OnHit]] = {"wait": "wait", "skip": "skip"}
_CLOCKS: Final[dict[str, PauseClock]] = {"run": "run", "freeze": "freeze"}


def read_pause(top: Table) -> PauseClock:
    """Read what time does in a pause; it runs where the file says nothing."""
    table = top.table("pause")
    if table is None:
        return "run"
    table.only(("clock",))
    return table.choice("clock", _CLOCKS, required=True) or "run"


def read_limits(top: Table, class_: str | None) -> Limits:
    """Read ``limits``; to be used only where the report stays empty."""
    table = top.table("limits")
    if table is None:
        return UNLIMITED
    table.only(("quiet_hours", "cap", "send_window", "throttle"))
    if class_ == "transactional":
        top.report.add_at(
            ("limits",),
            "'limits' have no effect in a transactional sequence, whose mails somebody waits for:"
            " expected them with 'class: marketing'; remove them or change the class",
        )
    limits = Limits(_quiet(table), _window(table), _cap(table), _throttle(table))
    quiet, window = limits.quiet_hours, limits.send_window
    if quiet and window and window.hours and not _open_minutes(quiet, window.hours):
        top.report.add_at(
            (*table.path, "send_window"),
            "quiet_hours leave nothing of 'send_window': expected hours in which a mail may go;"
            " widen the window or shorten the quiet hours",
        )
    return limits


def judge_late(top: Table, limits: Limits, catch_up: CatchUp, steps: Sequence[Step]) -> None:
    """Report each ``on_late: next_window`` of a file, sound so far, that has no windows."""
    paths: list[Path] = [("catch_up",)] if catch_up.on_late == "next_window" else []
    paths += [
        ("steps", index)
        for index, step in enumerate(steps)
        if isinstance(step, SendStep) and step.on_late == "next_window"
    ]
    for path in () if limits.local or top.report.findings else paths:
        top.report.add_at(
            (*path, "on_late"),
            "'on_late: next_window' has no window to wait for: expected 'send_window' or"
            " 'quiet_hours' in 'limits'; add one, or choose send, skip or exit",
        )


def _open_minutes(quiet: Hours, window: Hours) -> int:
    clocks = (time(minute // 60, minute % 60) for minute in range(1440))
    return sum(window.holds(clock) and not quiet.holds(clock) for clock in clocks)


def _quiet(table: Table) -> Hours | None:
    body = table.table("quiet_hours")
    if body is None:
        return None
    body.only(("from", "to", "on_hit"))
    body.choice("on_hit", {"next_allowed": "next_allowed"})
    return _read_hours(body)


def _read_hours(body: Table) -> Hours | None:
    start = body.text("from", CLOCK, parse_clock, required=True)
    end = body.text("to", CLOCK, parse_clock, required=True)
    if start is None or end is None:
        return None
    if start == end:
        body.report.add_at(
            (*body.path, "to"),
            f"'from' and 'to' of {body.name} are both {start:%H:%M}: expected hours between them;"
            " correct one",
        )
        return None
    return Hours(start, end)


def _window(table: Table) -> SendWindow | None:
    body = table.table("send_window")
    if body is None:
        return None
    body.only(("days", "from", "to"))
    days = _read_days(body)
    if "days" not in body and "from" not in body and "to" not in body:
        body.missing("from", "hours, days or both")
    hours = _read_hours(body) if "from" in body or "to" in body else None
    return SendWindow(days, hours)


def _read_days(body: Table) -> tuple[int, ...]:
    node = body.values.get("days")
    if node is None:
        return SendWindow().days
    if not isinstance(node, SequenceNode) or not node.value:
        body.report.add(
            node,
            f"'days' of {body.name} is no list of weekdays: expected one such as [mon, tue];"
            " write it so",
        )
        return ()
    found: set[int] = set()
    for item in node.value:
        word = item.value if isinstance(item, ScalarNode) else "a list or mapping"
        if word not in WEEKDAYS:
            move = suggest(word, WEEKDAYS) or "correct it"
            body.report.add(
                item,
                f"{word[:40]!r} in 'days' of {body.name} is no weekday: expected"
                f" {', '.join(WEEKDAYS)}; {move}",
            )
        elif WEEKDAYS.index(word) in found:
            body.report.add(
                item, f"{word!r} stands twice in 'days' of {body.name}: expected it once; remove it"
            )
        else:
            found.add(WEEKDAYS.index(word))
    return tuple(sorted(found))


def _throttle(table: Table) -> Rate | None:
    def read(text: str) -> Rate:
        try:
            return parse_rate(text)
        except ValueError as fault:
            raise ValueError(str(fault).replace("expected people a", "expected mails a")) from None

    return table.text("throttle", "a rate such as 500/h", read)


def _cap(table: Table) -> Cap | None:
    body = table.table("cap")
    if body is None:
        return None
    body.only(("max", "per", "scope", "on_hit", "give_up_after"))
    most = body.whole("max", 1, 10_000)
    if "max" not in body:
        body.missing("max", "a whole number of mails")
    per = body.text("per", DURATION, parse_duration, required=True)
    scope = body.choice("scope", _SCOPES) or "all"
    on_hit = body.choice("on_hit", _ON_HIT) or "wait"
    give_up_after = body.text("give_up_after", DURATION, parse_duration)
    if "give_up_after" in body and on_hit == "skip":
        body.report.add_at(
            (*body.path, "give_up_after"),
            f"'give_up_after' of {body.name} has no effect beside 'on_hit: skip': expected"
            " 'on_hit: wait'; remove one of them",
        )
    if most is None or per is None:
        return None
    return Cap(most, per, scope, on_hit, give_up_after)
