from __future__ import annotations

import datetime as dt
from dataclasses import replace

from tasks.sequence.catalog import Listed, Shown, StepStanding
from workers.cli.drawing import steps_as_lines

AT = dt.datetime(2026, 3, 8, 7, 0, tzinfo=dt.UTC)
SHOWN = Shown(
    sequence=Listed("demo", "A demo", "marketing", "news", 2, None, None, 1234, 5, 40, 1, 0),
    published_at=AT,
    sha256=b"",
    steps=[
        StepStanding("hello", "send demo/hello", "wait", 0, 3, {"sent": 40, "sent_assumed": 1}),
        StepStanding("wait", "wait 2d", "end", 1200),
        StepStanding("gone", "send demo/gone", "hello"),
        StepStanding("end", "exit: completed", None),
    ],
    not_begun=31,
    older=7,
    elsewhere={"old": 7},
)


def test_a_sequence_is_drawn_with_who_stands_where_and_what_became_of_the_mails() -> None:
    assert steps_as_lines(SHOWN) == [
        "demo, version 2 of 2026-03-08 07:00 UTC",
        "  A demo",
        "  marketing, topic news",
        "  running; 1 234 under way, 5 ended",
        "",
        "  -  31 have not begun",
        "  1  hello  send demo/hello  3 with a mail under way, 40 sent, 1 sent assumed",
        "  2  wait   wait 2d          1 200 waiting",
        "            then end",
        "  3  gone   send demo/gone",
        "            then hello",
        "  4  end    exit: completed",
        "  ?  old: a step of an earlier version, with 7 people",
        "  7 go by an earlier version",
    ]


def test_a_pause_stands_in_the_head_with_its_reason() -> None:
    paused = replace(SHOWN.sequence, paused_at=AT, pause_reason="typo")
    assert (
        "paused since 2026-03-08 07:00 UTC (typo)"
        in steps_as_lines(replace(SHOWN, sequence=paused))[3]
    )
