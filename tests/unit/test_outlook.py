from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.sequence.outlook import Outlook, next_line, span

NOW = dt.datetime(2026, 3, 8, 12, 0, tzinfo=dt.UTC)


def ago(**length: float) -> dt.datetime:
    return NOW - dt.timedelta(**length)


def mail(state: str, **given: Any) -> Any:
    known: dict[str, Any] = {
        "id": 7, "state": state, "run_at": None, "watch_at": None, "parked_from": None,
        "armed_at": None, "last_code": None, "doubt_policy": "assume_sent", "reason": None,
    }  # fmt: skip
    return SimpleNamespace(**(known | given))


SCANNING = {"scanned_at": ago(seconds=1), "send_seen_at": ago(seconds=20)}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"active": False, "end_reason": "completed"}, "nothing more: completed"),
        (
            {"due_at": NOW + dt.timedelta(days=2), "step_id": "nudge", **SCANNING},
            "waits until 2026-03-10 12:00:00 UTC (in 2 d), at nudge",
        ),
        (
            {"due_at": ago(minutes=5)},
            "due now, for 5 min, before its first step; the planner has not looked yet, and never did:"
            " is beat running? run `dripfleet doctor`",
        ),
        (
            {"due_at": ago(minutes=5), "scanned_at": ago(minutes=4)},
            "due now, for 5 min, before its first step; the planner last looked 4 min ago:"
            " is beat running? run `dripfleet doctor`",
        ),
        (
            {"held_from": ago(hours=1), "step_id": "a", "paused_at": ago(hours=2), "pause_reason": "typo"},
            "held: sequence is paused since 2026-03-08 10:00:00 UTC (typo); at a, due since"
            " 2026-03-08 11:00:00 UTC; `dripfleet sequence resume` lets it go on",
        ),
        (
            {"message": mail("scheduled", run_at=ago(seconds=90)), "scanned_at": NOW},
            "message 7 is due, for 1 min 30 s; no send worker was ever seen: is one running?"
            " run `dripfleet doctor`",
        ),
        (
            {"message": mail("scheduled", run_at=NOW + dt.timedelta(minutes=15), last_code=451)},
            "message 7 is tried again, after a reply of 451 at 2026-03-08 12:15:00 UTC (in 15 min)",
        ),
        (
            {
                "message": mail("scheduled", run_at=ago(seconds=5)),
                "stream_paused_at": ago(hours=1),
                "stream_pause_reason": "relay moves",
            },
            "held: stream marketing is paused since 2026-03-08 11:00:00 UTC (relay moves);"
            " message 7, due since 2026-03-08 11:59:55 UTC",
        ),
        (
            {"message": mail("in_doubt")},
            "message 7 is in doubt, a copy may be out, and it is held until an operator settles it",
        ),
        (
            {"step_id": "a"},
            "stands still at a with no mail under way, which must not be: run `dripfleet verify`",
        ),
    ],
)  # fmt: skip
def test_the_last_line_says_what_happens_next_and_who_to_ask(
    given: dict[str, Any], said: str
) -> None:
    values: dict[str, Any] = {"now": NOW, "active": True} | given
    assert next_line(Outlook(**values)) == said


def test_a_stopped_subscriber_is_told_to_get_no_further_mail() -> None:
    line = next_line(Outlook(NOW, True, "b", due_at=NOW + dt.timedelta(hours=1), stopped="bounce"))
    assert line.endswith("the next mail is refused then (bounce)")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-5, "0 s"), (59.9, "59 s"), (60, "1 min"), (3661, "1 h 1 min"), (90061, "1 d 1 h")],
)
def test_a_span_has_two_units_at_most(seconds: float, said: str) -> None:
    assert span(dt.timedelta(seconds=seconds)) == said
