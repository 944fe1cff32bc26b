"""Every way there is: one mail, two workers, two crashes, each legal move at each moment.

The real statements in one transaction, a savepoint a step; a state that was seen before is not
walked again. What is no step of its own: a journal that is lost is one that nobody replays, and a
reply that a crash took along is one that never came. `DRIPFLEET_MODEL_ALL=1` walks the resends as
well, through every reply there is and the restart of a machine, and looks at every state as often as
it is reached; without it the walk keeps to what a test run has time for.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import pytest
from sqlalchemy import Connection

from tests.model.world import LIVE, Held, Worker, World

ALL = bool(os.environ.get("DRIPFLEET_MODEL_ALL"))
EPOCHS = 2
# Whether the relay took it, and what it says: nothing, where 0.
REPLIES = ((True, 250), (False, 451), (True, 0), *(((False, 554), (False, 0)) if ALL else ()))
Action: TypeAlias = tuple[str, Callable[[], object]]

ALONE = """
UPDATE enrollment SET active = false, ended_at = clock_timestamp(), end_reason = 'test',
    due_at = NULL
WHERE id <> (SELECT min(e.id) FROM enrollment e JOIN sequence q ON q.key = e.sequence_key
             JOIN stream t ON t.key = q.stream WHERE t.key = :stream)"""


class Walk:
    """All that can be reached, depth first; every step is checked, and undone."""

    def __init__(self, connection: Connection, stream: str, policy: str, crashes: int) -> None:
        self.connection = connection
        self.crashes = crashes
        self.stream = stream
        self.world = World(connection)
        self.world.run("DELETE FROM message")
        self.world.run(ALONE, stream=stream)
        self.world.run("UPDATE stream SET doubt_policy = :p WHERE key = :s", p=policy, s=stream)
        self.world.plan()
        self.seen: set[Any] = set()
        self.moves: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()

    def everything(self) -> None:
        self.seen.add(self._state(self._row(), self.crashes))
        self._on(self.crashes, ())

    def _row(self) -> Any:
        (row,) = self.world.rows().values()
        return row

    def _on(self, crashes: int, way: tuple[str, ...]) -> None:
        row = self._row()
        actions = list(self._actions(row, crashes))
        if not actions:
            # What waits for its next epoch goes on as it did; all else has come to its end.
            assert row.state not in LIVE or row.epoch >= EPOCHS, f"stuck: {row} after {way}"
            self.ends[row.state] += 1
        for name, _ in actions:
            saved = self.world.save()
            step = self.connection.begin_nested()
            try:
                # Which held mail an action means was decided on objects that stand no more.
                act_now = dict(self._actions(row, crashes))[name]
                act_now()
                self.moves[name.split()[0]] += 1
                left = crashes - name.startswith("crash")
                state = self._state(self._row(), left)
                if ALL or state not in self.seen:
                    self.world.check()
                if state not in self.seen:
                    self.seen.add(state)
                    self._on(left, (*way, name))
            except AssertionError as broken:
                if not str(broken).startswith("after "):
                    raise AssertionError(f"after {[*way, name]}: {broken}") from broken
                raise
            finally:
                step.rollback()
                self.world.restore(saved)

    def _actions(self, row: Any, crashes: int) -> Iterator[Action]:
        world = self.world
        for n, worker in enumerate(world.workers):
            if row.due and row.epoch < EPOCHS and len(worker.held) < 2:
                yield f"claim {n}", partial(world.claim, worker, self.stream)
            for epoch, held in ((effect[1], held) for effect, held in worker.held.items()):
                for name, act in self._of(worker, held):
                    yield f"{name} {n}.{epoch}", act
            if worker.held and crashes:
                yield f"crash {n}", partial(world.crash, worker)
        for n, dead in enumerate(world.dead):
            yield f"replay {n}", partial(world.replay, dead)
            if ALL:
                yield f"replay, booted {n}", partial(world.replay, dead, same_boot=False)
        if not row.over and row.state in ("working", "armed", "in_doubt"):
            seconds = {"working": 200, "armed": 800, "in_doubt": 1000}[row.state]
            yield "time", partial(world.time_passes, seconds)
        if row.state == "scheduled" and not row.due:
            yield "time", partial(world.time_passes, 1200)
        if row.over and row.state in ("working", "armed"):
            yield "reap", world.reap
        if row.over and row.state == "in_doubt":
            yield "resolve", world.resolve

    def _of(self, worker: Worker, held: Held) -> Iterator[Action]:
        world = self.world
        match held.stage:
            case "claimed":
                yield "arm", partial(world.arm, worker, held)
                if ALL:
                    yield "back", partial(world.give_back, worker, held)
            case "permitted":
                for accepted, code in REPLIES:
                    yield (
                        f"dot({'taken' if accepted else 'not taken'},{code})",
                        partial(world.dot, worker, held, accepted=accepted, code=code),
                    )
                # Too late for its dot, or the answer to ARM's COMMIT was lost.
                yield "back", partial(world.give_back, worker, held)
            case "stale":
                yield "back", partial(world.give_back, worker, held)
            case "dotted":
                yield "silence", partial(world.silence, worker, held)
            case "answered":
                yield "record", partial(world.record, worker, held)

    def _state(self, row: Any, crashes: int) -> Any:
        """What decides how it can go on; the two workers may change places."""
        hands = sorted(
            tuple(
                (epoch, held.stage, held.code, held.leased > 30)
                for (_, epoch), held in sorted(worker.held.items())
            )
            for worker in self.world.workers
        )
        left = sorted(
            (
                tuple(sorted(dead.dots)),
                tuple(sorted((effect, reply[0]) for effect, reply in dead.replies.items())),
                tuple((epoch, held.stage) for (_, epoch), held in sorted(dead.held.items())),
            )
            for dead in self.world.dead
        )
        return (
            row.state, row.epoch, row.attempts, row.crashes, row.maybe_delivered, row.over, row.due,
            tuple(row.tries), tuple(self.world.copies(row)), tuple(hands), tuple(left), crashes,
        )  # fmt: skip


@pytest.mark.timeout(3600 if ALL else 240)
@pytest.mark.parametrize(
    ("stream", "policy", "crashes"),
    [("marketing", "assume_sent", 2), *([("transactional", "resend", 2)] if ALL else [])],
)
def test_no_way_there_is_breaks_a_promise(
    session: Connection, stream: str, policy: str, crashes: int
) -> None:
    undo = session.begin()
    try:
        walk = Walk(session, stream, policy, crashes)
        walk.everything()
    finally:
        undo.rollback()
    assert set(walk.ends) >= {"sent", "sent_assumed", "failed"}
    happened = {"claim", "arm", "back", "record", "silence", "reap", "resolve"}
    assert happened | ({"crash", "replay"} if crashes else set()) <= {
        name.rstrip(",") for name in walk.moves
    }
