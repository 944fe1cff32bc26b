"""When a fault of the plan has had its turn, and when the plan is through."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from workers.chaos import players
from workers.chaos.fault import Fault
from workers.chaos.players import Players
from workers.chaos.world import World


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(players, "PATIENCE", 0.0)
    monkeypatch.setattr(players, "PAUSE", (0.0, 0.0))
    monkeypatch.setattr("workers.chaos.players.time.sleep", lambda seconds: None)


def played(*answers: Callable[[], int]) -> dict[str, Any]:
    """Play faults that answer so, with no time beyond one turn each."""
    faults = [
        Fault(f"fault {n}", "", lambda world, rng, answer=answer: answer())  # type: ignore[misc]
        for n, answer in enumerate(answers)
    ]
    chosen = Players(cast(World, None), faults, 0.0, 7, lambda text: None)
    chosen.start()
    deadline = time.monotonic() + 30
    while chosen.playing():
        assert time.monotonic() < deadline
    return {each.name: (each.planned, each.fired) for each in chosen.played}


def test_each_fault_has_its_turn_also_when_time_is_up() -> None:
    assert played(lambda: 1, lambda: 2, lambda: 3) == {
        "fault 0": (1, 1),
        "fault 1": (1, 2),
        "fault 2": (1, 3),
    }


def test_a_fault_that_found_nothing_to_disturb_comes_again_after_the_others() -> None:
    answers = [0] * players.TRIES + [1]

    assert played(lambda: answers.pop(0), lambda: 1) == {"fault 0": (2, 1), "fault 1": (1, 1)}


def test_a_fault_that_raises_is_tried_again() -> None:
    raised: list[str] = []

    def once() -> int:
        if not raised:
            raised.append("once")
            raise OSError("no connection")
        return 1

    assert played(once) == {"fault 0": (1, 1)}


def test_one_that_never_takes_effect_ends_too_and_is_told() -> None:
    assert played(lambda: 0, lambda: 1) == {"fault 0": (players.TURNS, 0), "fault 1": (1, 1)}
