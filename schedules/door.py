"""How the ``entry`` of a file is read."""

from __future__ import annotations

from typing import Final

from schedules.conditions import read_expression
from schedules.durations import parse_duration
from schedules.entry import (
    MAX_AGE,
    Admission,
    Entry,
    EventTrigger,
    Policy,
    Reentry,
    ScheduleTrigger,
    SegmentTrigger,
    Trigger,
    WhileActive,
    parse_rate,
    parse_stale,
)
from schedules.expression import Expression, ExpressionError, read
from schedules.fires import parse_cron
from schedules.localtime import is_zone, zones
from schedules.reading import SLUG, Table, matching, suggest
from schedules.waits import DURATION, EVENT

_RULES: Final = ("filter", "on_stale_score", "dedupe_key", "reentry", "admission")
_WAYS: Final = ("event", "segment", "schedule", "manual")
_BESIDE: Final = {
    "event": ("event", "where", "max_age"),
    "segment": ("segment", "edge"),
    "schedule": ("schedule", "zone", "audience"),
    "manual": ("manual",),
}
_POLICIES: Final[dict[str, Policy]] = {
    "never": "never", "after_exit": "after_exit", "concurrent": "concurrent",
}  # fmt: skip
_WHILE: Final[dict[str, WhileActive]] = {
    "ignore": "ignore", "restart": "restart", "queue_one": "queue_one",
}  # fmt: skip


def read_entry(top: Table, zone: str | None) -> Entry | None:
    """Read how people come in; None where that cannot be known.

    Args:
        top: the whole file.
        zone: the fallback of its ``timezone``, in which its cron line speaks.
    """
    table = top.table("entry", required=True)
    if table is None:
        return None
    strays = [way for way in ("event", "segment", "schedule") if way in table]
    table.only(("trigger", "manual", *_RULES, *strays))
    for way in strays:
        table.report.add(
            table.keys[way],
            f"{way!r} stands in {table.name} itself: expected it in its 'trigger'; move it there",
        )
    manual = table.flag("manual")
    trigger, by_hand = _trigger(table, zone) if "trigger" in table else (None, False)
    if manual is False and "trigger" not in table:
        table.report.add_at(
            (*table.path, "manual"),
            "'manual' of 'entry' is false, so nobody could enter: expected true, or a 'trigger';"
            " set it so",
        )
    elif "manual" not in table and "trigger" not in table and not strays:
        table.missing(
            "trigger", "what lets people in, or 'manual: true' for those enrolled by hand"
        )
    # Where it cannot be known what lets people in, what asks for an event is no fault of its own.
    event = isinstance(trigger, EventTrigger) or (trigger is None and not (manual or by_hand))
    condition = read_expression(table, "filter", event=event) if "filter" in table else None
    stale = table.text("on_stale_score", "skip, enter or wait(2h)", parse_stale)
    _judge_stale(table, condition, stale is not None)
    key = None
    if "dedupe_key" in table:
        key = read_expression(table, "dedupe_key", condition=False, scores=False, event=event)
    reentry, admission = _reentry(table), _admission(table)
    if top.report.findings or (trigger is None and not (manual or by_hand)):
        return None
    return Entry(bool(manual) or by_hand, trigger, condition, stale, key, reentry, admission)


def _trigger(entry: Table, zone: str | None) -> tuple[Trigger | None, bool]:
    """Return the trigger, and whether it is that people are enrolled by hand."""
    table = entry.table("trigger")
    if table is None:
        return None, False
    found = [way for way in _WAYS if way in table]
    if not found and table.values:
        table.only(dict.fromkeys(key for keys in _BESIDE.values() for key in keys))
    if len(found) != 1:
        has = f"has {' and '.join(found)}" if found else "says not what lets people in"
        table.report.add(
            table.node,
            f"{table.name} {has}: expected exactly one of {', '.join(_WAYS)}; correct it",
        )
        return None, False
    [way] = found
    table.only(_BESIDE[way])
    if way == "event":
        event = table.text("event", "the name of an event such as purchase", matching(EVENT))
        where = None
        if "where" in table:
            where = read_expression(table, "where", scores=False, event=True)
        age = table.text("max_age", DURATION, parse_duration)
        return (EventTrigger(event, where, age or MAX_AGE) if event else None), False
    if way == "segment":
        segment = table.slug("segment")
        edge = table.choice("edge", {"join": "join"}, required=True)
        return (SegmentTrigger(segment) if segment and edge else None), False
    if way == "manual":
        if table.flag("manual") is False:
            table.report.add_at(
                (*table.path, "manual"),
                f"'manual' of {table.name} is false, so nobody could enter: expected true; set it so",
            )
        return None, True
    return _schedule(table, zone), False


def _schedule(table: Table, zone: str | None) -> ScheduleTrigger | None:
    cron = table.text("schedule", 'an expression such as "0 9 * * MON"', parse_cron)
    own = table.text("zone", "an IANA time zone such as Europe/Berlin", _zone)
    if "zone" not in table and zone is None:
        table.missing("zone", "the time zone in which it speaks, or a 'timezone' of the sequence")
    audience, known = _audience(table)
    if cron is None or not known or (own or zone) is None:
        return None
    return ScheduleTrigger(cron, str(own or zone), audience)


def _audience(table: Table) -> tuple[Expression | None, bool]:
    """Return the condition of an audience (None: everybody), and whether it could be read."""
    node = table.values.get("audience")
    if node is None:
        table.missing("audience", "all, the name of a segment, or a condition")
        return None, False
    said = getattr(node, "value", None)
    if said == "all":
        return None, True
    try:
        name = matching(SLUG)(said) if isinstance(said, str) else None
    except ValueError:
        name = None
    if name is None:
        condition = read_expression(table, "audience")
        return condition, condition is not None
    try:
        return read(f"in_segment('{name}')"), True
    except ExpressionError as error:
        table.report.add(node, f"'audience' of {table.name} names the segment {name!r}: {error}")
        return None, False


def _judge_stale(table: Table, condition: Expression | None, said: bool) -> None:
    """R14: who asks for a score says what happens when it is missing or too old."""
    asks = condition is not None and condition.needs.stale_at is not None
    if asks and "on_stale_score" not in table:
        table.report.add_at(
            (*table.path, "filter"),
            f"'filter' of {table.name} asks for a score or segment, which may be missing or too old:"
            " expected 'on_stale_score' beside it, with skip, enter or wait(2h); add it",
        )
    elif said and not asks and (condition is not None or "filter" not in table):
        table.report.add_at(
            (*table.path, "on_stale_score"),
            f"'on_stale_score' of {table.name} has no effect: expected it where 'filter' asks for a"
            " score() or segment(); remove it",
        )


def _reentry(entry: Table) -> Reentry:
    table = entry.table("reentry")
    if table is None:
        return Reentry()
    table.only(("policy", "cooldown", "max_entries", "while_active"))
    policy = table.choice("policy", _POLICIES, required=True)
    cooldown = table.text("cooldown", DURATION, parse_duration)
    most = table.whole("max_entries", 1, 1_000_000)
    active = table.choice("while_active", _WHILE)
    idle = {"never": ("cooldown", "max_entries", "while_active"), "concurrent": ("while_active",)}
    for key in idle.get(policy or "", ()):
        if key in table:
            table.report.add_at(
                (*table.path, key),
                f"{key!r} of {table.name} has no effect: expected it with policy after_exit"
                f"{' or concurrent' if key != 'while_active' else ''}; remove it",
            )
    return Reentry(policy or "never", cooldown, most, active or "ignore")


def _admission(entry: Table) -> Admission | None:
    table = entry.table("admission")
    if table is None:
        return None
    table.only(("max_active", "rate"))
    if not table.values:
        table.report.add(
            table.node, f"{table.name} is empty: expected 'max_active' or 'rate'; add one"
        )
    most = table.whole("max_active", 1, 999_999_999)
    return Admission(most, table.text("rate", "a rate such as 2000/h", parse_rate))


def _zone(text: str) -> str:
    if not is_zone(text):
        move = suggest(text, zones()) or "write a name such as Europe/Berlin"
        raise ValueError(f"{text[:64]!r} is no time zone: expected an IANA name; {move}")
    return text
