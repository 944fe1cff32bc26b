"""Pauses that freeze time, zones that change, events that are waited for, calls to other systems."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, time, timedelta
from typing import Any

import pytest

from schedules.definition import (
    ExitRule,
    ExitStep,
    SendStep,
    Sequence,
    Timezone,
    UntilEvent,
    WaitStep,
    WebhookStep,
)
from schedules.expression.evaluate import Known
from tasks.sequence.decisions import sentence
from tasks.sequence.engine import Exit, Facts, HandOff, Park, Plan, Position, Postpone, Wait, plan
from tasks.sequence.planned import Call
from tasks.sequence.retime import depends_on_zone, retime

NOW = datetime.fromisoformat("2026-03-27T18:00:00Z")
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
FROZEN = Sequence(
    key="demo",
    title="A demo",
    class_="marketing",
    topic="product-news",
    timezone=Timezone(fallback="Europe/Berlin"),
    pause="freeze",
    steps=(
        SendStep("hello", "demo/hello", "pause"),
        WaitStep("pause", "morning", delay=2 * DAY),
        WaitStep("morning", "last", calendar_days=2, at=time(9, 30)),
        SendStep("last", "demo/last"),
    ),
    exits=(ExitRule("expired", after=10 * DAY),),
)
RUNNING = replace(FROZEN, pause="run")
HERE = Position(1, 7, 1, None, None, NOW, zone="Europe/Berlin", entered_at=NOW)


def lines(made: Plan) -> list[str]:
    return [sentence(d.kind, d.step_id, d.reason, d.detail) for d in made.decisions]


def waits(step: str, begun: datetime, until: datetime, rule: Mapping[str, Any]) -> Position:
    stored = json.loads(json.dumps(dict(rule)))
    return replace(HERE, step_id=step, started_at=begun, due_at=until, rule=stored)


DELAY = {"kind": "delay", "seconds": 172_800}


def test_a_frozen_wait_is_as_much_longer_as_the_pause_was_long() -> None:
    due = NOW + 2 * DAY
    position = waits("pause", NOW, due, DELAY)
    pauses = ((NOW + DAY, NOW + 4 * DAY),)
    made = plan(FROZEN, position, Facts(NOW + 4 * DAY, pauses=pauses))
    assert isinstance(made.rest, Wait)
    assert made.rest.until == due + 3 * DAY
    assert lines(made) == ["pause: waits until 2026-04-01 18:00:00 UTC"]
    # It ends then, and not again later.
    later = waits("pause", NOW + 4 * DAY, made.rest.until, made.rest.rule)
    made = plan(FROZEN, later, Facts(later.due_at, pauses=pauses))
    assert isinstance(made.rest, Wait)
    assert made.rest.step_id == "morning"


@pytest.mark.parametrize(
    ("begin", "end", "more"),
    [
        (-3, -1, 0),  # before the wait
        (-2, 1, 1),  # it began in the pause: as by an operator's retry
        (0.5, 1, 0.5),
        (2, 5, 0),  # after its end
    ],
)
def test_only_what_of_a_pause_lies_in_the_wait_counts(
    begin: float, end: float, more: float
) -> None:
    due = NOW + 2 * DAY
    position = waits("pause", NOW, due, DELAY)
    pauses = ((NOW + begin * DAY, NOW + end * DAY),)
    rest = plan(FROZEN, position, Facts(due, pauses=pauses)).rest
    assert isinstance(rest, Wait)
    assert (rest.step_id, rest.until) == (
        ("pause", due + more * DAY) if more else ("morning", rest.until)
    )


def test_pauses_one_after_the_other_all_count() -> None:
    due = NOW + 2 * DAY
    position = waits("pause", NOW, due, DELAY)
    # The second lies behind the end of the wait, but not behind the end that the first moved.
    pauses = ((NOW + DAY, NOW + 3 * DAY), (NOW + 3.5 * DAY, NOW + 4 * DAY))
    rest = plan(FROZEN, position, Facts(due + 2 * DAY, pauses=pauses)).rest
    assert isinstance(rest, Wait)
    assert rest.until == due + 2.5 * DAY


def test_a_frozen_wait_for_a_time_of_day_still_ends_at_that_time() -> None:
    rule = {"kind": "calendar_days", "days": 2, "wall": "2026-03-29T09:30:00",
            "zone": "Europe/Berlin", "tzdata": "2026a"}  # fmt: skip
    due = datetime.fromisoformat("2026-03-29T07:30Z")
    position = waits("morning", NOW, due, rule)
    rest = plan(FROZEN, position, Facts(due, pauses=((NOW, NOW + 5 * HOUR),))).rest
    assert isinstance(rest, Wait)
    assert rest.until == datetime.fromisoformat("2026-03-30T07:30Z")
    assert rest.rule["wall"] == "2026-03-30T09:30:00"


def test_a_mail_that_a_frozen_pause_held_comes_when_it_would_have_come() -> None:
    held = replace(HERE, step_id="last", due_at=NOW + 2 * HOUR)
    pauses = ((NOW, NOW + DAY),)
    rest = plan(FROZEN, held, Facts(NOW + DAY, pauses=pauses)).rest
    assert isinstance(rest, Postpone)
    assert rest.until == NOW + DAY + 2 * HOUR
    back = replace(held, due_at=rest.until, rule=json.loads(json.dumps(dict(rest.rule))))
    made = plan(FROZEN, back, Facts(rest.until, pauses=pauses)).rest
    assert isinstance(made, HandOff)
    assert made.due_at == rest.until


def test_a_mail_that_was_due_before_the_pause_is_as_late_as_it_was_then() -> None:
    held = replace(HERE, step_id="last", due_at=NOW - HOUR)
    rest = plan(FROZEN, held, Facts(NOW + DAY, pauses=((NOW, NOW + DAY),))).rest
    assert isinstance(rest, HandOff)
    assert rest.due_at == NOW + DAY - HOUR


def test_with_a_clock_that_runs_a_pause_moves_nothing() -> None:
    position = waits("pause", NOW, NOW + 2 * DAY, DELAY)
    made = plan(RUNNING, position, Facts(NOW + 4 * DAY, pauses=((NOW, NOW + 4 * DAY),))).rest
    assert isinstance(made, Wait)
    assert made.step_id == "morning"


def test_while_time_is_frozen_no_wait_ends_and_nobody_leaves() -> None:
    position = waits("pause", NOW, NOW + 2 * DAY, DELAY)
    paused = Facts(NOW + 2 * DAY, paused=True)
    made = plan(FROZEN, position, paused)
    assert isinstance(made.rest, Park)
    assert made.rest.rule is not None
    assert isinstance(plan(RUNNING, position, paused).rest, Wait)
    # Held at its due time, from which the pause is counted when it is over.
    woken = waits("pause", NOW + 2 * DAY, made.rest.due_at, made.rest.rule)
    rest = plan(FROZEN, woken, Facts(NOW + 5 * DAY, pauses=((NOW + DAY, NOW + 5 * DAY),))).rest
    assert isinstance(rest, Wait)
    assert rest.until == NOW + 6 * DAY


def test_frozen_time_is_not_time_in_the_sequence() -> None:
    late = replace(HERE, step_id="last", due_at=NOW + 12 * DAY)
    pauses = ((NOW + DAY, NOW + 9 * DAY),)
    assert isinstance(plan(FROZEN, late, Facts(NOW + 12 * DAY, pauses=pauses)).rest, HandOff)
    assert plan(RUNNING, late, Facts(NOW + 12 * DAY)).rest == Exit("last", "expired")


WALL = {"kind": "calendar_days", "wall": "2026-03-28T09:30:00", "zone": "Europe/Berlin"}


@pytest.mark.parametrize(
    ("zone", "now", "until"),
    [
        ("America/New_York", "2026-03-28T07:00Z", "2026-03-28T13:30Z"),
        ("Asia/Tokyo", "2026-03-27T18:00Z", "2026-03-28T00:30Z"),
        # It is past there already: the next day, at that time.
        ("Asia/Tokyo", "2026-03-28T07:00Z", "2026-03-29T00:30Z"),
        ("Pacific/Auckland", "2026-03-28T07:00Z", "2026-03-28T20:30Z"),
    ],
)
def test_a_pending_wait_is_resolved_again_where_the_subscriber_is_now(
    zone: str, now: str, until: str
) -> None:
    found, rule = retime(WALL, zone, datetime.fromisoformat(now))
    assert found == datetime.fromisoformat(until)
    assert rule["zone"] == zone
    assert rule["wall"].endswith("T09:30:00")


def test_a_date_that_is_past_there_is_no_other_date() -> None:
    rule = {**WALL, "kind": "until_date", "attribute": "birthday"}
    until, kept = retime(rule, "Asia/Tokyo", datetime.fromisoformat("2026-03-28T07:00Z"))
    assert until == datetime.fromisoformat("2026-03-28T00:30Z")
    assert kept["wall"] == rule["wall"]


def test_only_what_the_clock_decides_depends_on_the_zone() -> None:
    assert depends_on_zone(WALL)
    assert depends_on_zone({"kind": "moved", "by": "quiet_hours"})
    assert not depends_on_zone(DELAY)
    assert not depends_on_zone({"kind": "moved", "by": "cap"})
    assert retime({"kind": "moved", "by": "send_window"}, "UTC", NOW)[0] == NOW


CLICK = Sequence(
    key="demo",
    title="A demo",
    class_="transactional",
    steps=(
        SendStep("hello", "demo/hello", "click"),
        WaitStep(
            "click",
            "thanks",
            until_event=UntilEvent("email.clicked", 3 * DAY, "hello", True, "nudge"),
        ),
        ExitStep("nudge", "nudged"),
        ExitStep("thanks", "thanked"),
    ),
)


def test_a_wait_for_an_event_goes_the_way_of_the_event_or_of_the_timeout() -> None:
    sent = replace(HERE, step_id="hello", started_at=NOW, outcome="sent")
    begun = plan(CLICK, sent, Facts(NOW))
    assert isinstance(begun.rest, Wait)
    assert begun.rest.until == NOW + 3 * DAY
    assert plan(CLICK, sent, Facts(NOW, awaited=frozenset({"click"}))).rest == Exit(
        "thanks", "thanked"
    )
    clicked = waits("click", NOW, NOW + HOUR, begun.rest.rule)
    made = plan(CLICK, clicked, Facts(NOW + HOUR, awaited=frozenset({"click"})))
    assert made.rest == Exit("thanks", "thanked")
    assert lines(made)[0] == "click: email.clicked came, so the way goes on"
    over = waits("click", NOW, begun.rest.until, begun.rest.rule)
    made = plan(CLICK, over, Facts(begun.rest.until))
    assert made.rest == Exit("nudge", "nudged")
    assert lines(made)[0] == "click: email.clicked did not come in time, so the way goes on"


def test_an_event_that_does_not_count_ends_no_wait() -> None:
    sent = replace(HERE, step_id="hello", started_at=NOW, outcome="sent")
    rest = plan(CLICK, sent, Facts(NOW)).rest
    assert isinstance(rest, Wait)
    woken = waits("click", NOW, NOW + HOUR, rest.rule)
    assert plan(CLICK, woken, Facts(NOW + HOUR)) == Plan(rest)


HOOK = Sequence(
    key="demo",
    title="A demo",
    class_="transactional",
    steps=(
        WebhookStep("tell", "crm", "bye", ("first_name", "plan", "seen")),
        SendStep("bye", "demo/bye"),
    ),
    exits=(ExitRule("converted", event="purchase"),),
)
KNOWN = Known(NOW, {"first_name": "Ada", "plan": "pro", "secret": 1, "seen": NOW})


def test_a_webhook_passes_on_the_declared_fields_and_the_person_goes_on() -> None:
    made = plan(HOOK, HERE, Facts(NOW, known=KNOWN))
    assert made.calls == (
        Call("tell", "crm", {"first_name": "Ada", "plan": "pro", "seen": NOW.isoformat()}),
    )
    assert isinstance(made.rest, HandOff)
    assert lines(made)[0] == "tell: a call to crm was put into the outbox"


def test_a_pause_holds_a_webhook_and_who_leaves_makes_none() -> None:
    held = plan(HOOK, HERE, Facts(NOW, paused=True, known=KNOWN))
    assert isinstance(held.rest, Park)
    left = plan(HOOK, HERE, Facts(NOW, happened=frozenset({"purchase"}), known=KNOWN))
    assert left.rest == Exit("tell", "converted")
    assert held.calls == left.calls == ()
