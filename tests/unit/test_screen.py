"""The screen fits every terminal, and says what is the matter with the next move beside it."""

from __future__ import annotations

from typing import Any

import pytest

from workers.cli.advice import advice
from workers.cli.screen import BARS, Frame, Rates, chart, drawn

POOLS = ("sequence", "send", "personalize", "churn", "quantum", "upkeep")


def stream(key: str, **changes: Any) -> dict[str, Any]:
    return {
        "key": key, "due": 0, "oldest_due": None, "later": 0, "working": 0, "armed": 0,
        "in_doubt": 0, "paused_at": None, "pause_reason": None, **changes,
    }  # fmt: skip


def sequence(key: str, **changes: Any) -> dict[str, Any]:
    return {
        "key": key, "active": 1, "waiting": 1, "held": 0, "sent": 10, "failed": 0, "not_sent": 0,
        "paused_at": None, "pause_reason": None, **changes,
    }  # fmt: skip


def view(**changes: Any) -> dict[str, Any]:
    return {
        "at": "2026-03-01T12:34:56+00:00", "sent": 8332, "due": 0, "in_doubt": 0, "failed": 0,
        "enrolled": 5332, "active": 2332, "to_plan": 0, "to_plan_oldest": None, "not_sent": 0,
        "exact": True, "people_exact": True, "flower": "http://127.0.0.1:5555",
        "streams": [stream("marketing"), stream("transactional")],
        "sequences": [sequence("thank-you"), sequence("win-back")],
        "pools": [{"pool": p, "workers": 1, "seen_ago": 3.0} for p in POOLS],
        "queues": dict.fromkeys(POOLS, 0),
        "ticks": [{"name": n, "ago": 1.0} for n in ("sequence.scan", "upkeep.reap")],
        "troubles": [], **changes,
    }  # fmt: skip


def text(frame: Frame, width: int = 80, height: int = 24) -> str:
    return "\n".join(line.plain for line in drawn(frame, width, height))


CROWDED = view(
    streams=[stream(f"stream-{i}", paused_at="then", pause_reason="x" * 90) for i in range(9)],
    sequences=[sequence(f"a-sequence-with-a-long-name-{i}") for i in range(30)],
    troubles=[
        {"state": "failed", "reason": f"5{i:02}", "n": 1, "latest": i, "ago": 3.0}
        for i in range(40)
    ],
)


@pytest.mark.parametrize("size", [(80, 24), (130, 45), (40, 10), (220, 70), (20, 3), (1, 1)])
@pytest.mark.parametrize("what", [view(), CROWDED, None])
def test_it_has_exactly_the_lines_of_the_terminal_and_none_is_wider(
    size: tuple[int, int], what: dict[str, Any] | None
) -> None:
    rates = Rates()
    for second in range(300):
        rates.add(float(second), second * second)
    for notice in ("", "Postgres does not answer (connection refused); check the URL " * 4):
        lines = drawn(Frame(what, rates, notice), *size)
        assert len(lines) == size[1]
        assert max(line.cell_len for line in lines) <= size[0]


def test_all_that_an_operator_asks_for_is_on_the_smallest_usual_terminal() -> None:
    rates = Rates()
    for second in range(61):
        rates.add(float(second), 100 * second)
    wrong = [{"state": "failed", "reason": "refused", "n": 3, "latest": 4711, "ago": 5.0}]
    shown = text(
        Frame(
            view(
                streams=[
                    stream("marketing", paused_at="then", pause_reason="535 at auth"),
                    stream("transactional", due=12, oldest_due=75.0, in_doubt=2),
                ],
                troubles=wrong,
                queues=dict.fromkeys(POOLS, 0) | {"send": 16},
            ),
            rates,
        )
    )
    for words in (
        *POOLS, "queue", "16", "1 min 15 s", "10 s: 100/s", "60 s: 100/s", "█",
        "stream marketing is paused: 535 at auth", "→ dripfleet stream resume marketing",
        "3 failed: refused", "→ dripfleet message show 4711", "http://127.0.0.1:5555", "thank-you",
    ):  # fmt: skip
        assert words in shown, words


def test_a_larger_terminal_shows_more() -> None:
    def matters(height: int) -> int:
        return text(Frame(CROWDED, Rates()), 130, height).count("dripfleet ")

    assert matters(24) < matters(45) < matters(70)


def test_a_server_that_went_away_is_said_over_what_was_seen_last() -> None:
    shown = text(Frame(view(), Rates(), "as of 7 s ago: Postgres does not answer"))
    assert shown.startswith("as of 7 s ago: Postgres does not answer")
    assert "marketing" in shown


def test_rates_are_those_of_the_last_seconds() -> None:
    rates = Rates()
    assert rates.over(10) is None
    for second in range(100):
        rates.add(float(second), 0 if second < 90 else (second - 89) * 50)
    assert rates.over(10) == pytest.approx(50)
    assert rates.over(60) == pytest.approx(500 / 60)
    # A correction that lowers the count is no negative rate.
    rates.add(100.0, 0)
    assert rates.each()[-1] == 0


def test_a_chart_shows_the_newest_and_loses_no_small_rate() -> None:
    assert chart([0, 1, 1000], 5, 1) == ["   ▁█"]
    assert chart(range(100), 3, 1)[0][-1] == "█"
    top, bottom = chart([1, 2], 2, 2)
    assert (top, bottom) == (" █", "██") and set(top + bottom) <= set(BARS)


def test_nothing_is_the_matter_with_a_fleet_that_runs() -> None:
    assert advice(view()) == []


@pytest.mark.parametrize(
    ("changes", "says", "move"),
    [
        ({"ticks": [{"name": "upkeep.reap", "ago": 300.0}]}, "upkeep.reap stopped", "doctor"),
        (
            {"pools": [{"pool": "send", "workers": 0, "seen_ago": 200.0},
                       {"pool": "upkeep", "workers": 1, "seen_ago": 2.0}]},
            "pool send has been silent", "worker send",
        ),
        ({"pools": [{"pool": "send", "workers": 0, "seen_ago": 200.0}]}, "no worker", "up"),
        ({"pools": []}, "no worker has answered yet", "up"),
        ({"streams": [stream("a", oldest_due=2000.0, due=1)]}, "oldest due mail", "worker send"),
        ({"to_plan_oldest": 2000.0}, "planner is", "worker sequence"),
        ({"queues": "Redis does not answer (ConnectionError); check DRIPFLEET_REDIS_URL"},
         "Redis does not answer", "check DRIPFLEET_REDIS_URL"),
        ({"sequences": [sequence("a", paused_at="then", pause_reason="typo")]},
         "sequence a is paused: typo", "sequence resume a"),
        ({"troubles": [{"state": "in_doubt", "reason": "no reply", "n": 2, "latest": 9, "ago": None}]},
         "2 in doubt", "verify"),
        ({"troubles": [{"state": "scheduled", "reason": "relay_unreachable", "n": 2, "latest": 9,
                        "ago": None}]},
         "2 put off: relay_unreachable", "doctor"),
        ({"words_yield": 12.0}, "words have been yielding to sends for 12 s", "doctor"),
    ],
)  # fmt: skip
def test_each_fault_comes_with_its_next_move(changes: dict[str, Any], says: str, move: str) -> None:
    (one,) = advice(view(**changes))
    assert says in one.says and move in one.next


def test_what_stops_mail_stands_first() -> None:
    wrong = [{"state": "failed", "reason": "refused", "n": 1, "latest": 1, "ago": 1.0}]
    paused = [stream("a", paused_at="then", pause_reason="auth")]
    told = advice(view(troubles=wrong, streams=paused))
    assert [one.grave for one in told] == [True, False]
