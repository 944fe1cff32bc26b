"""G4: whether a mail costs the same among ten thousand enrollments, a million and five.

    python -m tests.bench.goals --only G4,G4_claim,G4_held,G4_held_claim [--quick]
    python -m tests.bench.goals --only G4_5M,G4_5M_claim

Two fleets on servers of their own, one with few people in its database and one with a book of many
(`standing_book`: enrollments, consents, messages, attempts), send windows of the same size in turns. Before
each window's mails are let go, claims of 200 of them are timed and rolled back. Then once more when a
transaction has held its snapshot open on the large one for a minute in which mails went, so that nothing
of what they left behind may be vacuumed, and then among five million.

A book is followed by a checkpoint, after which Postgres writes each page whole into its log when it is first
touched; windows are short against that, and the more pages there are the more are touched first. So what is
measured of a large book is what mails cost right after a checkpoint, the most that they do.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from statistics import median

from sqlalchemy import text

from models.session import Database
from tasks.moves.claim import claim
from tests.bench.question import LARGEST, MICROS, Answers, Plan, ratios
from tests.bench.standing_book import fill
from tests.bench.whole_fleet import WholeFleet

GOALS = "G4 G4_claim G4_held G4_held_claim G4_5M G4_5M_claim"
SMALL, LARGE = 10_000, 1_000_000
WINDOW = 5_000  # mails, so that the small book stays small
QUICK_BOOKS, QUICK_WINDOW = (100_000, 300_000), 2_000
CLAIMS, CLAIMED = 5, 200
HELD_SECONDS = 60.0

LET_GO = text("UPDATE stream SET paused_at = NULL, pause_reason = NULL WHERE key = 'marketing'")


def ask(plan: Plan, answers: Answers, args: argparse.Namespace) -> None:
    """Answer those of `GOALS` that are asked for.

    Raises:
        Transient, Permanent: there is no figure, as `WholeFleet.deliver` says.
    """
    window = QUICK_WINDOW if plan.quick else WINDOW
    plan = replace(plan, mails=min(plan.mails, window), rounds=max(plan.rounds, 3))
    large, largest = QUICK_BOOKS if plan.quick else (LARGE, LARGEST)
    only_largest = not plan.wants("G4", "G4_claim", "G4_held", "G4_held_claim")
    large = largest if only_largest else large
    with ExitStack() as exits:
        small = exits.enter_context(_fleet(plan, SMALL - WINDOW))
        big = exits.enter_context(_fleet(plan, large))
        for fleet in (small, big):
            fleet.deliver("default", ("sink", fleet.stack.home.sink().pid))  # warm
        if plan.wants("G4", "G4_claim"):
            _compared(plan, answers, small, big, f"{large:,}", "G4")
        if plan.wants("G4_held", "G4_held_claim"):
            with _snapshot(big.database):
                wait = HELD_SECONDS / 10 if plan.quick else HELD_SECONDS
                plan.say(f"a transaction is held open; mails go for {wait:g} s")
                until = time.monotonic() + wait
                while time.monotonic() < until:
                    big.deliver("default", ("sink", big.stack.home.sink().pid))
                what = f"{large:,}, a transaction held open"
                _compared(plan, answers, small, big, what, "G4_held")
        if plan.wants("G4_5M", "G4_5M_claim"):
            if not only_largest:
                _grow(plan, big, largest, already=large)
            big.deliver("default", ("sink", big.stack.home.sink().pid))
            _compared(plan, answers, small, big, f"{largest:,}", "G4_5M")


def _compared(
    plan: Plan, answers: Answers, small: WholeFleet, big: WholeFleet, what: str, goal: str
) -> None:
    """Windows of both in turns."""
    names = {f"among {SMALL:,}, beside {what}": small, f"among {what}": big}
    micros: dict[str, list[float]] = {name: [] for name in names}
    claims: dict[str, list[float]] = {name: [] for name in names}
    used: dict[str, list[float]] = {name: [] for name in names}
    for number in range(plan.rounds):
        for name, fleet in names.items():
            sink = ("sink", fleet.stack.home.sink().pid)
            timed = _Timed()
            done = fleet.deliver("default", sink, when_due=timed)
            micros[name].append(done.micros)
            claims[name].append(timed.seconds * 1e3)
            used[name].append(timed.processor * 1e3)
        said = ", ".join(
            f"{n}: {micros[n][-1]:.0f} µs, {claims[n][-1]:.1f} ms ({used[n][-1]:.1f})"
            for n in names
        )
        plan.say(f"round {number + 1} of {plan.rounds}: {said}")
    few, many = names
    for name in names:
        answers.row(name, MICROS, micros[name])
        answers.row(name, f"ms a claim of {CLAIMED}", claims[name])
        answers.row(name, f"ms of Postgres's processor a claim of {CLAIMED}", used[name])
    answers.goals[goal] = ratios(micros[many], micros[few])
    answers.goals[f"{goal}_claim"] = ratios(claims[many], claims[few])


def _fleet(plan: Plan, people: int) -> WholeFleet:
    def book(database: Database) -> None:
        began = time.monotonic()
        fill(database, people, 1)
        plan.say(f"{people:,} people written in {time.monotonic() - began:.0f} s")

    return WholeFleet(plan.mails, plan.connections, lambda said: None, {}, book=book)


def _grow(plan: Plan, fleet: WholeFleet, people: int, already: int) -> None:
    began = time.monotonic()
    fill(fleet.database, people, 1, already=already)
    plan.say(f"{people - already:,} more people written in {time.monotonic() - began:.0f} s")


class _Timed:
    """Times a claim (median of a few), which nobody sees: all of it is rolled back."""

    seconds = 0.0
    processor = 0.0  # seconds of the server process

    def __call__(self, database: Database) -> None:
        took, used = [], []
        with database.engine.connect() as connection, connection.begin() as transaction:
            connection.execute(LET_GO)
            pid = int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
            for _ in range(CLAIMS):
                began, before = time.perf_counter(), _on_processor(pid)
                claim(connection, stream="marketing", n=CLAIMED, owner="benchmark", lease=60)
                took.append(time.perf_counter() - began)
                used.append(_on_processor(pid) - before)
            transaction.rollback()
        self.seconds, self.processor = median(took), median(used)


def _on_processor(pid: int) -> float:
    """Seconds of processor of a process, to the nanosecond: its clock of `clock_getcpuclockid(3)` on Linux."""
    return time.clock_gettime((~pid << 3) | 2)


@contextmanager
def _snapshot(database: Database) -> Iterator[None]:
    """What a report that somebody forgot does: a snapshot that nothing may be vacuumed behind."""
    with database.snapshot() as connection:
        connection.execute(text("SET idle_in_transaction_session_timeout = 0"))
        connection.execute(text("SELECT count(*) FROM stream"))
        yield
