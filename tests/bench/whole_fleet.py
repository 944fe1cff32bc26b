"""The whole fleet on servers of its own, and what it uses to send many due mails.

Real Celery workers, one of each pool, beat, Postgres with fsync, Valkey and the shipped sink, in a
folder that is removed afterwards. Durations are those of an operator.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from sqlalchemy import text

from models.migrate import migrate
from models.session import Database
from tasks.errors import Permanent, Transient
from tasks.moves.settings import DeliverySettings
from tasks.upkeep import verify as audit
from tests.bench import due_mails
from tests.bench.cpu_time import cpu_seconds, used_between
from workers.autoscale import Bounds
from workers.child import PROGRAM
from workers.cli.audit import summary
from workers.embedded.home import Home
from workers.embedded.ledger import read_ledger
from workers.embedded.stack import Stack
from workers.supervisor import Fleet

STILL = 60.0  # seconds without a change after which something is wrong
EVERY = 0.1  # seconds between two looks at the counters

STATES = text("""
SELECT coalesce(string_agg(n || ' ' || state, ', '), 'none') FROM (
    SELECT state, count(*) AS n FROM message WHERE sequence_key = :key GROUP BY 1) x
""")
# By the queue's own index: there may be millions of other messages.
DUE = text("""
SELECT count(*) FROM message m WHERE m.stream = 'marketing'
  AND m.run_at <= (SELECT clock_timestamp()) AND m.sequence_key = :key
""")
# Whoever was sent the mail is in the sequence, until the planner has taken them out.
ENDED = text("""
SELECT :mails - count(*) FROM enrollment e WHERE e.active AND e.sequence_key = :key
""")
SENT = text("""
SELECT coalesce(sum(n), 0)::bigint FROM counter WHERE sequence_key = :key AND outcome = 'sent'
""")
ROWS = text("""
SELECT m.rfc_message_id, m.terminal_at FROM message m
WHERE m.state = 'sent' AND m.sequence_key = :key
  AND m.enrollment_id IN (SELECT e.id FROM enrollment e WHERE e.sequence_key = :key)
""")
DURABLE = text("SELECT current_setting('fsync'), current_setting('synchronous_commit')")


@dataclass(frozen=True, slots=True)
class Delivered:
    """One window, from the moment the stream was let go.

    Attributes:
        mails: how many were due, were sent, and (at our own sink) arrived.
        seconds: to the record of the last mail, by Postgres's clock.
        first: to that of the first; the wait for beat's next tick, up to a second, is in both.
        cpu: seconds of processor by process, until the planner has taken everybody out too.
        octets: of a mail on average; 0 where the sink keeps no ledger.
    """

    mails: int
    seconds: float
    first: float
    cpu: Mapping[str, float]
    octets: float

    @property
    def micros(self) -> float:
        """Microseconds of processor a mail, of all processes together."""
        return sum(self.cpu.values()) / self.mails * 1e6


class WholeFleet:
    """A fleet that answers, and its subscribers; a context.

    Args:
        mails: subscribers, and so mails a window.
        connections: SMTP connections of the send worker.
        say: told what goes on.
        relays: further relays, name → URL on loopback.
        guard_off: a name of `workers.chaos.guards.OFF`, to measure what that guard costs.
        dkim_keys: of the send worker, for senders other than the usual one.
        program: what the interpreter runs in the place of `dripfleet`.
        book: writes what else is in the database, before the fleet starts.
        send_processes: how many.
    """

    def __init__(
        self,
        mails: int,
        connections: int,
        say: Callable[[str], None],
        relays: Mapping[str, str],
        guard_off: str | None = None,
        dkim_keys: str = "",
        program: tuple[str, ...] = PROGRAM,
        book: Callable[[Database], None] | None = None,
        send_processes: int = 1,
    ) -> None:
        self._mails = mails
        self._windows = 0
        self._guard_off = guard_off
        self._given_program = program
        self._book = book
        self._send_processes = send_processes
        self._lines = 0
        self._say = say
        self._settings = {"DRIPFLEET_CONNECTIONS": str(connections)}
        if dkim_keys:
            self._settings["DRIPFLEET_DKIM_KEYS"] = dkim_keys
        self._settings |= {f"DRIPFLEET_SMTP_URL_{n.upper()}": url for n, url in relays.items()}

    def __enter__(self) -> Self:
        # An operator's own servers and settings are none of the benchmark's business.
        for name in [name for name in os.environ if name.startswith("DRIPFLEET_")]:
            del os.environ[name]
        os.environ.update(self._settings)
        with ExitStack() as exits:
            folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="dripfleet-")))
            self._folder = folder
            home = exits.enter_context(Home(folder / "home"))
            self.stack = exits.enter_context(Stack(home, say=self._say, loopback_only=True))
            self.stack.adopt()
            self._database = Database(self.stack.database_url, name="dripfleet-bench")
            exits.callback(self._database.close)
            migrate(self._database)
            due_mails.bring_in(self._database, self._mails)
            if self._book is not None:
                self._book(self._database)
            n = self._send_processes
            self._fleet = Fleet(
                self.stack,
                flower=False,
                scale=() if n == 1 else [Bounds("send", n, n)],
                say=self._say,
                program=self._program(),
            )
            exits.callback(self._fleet.stop)
            self._fleet.start()
            with self._database.transaction() as connection:
                durable = tuple(connection.execute(DURABLE).one())
                if durable != ("on", "on"):
                    raise Permanent(f"Postgres does not write to disk: fsync, commit are {durable}")
            seconds = self._fleet.wait_ready()
            self._say(f"the fleet answers after {seconds:.0f} s: {self._fleet.pids()}")
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._exits.close()

    @property
    def mails(self) -> int:
        """Of each window."""
        return self._mails

    @property
    def database(self) -> Database:
        """Where its rows are."""
        return self._database

    def _program(self) -> tuple[str, ...]:
        if self._guard_off is None:
            return self._given_program
        hooks = ("--guard-off", self._guard_off, str(self._folder / "points"))
        return ("-m", "workers.chaos.process", *hooks)

    def deliver(
        self,
        relay: str,
        sink: tuple[str, int],
        sender: str | None = None,
        when_due: Callable[[Database], None] = lambda database: None,
    ) -> Delivered:
        """Make a mail due to everybody, then send them all through a relay, and measure that.

        Args:
            relay: `default` is the shipped sink, whose ledger is held against the rows.
            sink: its name and process id, for the account.
            sender: who writes, where it is not the usual one.
            when_due: called when all are due and nothing is let go.

        Raises:
            Transient: nothing moved for a minute, or a process ended.
            Permanent: sent, due and the ledger differ.
        """
        key = self._make_due(relay, sender)
        when_due(self._database)
        name, pid = sink
        roots = {**self._fleet.pids(), "postgres": self.stack.home.postgres().pid}
        roots |= {"valkey": self.stack.home.valkey().pid, name: pid}
        before = cpu_seconds(roots)
        began = due_mails.let_go(self._database)
        self._wait(SENT, key, "sent", EVERY)
        self._wait(ENDED, key, "come to the end", EVERY)
        used = used_between(before, cpu_seconds(roots))
        if self._fleet.pids().items() - roots.items():
            raise Transient("a process of the fleet was started again; run the benchmark again")
        with self._database.transaction() as connection:
            rows = connection.execute(ROWS, {"key": key}).all()
        octets = self._compare({row.rfc_message_id for row in rows}, ledger=relay == "default")
        first, last = (pick(row.terminal_at for row in rows) - began for pick in (min, max))
        return Delivered(self._mails, last.total_seconds(), first.total_seconds(), used, octets)

    def private_megabytes(self, pool: str) -> float:
        """Memory that a pool's worker shares with nobody, its children included."""
        root = psutil.Process(self._fleet.pids()[pool])
        members = [root, *root.children(recursive=True)]
        return sum(float(each.memory_full_info().uss) for each in members) / 1e6

    def arrived(self) -> list[int]:
        """Octets of each mail that came to the shipped sink since it was last looked at."""
        return [line.bytes for line in self._new_lines()]

    def verify(self) -> str:
        """Audit every promise; the audit's one sentence.

        Raises:
            Permanent: one is broken.
        """
        report = audit.verify(self._database, DeliverySettings(), audit.VerifySettings())
        if not report.clean:
            raise Permanent(f"the audit found faults, so there is no figure: {summary(report)}")
        return summary(report)

    def _make_due(self, relay: str, sender: str | None) -> str:
        """Publish a sequence of one mail, enroll everybody, and wait until all is planned."""
        self._windows += 1
        key = f"first-figure-{self._windows}"
        due_mails.hold(self._database, relay, sender)
        due_mails.publish_one_mail(self._database, key, self._folder)
        due_mails.enroll(self._database, key, self._mails)
        self._wait(DUE, key, "due", 0.5)
        return key

    def _wait(self, query: Any, key: str, what: str, every: float) -> None:
        """Tend the fleet until the query counts every mail."""
        seen, changed = -1, time.monotonic()
        while True:
            with self._database.transaction() as connection:
                values = {"key": key, "mails": self._mails}
                count = int(connection.execute(query, values).scalar_one())
            if count >= self._mails:
                return
            if count != seen:
                seen, changed = count, time.monotonic()
            elif time.monotonic() - changed > STILL:
                with self._database.transaction() as connection:
                    states = connection.execute(STATES, {"key": key}).scalar_one()
                raise Transient(
                    f"only {count} of {self._mails} mails are {what}, and nothing has moved for"
                    f" {STILL:g} s; messages by state: {states}"
                )
            self._fleet.run(every)

    def _compare(self, sent: set[str], *, ledger: bool) -> float:
        """Octets of a mail on average, once it is sure that what was due, sent and taken agree."""
        lines = list(self._new_lines())
        arrived = [line.message_id for line in lines]
        expected = self._mails if ledger else 0
        if len(sent) != self._mails or len(arrived) != expected or not set(arrived) <= sent:
            raise Permanent(
                f"{self._mails} mails were due, {len(sent)} are sent, the sink's ledger has"
                f" {len(arrived)} lines and {len(set(arrived) - sent)} strangers: no figure"
            )
        return sum(line.bytes for line in lines) / len(lines) if lines else 0.0

    def _new_lines(self) -> list[Any]:
        lines = list(islice(read_ledger(self.stack.home.mail / "ledger.jsonl"), self._lines, None))
        self._lines += len(lines)
        return lines
