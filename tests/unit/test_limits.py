"""Limits: how they are written, and what the gates of windows and caps do with a mail."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schedules.definition import CatchUp, SendStep, Sequence, Timezone
from schedules.entry import Rate
from schedules.limits import Cap, Hours, Limits, SendWindow
from schedules.loader import DefinitionError, loads
from schedules.localtime import local
from tasks.sequence.behavior import Person
from tasks.sequence.decisions import sentence
from tasks.sequence.engine import Facts, HandOff, Plan, Position, Postpone, Wait, plan
from tasks.sequence.limited import slot_after
from tasks.sequence.planned import Taken
from tasks.sequence.simulate import simulate

HEAD = """key: demo
title: A demo
class: marketing
topic: product-news
timezone: {source: subscriber, fallback: Europe/Berlin}
entry: {manual: true}
steps: [{id: a, send: {template: demo/a}}]
"""
NIGHT = "quiet_hours: {from: '21:00', to: '08:00'}"


def findings(text: str) -> list[str]:
    with pytest.raises(DefinitionError) as caught:
        loads(text, "demo.yaml")
    return [str(finding) for finding in caught.value.findings]


def test_every_limit_can_be_written_and_survives_the_database() -> None:
    sequence = loads(
        HEAD
        + """limits:
  quiet_hours: {from: "21:00", to: 08:00, on_hit: next_allowed}
  cap: {max: 2, per: 7d, scope: topic, on_hit: wait, give_up_after: 3d}
  send_window: {days: [mon, tue, fri], from: "08:00", to: "19:00"}
  throttle: 500/h
catch_up: {max_lateness: 6h, on_late: next_window}
pause: {clock: freeze}
""",
        "demo.yaml",
    )
    assert sequence.limits == Limits(
        Hours(time(21), time(8)),
        SendWindow((0, 1, 4), Hours(time(8), time(19))),
        Cap(2, timedelta(days=7), "topic", "wait", timedelta(days=3)),
        Rate(500, timedelta(hours=1)),
    )
    assert (sequence.pause, sequence.catch_up.on_late) == ("freeze", "next_window")
    assert Sequence.from_json(json.loads(json.dumps(sequence.to_json()))) == sequence


def test_a_throttle_is_mails_in_a_time_and_for_marketing_alone() -> None:
    assert "expected mails a minute, hour or day" in findings(HEAD + "limits: {throttle: fast}")[0]


def test_who_comes_too_early_for_a_throttle_has_a_slot_and_goes_then() -> None:
    sequence = loads(HEAD + "limits: {throttle: 60/h}", "demo.yaml")
    now = datetime(2026, 3, 2, 12, tzinfo=UTC)

    def place(n: int) -> Position:
        return Position(n, n, 1, None, None, now, zone="Europe/Berlin", entered_at=now)

    slot, plans = None, []
    for n in range(4):
        planned = plan(sequence, place(n), Facts(now, slot=slot))
        slot = slot_after(sequence, slot, place(n), planned, now)
        plans.append(planned.rest)
    # A minute's share may go ahead; the others each in a minute of their own.
    assert [type(rest) for rest in plans] == [HandOff, HandOff, Postpone, Postpone]
    third = plans[2]
    assert isinstance(third, Postpone) and third.until == now + timedelta(minutes=2)
    assert isinstance(plans[3], Postpone) and plans[3].until == now + timedelta(minutes=3)
    at = third.until
    again = replace(place(2), step_id="a", due_at=at, rule=third.rule)
    back = plan(sequence, again, Facts(at, slot=slot))
    assert isinstance(back.rest, HandOff)
    # It had its slot, and takes no other.
    assert slot_after(sequence, slot, again, back, at) == slot == now + timedelta(minutes=4)
    (line,) = [d for d in plan(sequence, place(9), Facts(now, slot=slot)).decisions]
    assert "because of throttle" in sentence(line.kind, line.step_id, line.reason, line.detail)


def test_a_simulation_keeps_to_the_throttle() -> None:
    sequence = loads(HEAD + "limits: {throttle: 120/h}", "demo.yaml")
    start = datetime(2026, 3, 2, 12, tzinfo=UTC)
    people = [Person(n, "Europe/Berlin") for n in range(300)]
    story = simulate(sequence, people, start=start, days=1, seed=1)
    assert len(story.sent) == 300
    assert [story.hours[start + timedelta(hours=n)] for n in range(3)] == [
        pytest.approx(120, abs=3), pytest.approx(120, abs=3), pytest.approx(60, abs=5),
    ]  # fmt: skip


def test_days_alone_are_whole_days_and_hours_alone_every_day() -> None:
    days = loads(HEAD + "limits: {send_window: {days: [sun]}}\n", "x").limits
    hours = loads(HEAD + "limits: {send_window: {from: '08:00', to: '19:00'}}\n", "x").limits
    assert days.send_window == SendWindow((6,))
    assert hours.send_window == SendWindow(hours=Hours(time(8), time(19)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD + f"limits: {{{NIGHT}, send_window: {{from: '22:00', to: '07:00'}}}}\n", ":8:66: quiet_hours leave nothing of 'send_window'"),
        (HEAD + "limits: {quiet_hour: {}}\n", "did you mean 'quiet_hours'?"),
        (HEAD + "limits: {quiet_hours: {from: '21:00'}}\n", "'quiet_hours' of 'limits' has no 'to'"),
        (HEAD + "limits: {quiet_hours: {from: 21, to: '08:00'}}\n", ":8:30: 'from' of 'quiet_hours' of 'limits' is the number 21"),
        (HEAD + "limits: {quiet_hours: {from: '08:00', to: '08:00'}}\n", ":8:43: 'from' and 'to' of 'quiet_hours' of 'limits' are both 08:00"),
        (HEAD + "limits: {send_window: {days: [mon, tues]}}\n", ":8:36: 'tues' in 'days' of 'send_window' of 'limits' is no weekday: expected mon, tue, wed, thu, fri, sat, sun; did you mean 'tue'?"),
        (HEAD + "limits: {send_window: {days: [mon, mon]}}\n", "'mon' stands twice"),
        (HEAD + "limits: {send_window: {days: mon}}\n", "is no list of weekdays"),
        (HEAD + "limits: {send_window: {}}\n", "has no 'from'"),
        (HEAD + "limits: {cap: {per: 7d}}\n", "'cap' of 'limits' has no 'max'"),
        (HEAD + "limits: {cap: {max: 0, per: 7d}}\n", ":8:21: 'max' of 'cap' of 'limits' is the number 0"),
        (HEAD + "limits: {cap: {max: 1}}\n", "has no 'per'"),
        (HEAD + "limits: {cap: {max: 1, per: 7d, scope: stream}}\n", "expected topic or sequence or all"),
        (HEAD + "limits: {cap: {max: 1, per: 7d, on_hit: skip, give_up_after: 1d}}\n", ":8:62: 'give_up_after' of 'cap' of 'limits' has no effect"),
        (HEAD.replace("marketing", "transactional") + f"limits: {{{NIGHT}}}\n", ":8:9: 'limits' have no effect in a transactional sequence"),
        (HEAD.replace("timezone", "#") + f"limits: {{{NIGHT}}}\n", "the sequence has no 'timezone': expected source and fallback, since its limits are in a local time"),
        (HEAD + "pause: {clock: stop}\n", ":8:16: 'clock' of 'pause' is 'stop': expected run or freeze"),
        (HEAD + "pause: {}\n", "'pause' has no 'clock'"),
        (HEAD.replace("demo/a}", "demo/a}, max_lateness: 1h, on_late: next_window"), ":7:70: 'on_late: next_window' has no window to wait for"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_limit_is_named_with_its_place_and_nothing_else_is(
    text: str, expected: str
) -> None:
    found = findings(text)
    assert len(found) == 1
    assert expected in found[0]


NOW = datetime.fromisoformat("2026-11-27T20:30:00Z")  # Friday, 21:30 in Berlin
LIMITED = Sequence(
    key="demo",
    title="A demo",
    class_="marketing",
    topic="product-news",
    timezone=Timezone(fallback="Europe/Berlin"),
    limits=Limits(Hours(time(21), time(8)), SendWindow((0, 1, 2, 3, 4))),
    catch_up=CatchUp(timedelta(hours=6), "next_window"),
    steps=(SendStep("a", "demo/a", "b"), SendStep("b", "demo/b")),
)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def at(now: datetime, **changes: Any) -> Position:
    return replace(Position(1, 7, 1, "a", None, now, zone="Europe/Berlin"), **changes)


def stored(rest: Postpone, **changes: Any) -> Position:
    """The enrollment as the next look reads it."""
    return at(rest.until, rule=json.loads(json.dumps(rest.rule)), **changes)


def lines(made: Plan) -> list[str]:
    return [sentence(d.kind, d.step_id, d.reason, d.detail) for d in made.decisions]


def test_a_mail_in_quiet_hours_waits_for_the_next_allowed_time_and_the_log_says_so() -> None:
    made = plan(LIMITED, at(NOW), Facts(NOW))
    assert isinstance(made.rest, Postpone)
    assert made.rest.until == datetime.fromisoformat("2026-11-30T07:00Z")
    assert lines(made) == ["a: moved to 2026-11-30 07:00:00 UTC, because of quiet hours"]
    saturday = NOW + 14 * HOUR
    made = plan(LIMITED, at(saturday), Facts(saturday))
    assert lines(made) == ["a: moved to 2026-11-30 07:00:00 UTC, because of send window"]


def test_a_mail_that_quiet_hours_moved_is_not_late_for_it() -> None:
    first = plan(LIMITED, at(NOW), Facts(NOW)).rest
    assert isinstance(first, Postpone)
    rest = plan(LIMITED, stored(first), Facts(first.until)).rest
    assert isinstance(rest, HandOff)
    assert rest.due_at == first.until


def test_arm_and_every_retry_are_held_to_windows_minus_quiet_hours_until_it_expires() -> None:
    now = datetime.fromisoformat("2026-11-26T19:00Z")  # Thursday, 20:00 in Berlin
    rest = plan(LIMITED, at(now), Facts(now)).rest
    assert isinstance(rest, HandOff)
    friday = datetime.fromisoformat("2026-11-27T07:00Z")
    assert rest.allowed == ((now, now + HOUR), (friday, friday + 13 * HOUR))
    assert rest.expires_at == now + 3 * DAY


def test_transactional_sequences_pass_quiet_hours_and_caps() -> None:
    limits = replace(LIMITED.limits, cap=Cap(1, DAY))
    sequence = replace(LIMITED, class_="transactional", limits=limits)
    rest = plan(sequence, at(NOW), Facts(NOW, taken=Taken((NOW,)))).rest
    assert isinstance(rest, HandOff)
    assert rest.allowed == ((NOW, rest.expires_at),)


def test_whose_zone_is_unknown_is_written_to_by_the_fallback_and_counted_once() -> None:
    made = plan(LIMITED, at(NOW, zone="Mars/Olympus"), Facts(NOW))
    assert [d.kind for d in made.decisions] == ["zone_fallback", "postponed"]


def test_beyond_the_bound_next_window_waits_for_the_next_that_begins() -> None:
    now = datetime.fromisoformat("2026-11-26T15:00Z")  # a window is open, but not this mail's
    made = plan(LIMITED, at(now - 7 * HOUR), Facts(now))
    assert isinstance(made.rest, Postpone)
    assert made.rest.until == datetime.fromisoformat("2026-11-27T07:00Z")
    assert lines(made) == [
        "a: moved to 2026-11-27 07:00:00 UTC, because of max lateness (25200 s late)"
    ]
    assert isinstance(plan(LIMITED, stored(made.rest), Facts(made.rest.until)).rest, HandOff)
    assert isinstance(plan(LIMITED, at(now - 6 * HOUR), Facts(now)).rest, HandOff)


CAPPED = replace(
    LIMITED, limits=Limits(cap=Cap(2, 7 * DAY, give_up_after=3 * DAY)), catch_up=CatchUp()
)


def facts(now: datetime, *ago: timedelta, under_way: int = 0, rivals: int = 0) -> Facts:
    return Facts(now, taken=Taken(tuple(now - each for each in ago), under_way, rivals))


def test_a_cap_counts_a_rolling_window() -> None:
    assert isinstance(plan(CAPPED, at(NOW), facts(NOW, DAY)).rest, HandOff)
    assert isinstance(plan(CAPPED, at(NOW), facts(NOW, DAY, 7 * DAY)).rest, HandOff)
    made = plan(CAPPED, at(NOW), facts(NOW, DAY, 6 * DAY))
    assert isinstance(made.rest, Postpone)
    assert made.rest.until == NOW + DAY  # when the older one is seven days old
    assert lines(made) == ["a: moved to 2026-11-28 20:30:00 UTC, because of cap (2 of 2 are taken)"]


def test_a_mail_under_way_holds_a_slot_and_may_still_give_it_back() -> None:
    made = plan(CAPPED, at(NOW), facts(NOW, DAY, under_way=1))
    assert isinstance(made.rest, Postpone)
    assert made.rest.until == NOW + HOUR


def test_a_cap_that_waits_gives_up_in_the_end_and_the_way_goes_on() -> None:
    made, now = plan(CAPPED, at(NOW), facts(NOW, HOUR, HOUR)), NOW
    assert isinstance(made.rest, Postpone)
    assert made.rest.until == NOW + 3 * DAY
    again = made.rest
    for _ in range(2):  # in between it was looked at, and moved by something else
        now += DAY
        looked = plan(CAPPED, stored(again), facts(now, DAY, under_way=1)).rest
        assert isinstance(looked, Postpone)
        again = looked
    now = NOW + 3 * DAY
    made = plan(CAPPED, stored(again), facts(now, DAY, DAY))
    (refused,) = made.non_sends
    assert (refused.step_id, refused.state, refused.reason) == ("a", "capped", "frequency_cap")
    # The next mail is another one, and waits as long as anybody.
    assert isinstance(made.rest, Postpone)
    assert made.rest.step_id == "b"
    assert made.rest.rule["capped_since"] == now.isoformat()


def test_a_cap_that_skips_goes_on_at_once() -> None:
    skip = replace(CAPPED, limits=Limits(cap=Cap(1, DAY, on_hit="skip")))
    made = plan(skip, at(NOW), facts(NOW, HOUR))
    assert [each.state for each in made.non_sends] == ["capped", "capped"]
    assert not isinstance(made.rest, Postpone | Wait)


def test_the_last_free_slot_goes_to_those_who_come_first() -> None:
    made = plan(CAPPED, at(NOW), facts(NOW, DAY, rivals=1))
    assert isinstance(made.rest, Postpone)
    assert made.rest.until == NOW + timedelta(seconds=1)
    assert isinstance(plan(CAPPED, at(NOW), facts(NOW, rivals=1)).rest, HandOff)


def test_a_cap_that_was_met_at_night_keeps_how_long_it_has_waited() -> None:
    both = replace(CAPPED, limits=replace(CAPPED.limits, quiet_hours=Hours(time(21), time(8))))
    noon = NOW - 9 * HOUR
    first = plan(both, at(noon), facts(noon, 7 * DAY - 9 * HOUR, DAY)).rest
    assert isinstance(first, Postpone)
    assert first.until == NOW
    night = plan(both, stored(first), facts(NOW, DAY)).rest
    assert isinstance(night, Postpone)
    assert night.rule["by"] == "quiet_hours"
    assert night.rule["capped_since"] == noon.isoformat()


def test_who_waits_for_a_slot_is_looked_at_often_and_the_log_says_so_once() -> None:
    first = plan(CAPPED, at(NOW), facts(NOW, DAY, under_way=1))
    assert isinstance(first.rest, Postpone)
    again = plan(CAPPED, stored(first.rest), facts(first.rest.until, DAY, under_way=1))
    assert [len(made.decisions) for made in (first, again)] == [1, 0]
    assert isinstance(again.rest, Postpone)
    assert again.rest.until == NOW + 2 * HOUR


CLOCKS = st.tuples(st.integers(0, 47), st.integers(0, 47)).filter(lambda two: two[0] != two[1])


@given(
    CLOCKS,
    CLOCKS,
    st.sets(st.integers(0, 6), min_size=1),
    st.integers(1, 3),
    st.lists(st.integers(0, 14 * 24), max_size=4),
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(0, 400 * 24 * 4),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Mars/Olympus"]),
)
def test_no_mail_is_handed_over_at_the_wrong_hour_or_beyond_the_cap(
    quiet: tuple[int, int],
    window: tuple[int, int],
    days: set[int],
    most: int,
    ago: list[int],
    under_way: int,
    rivals: int,
    quarter: int,
    zone: str,
) -> None:
    hours = [Hours(*(time(n // 2, n % 2 * 30) for n in pair)) for pair in (quiet, window)]
    limits = Limits(hours[0], SendWindow(tuple(sorted(days)), hours[1]), Cap(most, 7 * DAY))
    assume(any(limits.open_at(NOW.replace(tzinfo=None) + n * HOUR / 2) for n in range(336)))
    now = NOW + timedelta(minutes=15) * quarter
    spent = facts(now, *(n * HOUR for n in ago), under_way=under_way, rivals=rivals)
    sequence = replace(CAPPED, limits=limits)
    rest = plan(sequence, at(now, zone=zone), spent).rest
    there = "Europe/Berlin" if zone.startswith("Mars") else zone
    room = sum(n < 7 * 24 for n in ago) + under_way + rivals < most
    is_open = limits.open_at(local(now, there))
    assert isinstance(rest, HandOff) == (is_open and room)
    if isinstance(rest, Postpone):
        assert rest.until > now
        if not is_open:
            assert limits.open_at(local(rest.until, there))
            moment = now
            while moment < rest.until:
                assert not limits.open_at(local(moment, there))
                moment += timedelta(minutes=15)
    elif isinstance(rest, HandOff):
        for begin, end in rest.allowed:
            assert now <= begin < end <= rest.expires_at
            assert limits.open_at(local(begin, there))
            assert limits.open_at(local(end - timedelta(seconds=1), there))
