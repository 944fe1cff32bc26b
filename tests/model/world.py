"""A fleet whose workers are values: real moves on real rows, and a far end that remembers.

The world knows what no database knows: what was really put on the wire, and whether the relay took
it. So a copy, a loss or a mail to somebody who had left is seen without trusting a row. It also knows
what each permission ought to have asked, and asks it beside the SQL.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, text

from tasks.moves import doubt, pause, reap, release
from tasks.moves.claim import Claimed, claim, keep_content, renew
from tasks.moves.cycle import Answered, Ready, cycle
from tasks.moves.evidence import Evidence, Source, take_evidence
from tasks.moves.operate import retry
from tasks.moves.settings import DeliverySettings, IdentitySettings
from tasks.moves.settle import Verdict, settle
from tasks.moves.stop import stop_subscriber
from tasks.send import replay as journals
from tasks.send.abandoned import AbandonedJournal, Effect, Heard
from tasks.send.owner import Owner, boot_id
from tasks.sequence.store import Planner
from tests.model.inside import PASS, Direct, Inside, audit

SETTINGS = DeliverySettings()
REPLIES = {250: "Ok", 451: "later", 554: "no"}
LIVE = ("scheduled", "working", "armed", "in_doubt")

ROWS = """
SELECT m.id, m.state::text AS state, m.epoch, m.stream, m.subscriber_id, m.enrollment_id,
    m.sequence_key, m.owner, m.attempts, m.crashes, m.maybe_delivered, m.content_sha256, m.reason,
    coalesce(m.expires_at <= clock_timestamp(), false) AS expired,
    m.allowed @> clock_timestamp() AS open,
    coalesce(CASE WHEN m.state = 'armed'
                  THEN m.armed_at <= clock_timestamp() - interval '720 s'
                  WHEN m.state = 'working' THEN m.watch_at <= clock_timestamp() - interval '60 s'
                  ELSE m.watch_at <= clock_timestamp() END, false) AS over,
    coalesce(m.run_at <= clock_timestamp(), false) AS due,
    coalesce(e.active, true) AS active, t.class, t.doubt_policy,
    t.paused_at IS NOT NULL OR q.paused_at IS NOT NULL AS paused, s.address,
    s.stopped_at IS NOT NULL OR EXISTS (
        SELECT 1 FROM suppression p WHERE p.address_hmac = s.address_hmac
          AND p.scope IN ('all', t.class)) OR EXISTS (
        SELECT 1 FROM consent c WHERE t.class = 'marketing' AND c.subscriber_id = s.id
          AND c.topic = q.topic AND NOT c.opted_in) AS unwilling,
    coalesce((SELECT array_agg(a.epoch || ':' || a.outcome || ':' || coalesce(a.evidence, '')
                               ORDER BY a.epoch)
              FROM attempt a WHERE a.message_id = m.id), '{}') AS tries
FROM message m JOIN subscriber s ON s.id = m.subscriber_id JOIN stream t ON t.key = m.stream
LEFT JOIN sequence q ON q.key = m.sequence_key LEFT JOIN enrollment e ON e.id = m.enrollment_id
ORDER BY m.id
"""


@dataclass
class Held:
    """A mail in a worker's hands, and how far it is.

    `stage`: claimed, permitted (ARM has committed, no dot yet), stale (it waited too long for a dot
    to follow), dotted (the dot is out), answered (with `code`).
    """

    row: Claimed
    sha256: bytes
    leased: float
    stage: str = "claimed"
    armed_at: dt.datetime | None = None
    code: int = 0

    @property
    def effect(self) -> Effect:
        return self.row.id, self.row.epoch


@dataclass
class Worker:
    """A send process: what it holds, and its journal. `dead`: killed, its journal left behind."""

    owner: Owner
    held: dict[Effect, Held] = field(default_factory=dict)
    dots: set[Effect] = field(default_factory=set)
    replies: dict[Effect, Heard] = field(default_factory=dict)

    def copy(self) -> Worker:
        held = {effect: replace(each) for effect, each in self.held.items()}
        return Worker(self.owner, held, set(self.dots), dict(self.replies))

    def at(self, *stages: str) -> list[Held]:
        return [held for held in self.held.values() if held.stage in stages]


Saved: TypeAlias = tuple[list[Worker], list[Worker], dict[int, list[tuple[int, bytes]]], int]


class World:
    """Two streams, a few mails, workers; `check` after everything that happens."""

    def __init__(self, connection: Connection, workers: int = 2) -> None:
        self.connection = connection
        self.inside = Inside(connection)
        self.workers = [Worker(self._owner(n)) for n in range(workers)]
        self.born = workers
        self.dead: list[Worker] = []
        self.wire: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
        self.edition = 0
        self.planner = Planner(
            self.inside,
            IdentitySettings(secret_message_id=SecretStr("of the model")),
            dt.timedelta(days=3),
        )

    @staticmethod
    def _owner(n: int) -> Owner:
        return Owner(boot_id(), f"{n:016x}")

    # Another way to go on from here.

    def save(self) -> Saved:
        """What `restore` brings back; the rows are the caller's, by savepoint."""
        return (
            [worker.copy() for worker in self.workers],
            [worker.copy() for worker in self.dead],
            {message: list(copies) for message, copies in self.wire.items()},
            self.born,
        )

    def restore(self, saved: Saved) -> None:
        workers, dead, wire, self.born = saved
        self.workers = [worker.copy() for worker in workers]
        self.dead = [worker.copy() for worker in dead]
        self.wire = defaultdict(list, {message: list(each) for message, each in wire.items()})

    # What is true now.

    def rows(self) -> dict[int, Any]:
        return {row.id: row for row in self.connection.exec_driver_sql("EXECUTE model_rows")}

    def check(self) -> None:
        """Every invariant, and every promise that only the far end can judge."""
        broken = audit(self.connection)
        assert not broken, "\n".join(str(tuple(row)) for row in broken)
        for row in self.rows().values():
            copies = self.wire[row.id]
            most = 2 if row.doubt_policy == "resend" else 1
            assert len(copies) <= most, f"message {row.id}: {len(copies)} copies are out"
            assert len({sha256 for _, sha256 in copies}) <= 1, f"message {row.id}: two contents"
            assert row.state != "sent" or copies, f"message {row.id} is sent and never left"
            known = any(t.split(":")[1] in ("accepted", "in_doubt") for t in row.tries)
            assert (
                not copies or known or row.state in ("sent", "sent_assumed", "in_doubt", "armed")
            ), f"message {row.id}: a copy is out and the rows do not know it ({row.state})"

    @contextmanager
    def fenced(self, held: Held) -> Iterator[None]:
        """What somebody does under an epoch that is over leaves the message where it is."""
        before = self.rows()[held.row.id]
        yield
        after = self.rows()[held.row.id]
        if held.row.epoch < before.epoch:
            same = (after.state, after.attempts, after.crashes) == (
                before.state,
                before.attempts,
                before.crashes,
            )
            # A 2yz for an earlier copy ends it wherever it waits, or another copy would follow.
            proven = held.code // 100 == 2 and after.state == "sent"
            assert same or proven, f"epoch {held.row.epoch} moved {before} to {after}"

    # What workers do.

    def claim(self, worker: Worker, stream: str, n: int = 10) -> list[Held]:
        before = self.rows()
        with self.inside.transaction() as connection:
            found = claim(
                connection,
                stream=stream,
                n=n,
                owner=str(worker.owner),
                lease=SETTINGS.working_lease,
            ).rows
        for row in found:
            was = before[row.id]
            assert was.state == "scheduled" and was.due and not was.paused, f"claimed {was}"
            assert row.epoch == was.epoch + 1
        # Of what took its worker down more than twice a process has ten in hand at most.
        suspects = [row.id for row in self.rows().values()
                    if row.crashes > 2 and row.owner == str(worker.owner)]  # fmt: skip
        assert len(suspects) <= 10, f"suspects side by side: {suspects}"
        mine = [row for row in self.rows().values() if row.owner == str(worker.owner)]
        alone = [row.id for row in mine if row.crashes >= SETTINGS.alone]
        assert not alone or len(mine) == 1, f"not alone: {alone}"
        unfit = [row for row in found if row.unfit]
        if unfit:
            with self.inside.transaction() as connection:
                rows = [(row.id, row.epoch, row.address, False) for row in unfit]
                release.refuse(connection, rows, SETTINGS)
        taken = []
        for row in found:
            if row.unfit:
                continue
            held = self._prepared(worker, row, may_resend=before[row.id].doubt_policy == "resend")
            if held is not None:
                worker.held[held.effect] = held
                taken.append(held)
        return taken

    def _prepared(self, worker: Worker, row: Claimed, may_resend: bool) -> Held | None:
        """Compose as the preparer does: kept bytes, else anew; never other bytes than a copy has."""
        sha256 = hashlib.sha256(f"{row.id} edition {self.edition}".encode()).digest()
        if row.body is not None and row.content_sha256 is not None:
            sha256 = row.content_sha256
        elif row.maybe_delivered and sha256 != row.content_sha256:
            back = release.Returned(row.id, row.epoch, "content_changed")
            with self.inside.transaction() as connection:
                release.give_back(connection, [back], str(worker.owner), SETTINGS)
                doubt.hold_back(connection, [(row.id, row.epoch)], "content_changed")
            return None
        if may_resend and row.body is None:
            with self.inside.transaction() as connection:
                keep_content(connection, [(row.id, row.epoch, sha256, b"as composed")])
        return Held(row, sha256, SETTINGS.working_lease)

    def renew(self, worker: Worker) -> None:
        held = worker.at("claimed")
        with self.inside.transaction() as connection:
            renew(connection, [each.effect for each in held], SETTINGS.working_lease)
        for each in held:
            each.leased = SETTINGS.working_lease

    def arm(self, worker: Worker, held: Held, *, other_bytes: bool = False) -> bool:
        """Ask for permission; refused mails go where they belong. `other_bytes`: a reckless worker."""
        before = self.rows()[held.row.id]
        sha256 = b"other bytes".ljust(32) if other_bytes else held.sha256
        ready = Ready(held.row.id, held.row.epoch, held.row.subscriber_id, held.row.address, sha256)
        with self.fenced(held):
            told = self._cycle(worker, [], [ready])
        if not told.armed:
            with self.fenced(held), self.inside.transaction() as connection:
                rows = [(held.row.id, held.row.epoch, held.row.address, False)]
                release.refuse(connection, rows, SETTINGS)
            del worker.held[held.effect]
            return False
        accepted = any(":accepted:" in each for each in before.tries)
        ought = {
            "it is working": before.state == "working",
            "its epoch is the latest": held.row.epoch == before.epoch,
            "its lease is good for the margin": held.leased > SETTINGS.arm_margin - 5,
            "its time is not over": not before.expired,
            "its window is open": before.open,
            "its enrollment is active": before.active,
            "nothing is paused": not before.paused,
            "its subscriber did not leave": not before.unwilling,
            "its address is the same": held.row.address == before.address,
            "no copy was accepted": not (accepted and before.maybe_delivered),
            "its bytes are those of the copy": not before.maybe_delivered
            or sha256 == before.content_sha256,
        }
        wrong = [what for what, holds in ought.items() if not holds]
        assert not wrong, f"permitted message {held.row.id}, though not: {wrong}"
        held.sha256 = sha256
        held.stage, held.armed_at = "permitted", dt.datetime.fromisoformat(told.armed_at)
        return True

    def dot(self, worker: Worker, held: Held, *, accepted: bool, code: int = 0) -> None:
        """The dot leaves, after its line in the journal. `code` 0: no reply comes back."""
        worker.dots.add(held.effect)
        held.stage = "dotted"
        if accepted:
            self.wire[held.row.id].append((held.row.epoch, held.sha256))
        if code:
            held.stage, held.code = "answered", code

    def note_reply(self, worker: Worker, held: Held) -> None:
        worker.replies[held.effect] = (held.code, None, REPLIES[held.code])

    def record(self, worker: Worker, held: Held) -> None:
        self.note_reply(worker, held)
        with self.fenced(held):
            self._cycle(worker, [self._answered(held)], [])
        del worker.held[held.effect]

    def silence(self, worker: Worker, held: Held) -> None:
        with self.fenced(held), self.inside.transaction() as connection:
            rows = [doubt.Doubted(held.row.id, held.row.epoch, "closed")]
            doubt.doubt(connection, rows, str(worker.owner), SETTINGS)
        del worker.held[held.effect]

    def give_back(self, worker: Worker, held: Held, *, crashed: bool = False) -> None:
        """No dot was written: back into the queue. Also where ARM's COMMIT was never answered."""
        assert held.effect not in worker.dots
        with self.fenced(held), self.inside.transaction() as connection:
            rows = [release.Returned(held.row.id, held.row.epoch, "closed", 0.0, crashed=crashed)]
            release.give_back(connection, rows, str(worker.owner), SETTINGS)
        del worker.held[held.effect]

    def fail(self, worker: Worker, held: Held) -> None:
        with self.fenced(held), self.inside.transaction() as connection:
            rows = [release.Failed(held.row.id, held.row.epoch, "refused", "rcpt", 550)]
            release.fail(connection, rows)
        del worker.held[held.effect]

    def crash(self, worker: Worker, *, noted: bool = True, journal: bool = True) -> Worker:
        """kill -9; a new process takes its place. `noted`: replies had reached the journal."""
        for held in worker.at("answered") if noted else ():
            self.note_reply(worker, held)
        at = self.workers.index(worker)
        self.workers[at] = Worker(self._owner(self.born))
        self.born += 1
        if journal:
            self.dead.append(worker)
        return self.workers[at]

    def replay(self, worker: Worker, *, same_boot: bool = True) -> None:
        self.dead.remove(worker)
        journal = AbandonedJournal(
            Path("nowhere"), worker.owner, same_boot, dots=worker.dots, replies=worker.replies
        )
        journals.replay(self.inside, journal, SETTINGS)

    # What the others do.

    def time_passes(self, seconds: float) -> None:
        self.connection.execute(PASS, {"seconds": seconds})
        for held in (held for worker in self.workers for held in worker.held.values()):
            held.leased -= seconds
            if held.armed_at is not None:
                held.armed_at -= dt.timedelta(seconds=seconds)
            # The permission for a dot is good for half a second.
            held.stage = "stale" if held.stage == "permitted" else held.stage

    def reap(self) -> None:
        with self.inside.transaction() as connection:
            reap.reap_working(connection, SETTINGS)
        with self.inside.transaction() as connection:
            doubt.reap_armed(connection, SETTINGS)
        with self.inside.transaction() as connection:
            pause.park(connection)
            pause.wake(connection)

    def resolve(self) -> None:
        with self.inside.transaction() as connection:
            doubt.resolve(connection)

    def plan(self) -> None:
        self.planner.scan()

    def stop(self, subscriber: int) -> None:
        with self.inside.transaction() as connection:
            stop_subscriber(connection, subscriber, "unsubscribe")

    def run(self, sql: str, **values: Any) -> None:
        with self.inside.transaction() as connection:
            named = {name: value for name, value in values.items() if f":{name}" in sql}
            connection.execute(text(sql), named)

    def copies(self, row: Any) -> list[int]:
        return [epoch for epoch, _ in self.wire[row.id]]

    def operator_settles(self, row: Any, verdict: Verdict) -> bool:
        """An operator who knows the relay's log says nothing that is not so."""
        verdict = "sent" if self.wire[row.id] else ("drop" if verdict == "sent" else verdict)
        with self.inside.transaction() as connection:
            return bool(settle(connection, [row.id], verdict, SETTINGS).done)

    def operator_retries(self, row: Any) -> None:
        with self.inside.transaction() as connection:
            done = retry(connection, [row.id], SETTINGS).done
        assert not (done and self.wire[row.id]), f"{row} is tried again, and a copy of it is out"

    def evidence(self, row: Any, source: Source, *, epoch: bool = True) -> None:
        """The far end tells of its latest copy, if it has one."""
        epochs = self.copies(row)
        if epochs:
            word = Evidence(row.id, "arrived", source, epochs[-1] if epoch else None)
            with self.inside.transaction() as connection:
                take_evidence(connection, [word])

    def settle_down(self) -> None:
        """Everybody does their duty until nothing is live: nothing may be stuck, nothing lost."""
        for worker in self.workers:
            for held in list(worker.held.values()):
                if held.stage == "answered":
                    self.record(worker, held)
                elif held.stage == "dotted":
                    self.silence(worker, held)
                else:
                    self.give_back(worker, held)
        for worker in list(self.dead):
            self.replay(worker)
        self.check()
        self.run("UPDATE stream SET paused_at = NULL, pause_reason = NULL")
        self.run("UPDATE sequence SET paused_at = NULL, pause_reason = NULL")
        for _ in range(20):
            if not any(row.state in LIVE for row in self.rows().values()) and not self._waiting():
                break
            self.time_passes(5 * 3600)
            self.reap()
            self.resolve()
            self.plan()
            for row in self.rows().values():
                if row.state == "in_doubt" and row.reason in ("content_changed", "quarantine"):
                    self.operator_settles(row, "drop")
                elif row.state == "in_doubt" and row.doubt_policy == "hold":
                    # Who may not get it any more, or whose time is over, is not resent to.
                    if not self.operator_settles(row, "resend"):
                        self.operator_settles(row, "drop")
            for stream in ("marketing", "transactional"):
                for held in self.claim(self.workers[0], stream):
                    if self.arm(self.workers[0], held):
                        self.dot(self.workers[0], held, accepted=True, code=250)
                        self.record(self.workers[0], held)
            self.check()
        else:
            pytest.fail(f"it does not come to rest: {[tuple(r) for r in self.rows().values()]}")

    def _waiting(self) -> bool:
        found = self.connection.execute(text("SELECT 1 FROM enrollment WHERE active LIMIT 1"))
        return found.one_or_none() is not None

    def _cycle(self, worker: Worker, answered: list[Answered], ready: list[Ready]) -> Any:
        """One cycle, driven to its end: nothing in it waits."""
        with self.inside.transaction():
            pipeline: Any = Direct(self.inside.raw(), {})
            told = cycle(pipeline, answered, ready, owner=str(worker.owner), settings=SETTINGS)
            try:
                told.send(None)
            except StopIteration as done:
                return done.value
        raise AssertionError("a cycle waited for something")

    @staticmethod
    def _answered(held: Held) -> Answered:
        assert held.armed_at is not None
        return Answered(
            held.row.id, held.row.epoch, held.row.enrollment_id, held.armed_at.isoformat(),
            held.sha256, held.code, None, REPLIES[held.code],
        )  # fmt: skip
