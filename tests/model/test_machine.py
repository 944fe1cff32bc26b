"""Whatever happens, in whatever order: no copy, no loss, nothing to who left, every row lawful.

`DRIPFLEET_MODEL_EXAMPLES=2000` walks further, each time elsewhere; by default the same ways are
walked each time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random, randrange
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection

from tests.model.world import Held, Worker, World

EXAMPLES = int(os.environ.get("DRIPFLEET_MODEL_EXAMPLES", "0"))
BOUNDS = settings(
    max_examples=EXAMPLES or 10,
    stateful_step_count=50 if EXAMPLES else 30,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),
)
WHO = st.integers(0, 2)
PICK = st.integers(0, 5)
STREAMS = st.sampled_from(["marketing", "transactional"])
CODES = st.sampled_from([250, 250, 451, 554, 0, 0])
SOURCES = ("dsn", "provider", "click", "sink")
PASSES = st.sampled_from([1, 45, 100, 200, 800, 1000, 3600, 5 * 3600, 25 * 3600, 73 * 3600])
TROUBLES = ("back", "died", "fail", "renew", "crash", "crash", "lost")
MISHAPS = ("stop", "suppress", "opt_out", "move", "end", "pause", "resume", "resume", "edit")
ARGUMENTS = {
    "claim": ("who", "stream", "n"), "next_stage": ("pick", "took", "code", "reckless"),
    "stages": ("who", "took", "code", "stages"), "worker_in_trouble": ("pick", "what"),
    "replay": ("pick", "same_boot"), "time_passes": ("seconds",), "upkeep": ("seconds",),
    "befalls": ("pick", "what"), "word": ("pick", "word"), "retry": ("pick",),
}  # fmt: skip
# Beside what has a move of its own.
BEFALLS = {
    "suppress": """
INSERT INTO suppression (address_hmac, scope, reason)
SELECT address_hmac, (ARRAY['all', 'marketing', 'transactional'])[1 + CAST(:pick AS integer) % 3],
    'complaint' FROM subscriber WHERE id = :id ON CONFLICT DO NOTHING""",
    "opt_out": """
UPDATE consent SET opted_in = false WHERE subscriber_id = :id AND opted_in""",
    "move": "UPDATE subscriber SET address = 'new.' || address WHERE id = :id",
    "end": """
UPDATE enrollment SET active = false, ended_at = clock_timestamp(), end_reason = 'goal',
    due_at = NULL, parked_from = NULL WHERE id = :of AND active""",
}


class Fleet(RuleBasedStateMachine):
    """Three send workers and everything that can befall them."""

    session: ClassVar[Connection]
    counts: ClassVar[dict[str, int]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.undo = self.session.begin()
        self.world = World(self.session, workers=3)

    def teardown(self) -> None:
        try:
            self.world.settle_down()
        finally:
            self.undo.rollback()

    def happened(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
        self.world.check()

    def worker(self, who: int) -> Worker:
        return self.world.workers[who]

    def pick(self, pick: int, *stages: str) -> tuple[Worker, Held] | None:
        """One of the mails that stand at these stages, with its worker."""
        found = [(w, held) for w in self.world.workers for held in w.at(*stages)]
        return found[pick % len(found)] if found else None

    def held(self, *stages: str) -> bool:
        return any(worker.at(*stages) for worker in self.world.workers)

    def row(self, pick: int, *states: str) -> Any | None:
        found = [row for row in self.world.rows().values() if not states or row.state in states]
        return found[pick % len(found)] if found else None

    @initialize(
        policy=st.sampled_from(["assume_sent", "hold"]), resend=st.sampled_from(["resend", "hold"])
    )
    def begin(self, policy: str, resend: str) -> None:
        self.world.run("UPDATE stream SET doubt_policy = :p WHERE key = 'marketing'", p=policy)
        self.world.run("UPDATE stream SET doubt_policy = :p WHERE key = 'transactional'", p=resend)
        self.world.plan()
        self.world.claim(self.worker(0), "marketing", 2)
        self.world.claim(self.worker(1), "transactional", 1)
        self.happened("began")

    # Workers at their work. A second doorbell, or a third, is a claim like the first.

    @rule(who=WHO, stream=STREAMS, n=st.integers(1, 4))
    def claim(self, who: int, stream: str, n: int) -> None:
        if self.world.claim(self.worker(who), stream, n):
            self.happened("claimed")

    @rule(pick=PICK, took=st.booleans(), code=CODES, reckless=st.integers(0, 4))
    def next_stage(self, pick: int, took: bool, code: int, reckless: int) -> None:
        """One mail comes one stage further."""
        if found := self.pick(pick, "claimed", "permitted", "stale", "dotted", "answered"):
            self.further(*found, took, code, reckless == 0)

    @rule(who=WHO, took=st.booleans(), code=CODES, stages=st.integers(1, 3))
    def stages(self, who: int, took: bool, code: int, stages: int) -> None:
        """All mails of a worker come some stages further."""
        worker = self.worker(who)
        for _ in range(stages):
            for held in list(worker.held.values()):
                self.further(worker, held, took, code, reckless=False)

    def further(self, worker: Worker, held: Held, took: bool, code: int, reckless: bool) -> None:
        world = self.world
        match held.stage:
            case "claimed":
                other_bytes = reckless and held.row.maybe_delivered
                armed = world.arm(worker, held, other_bytes=other_bytes)
                self.happened("permitted" if armed else "not permitted")
            case "permitted":
                accepted = code == 250 or (not code and took)
                world.dot(worker, held, accepted=accepted, code=code)
                self.happened("dot")
            case "stale":
                world.give_back(worker, held)
                self.happened("too late for the dot")
            case "dotted":
                world.silence(worker, held)
                self.happened("doubted")
            case "answered":
                world.record(worker, held)
                self.happened("recorded")

    @rule(
        pick=PICK, what=st.sampled_from(["back", "died", "fail", "renew", "crash", "crash", "lost"])
    )
    def worker_in_trouble(self, pick: int, what: str) -> None:
        stages = {"back": ("claimed", "permitted"), "died": ("claimed",), "fail": ("claimed",),
                  "renew": ("claimed",)}  # fmt: skip
        anything = ("claimed", "permitted", "stale", "dotted", "answered")
        if not (found := self.pick(pick, *stages.get(what, anything))):
            return
        worker, held = found
        match what:
            case "back" | "died":
                self.world.give_back(worker, held, crashed=what == "died")
            case "fail":
                self.world.fail(worker, held)
            case "renew":
                self.world.renew(worker)
            case _:
                self.world.crash(worker, noted=pick % 2 == 0, journal=what == "crash")
        self.happened(what)

    @precondition(lambda self: self.world.dead)
    @rule(pick=PICK, same_boot=st.integers(0, 3))
    def replay(self, pick: int, same_boot: int) -> None:
        dead = self.world.dead
        self.world.replay(dead[pick % len(dead)], same_boot=same_boot > 0)
        self.happened("replayed")

    # Upkeep, and time.

    @rule(seconds=PASSES)
    def time_passes(self, seconds: int) -> None:
        self.world.time_passes(seconds)
        self.happened("time passed")

    @rule(seconds=st.sampled_from([0, 200, 800, 1000]))
    def upkeep(self, seconds: int) -> None:
        self.world.time_passes(seconds)
        self.world.reap()
        self.world.check()
        self.world.resolve()
        self.world.check()
        self.world.plan()
        self.happened("upkeep")

    # People, the operator, and the far end.

    @rule(pick=PICK, what=st.sampled_from(MISHAPS))
    def befalls(self, pick: int, what: str) -> None:
        row = self.row(pick, "scheduled", "working", "armed", "in_doubt")
        if row is None:
            return
        if what == "stop":
            self.world.stop(row.subscriber_id)
        elif what == "edit":
            self.world.edition += 1
        elif what in ("pause", "resume"):
            self.pause(("stream", "sequence")[pick % 2], pick // 2, what == "pause")
        else:
            self.world.run(BEFALLS[what], pick=pick, id=row.subscriber_id, of=row.enrollment_id)
        self.happened(what)

    def pause(self, what: str, pick: int, on: bool) -> None:
        keys = {"stream": ["marketing", "transactional"], "sequence": ["two", "one-mail"]}[what]
        value = "clock_timestamp(), pause_reason = 'test'" if on else "NULL, pause_reason = NULL"
        self.world.run(
            f"UPDATE {what} SET paused_at = {value} WHERE key = :key"
            f" AND (paused_at IS NULL) = {str(on).lower()}",
            key=keys[pick % 2],
        )

    @rule(pick=PICK, word=st.sampled_from(["sent", "resend", "drop", *SOURCES, *SOURCES]))
    def word(self, pick: int, word: Any) -> None:
        """Somebody who knows what became of a mail says so: the operator, or the far end."""
        if word not in SOURCES:
            if row := self.row(pick, "in_doubt"):
                self.world.operator_settles(row, word)
                self.happened("settled")
            return
        rows = [row for row in self.world.rows().values() if self.world.wire[row.id]]
        rows = [row for row in rows if row.state != "sent"] or rows
        if rows:
            self.world.evidence(rows[pick % len(rows)], word, epoch=pick % 2 == 0)
            self.happened("evidence")

    @rule(pick=PICK)
    def retry(self, pick: int) -> None:
        if row := self.row(pick, "failed"):
            self.world.operator_retries(row)
            self.happened("retried")


@pytest.fixture
def machine(session: Connection) -> type[Fleet]:
    Fleet.session = session
    Fleet.counts = {}
    return Fleet


@pytest.mark.timeout(3600 if EXAMPLES else 240)
def test_no_order_of_events_breaks_a_promise(machine: type[Fleet]) -> None:
    run_state_machine_as_test(machine, settings=BOUNDS)


# How often each thing happens in a storm, to everything else.
WEIGHTS = {
    "claim": 5, "next_stage": 14, "stages": 6, "worker_in_trouble": 4, "replay": 2, "time_passes": 2,
    "upkeep": 5, "befalls": 2, "word": 4, "retry": 1,
}  # fmt: skip
EVERYTHING = {
    "claimed", "permitted", "not permitted", "dot", "too late for the dot", "recorded", "doubted",
    "back", "died", "fail", "renew", "crash", "lost", "replayed", "time passed", "upkeep", "stop",
    "suppress", "opt_out", "move", "end", "pause", "resume", "edit", "settled", "retried",
    "evidence",
}  # fmt: skip


def storm(machine: Fleet, random: Random, steps: int) -> Iterator[str]:
    """Long and even where hypothesis is short and cunning: it gets where many things have happened."""
    machine.begin(
        policy=random.choice(["assume_sent", "hold"]),
        resend=random.choice(["resend", "resend", "hold"]),
    )
    for name in random.choices(list(WEIGHTS), list(WEIGHTS.values()), k=steps):
        given: dict[str, Any] = {
            "pick": random.randrange(6), "who": random.randrange(3), "n": random.randint(1, 4),
            "stream": random.choice(["marketing", "transactional"]), "took": random.random() < 0.6,
            "code": random.choice([250, 250, 250, 451, 554, 0, 0]), "reckless": random.randrange(5),
            "stages": random.randint(1, 3), "same_boot": random.randrange(4),
            "word": random.choice(["sent", "resend", "resend", "drop", *SOURCES]),
            "seconds": random.choice([0, 1, 45, 100, 200, 800, 1000, 3600, 18000]),
            "what": random.choice(TROUBLES if name == "worker_in_trouble" else MISHAPS),
        }  # fmt: skip
        takes = {each: given[each] for each in ARGUMENTS[name]}
        yield f"{name}({', '.join(f'{k}={v!r}' for k, v in takes.items())})"
        if name != "replay" or machine.world.dead:
            getattr(machine, name)(**takes)


@pytest.mark.timeout(3600 if EXAMPLES else 240)
def test_no_storm_breaks_a_promise(machine: type[Fleet]) -> None:
    seeds = [randrange(2**32) for _ in range(EXAMPLES)] if EXAMPLES else list(range(9))
    for seed in seeds:
        way: list[str] = []
        fleet = machine()
        try:
            way.extend(storm(fleet, Random(seed), 200 if EXAMPLES else 60))
            way.append("settle_down()")
        except BaseException as fault:
            fleet.undo.rollback()
            fault.add_note("\n".join([f"seed {seed}:", *way]))
            raise
        fleet.teardown()
    never = EVERYTHING - set(machine.counts)
    assert not never, f"these never happened, so nothing was shown of them: {never}"
