"""The moves that are rare, off the delivery loop: each kind in groups, on a thread of its own.

What cannot be written now is tried again until it can: the rows are ours until their leases end,
and after that the reaper makes the same move.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import structlog
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from models.session import Database
from tasks.crashpoint import reached
from tasks.moves import doubt as doubts
from tasks.moves import pause, release
from tasks.moves.settings import DeliverySettings
from tasks.send.mail import Mail
from tasks.send.outcome import Refused

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Refusal:
    """ARM would not have it; `busy`: because its subscriber's lock was taken."""

    busy: bool = False


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Not sent, and to be tried again; `delay` None: back-off."""

    reason: str
    delay: float | None
    stage: str | None = None
    code: int | None = None


@dataclass(frozen=True, slots=True)
class Fail:
    """Not sent, and ended; `suppress`: its address is dead."""

    reason: str
    stage: str
    code: int | None
    suppress: bool = False


@dataclass(frozen=True, slots=True)
class Doubt:
    """The dot was written and no reply came."""

    cause: str


@dataclass(frozen=True, slots=True)
class Bounced:
    """The reply to the dot says that the address is dead: suppressed first, then recorded."""

    outcome: Refused


Settlement: TypeAlias = Refusal | GiveBack | Fail | Doubt | Bounced

# A row or a subscriber that is locked from outside must not hold up the others.
PATIENCE = text("SELECT set_config('lock_timeout', '500ms', true)")


class Settler:
    """Takes mails with their settlement on the loop, writes them on a thread, in order of arrival.

    Args:
        database: a small pool of connections.
        owner: this incarnation.
        settings: durations.
        settled: called on the loop for each mail that has left our hands, with outcome and reason.
        answered: called on the loop for a bounce, whose reply is still to be recorded.
    """

    def __init__(
        self,
        database: Database,
        owner: str,
        settings: DeliverySettings,
        settled: Callable[[Mail, str, str], None],
        answered: Callable[[Mail, Refused], None],
    ) -> None:
        self._database = database
        self._owner = owner
        self._settings = settings
        self._settled = settled
        self._answered = answered
        self._queue: asyncio.Queue[tuple[Mail, Settlement]] = asyncio.Queue()

    def put(self, mail: Mail, settlement: Settlement) -> None:
        """Settle this mail, soon."""
        self._queue.put_nowait((mail, settlement))

    def put_all(self, mails: Iterable[Mail], settlement: Settlement) -> None:
        """Settle these mails alike, soon."""
        for mail in mails:
            self.put(mail, settlement)

    async def run(self) -> None:
        """Write settlements for ever; cancelled when the loop ends."""
        wait = 0.1
        while True:
            batch = [await self._queue.get()]
            while not self._queue.empty() and len(batch) < 500:
                batch.append(self._queue.get_nowait())
            while batch:
                try:
                    outcomes = await asyncio.to_thread(self._write, batch)
                except SQLAlchemyError as error:
                    # A row held from outside, a restart of Postgres, no connection to be had.
                    tell = log.warning if wait <= 0.1 else log.debug  # a streak is told once
                    tell("settlement_postponed", rows=len(batch), error=_brief(error))
                    half = len(batch) // 2
                    for item in batch[half:]:
                        self._queue.put_nowait(item)
                    batch = batch[:half]
                    await asyncio.sleep(wait)
                    wait = min(wait * 2, 5.0)
                    continue
                wait = 0.1
                for (mail, settlement), outcome in zip(batch, outcomes, strict=True):
                    if isinstance(settlement, Bounced):
                        self._answered(mail, settlement.outcome)
                    else:
                        self._settled(mail, outcome, _reason(settlement))
                break

    def pause_stream(self, key: str, reason: str) -> None:
        """Stop a stream whose relay will not have us; its mails keep their places."""
        with self._database.transaction() as connection:
            pause.pause_stream(connection, key, reason)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._database.transaction() as connection:
            connection.execute(PATIENCE)
            yield connection

    def _write(self, batch: list[tuple[Mail, Settlement]]) -> list[str]:
        """Write a batch, a transaction a kind: locks are taken in one order within each."""
        reached("settle.begun")
        outcomes = {mail.id: "dropped" for mail, _ in batch}
        back = [
            release.Returned(mail.id, mail.epoch, s.reason, s.delay, s.stage, s.code)
            for mail, s in batch
            if isinstance(s, GiveBack)
        ]
        if back:
            with self._transaction() as connection:
                release.give_back(connection, back, self._owner, self._settings)
            outcomes |= {row.id: "given_back" for row in back}
        refused = [
            (mail.id, mail.epoch, mail.address, s.busy)
            for mail, s in batch
            if isinstance(s, Refusal)
        ]
        if refused:
            with self._transaction() as connection:
                for row_id, state, _ in release.refuse(connection, refused, self._settings):
                    outcomes[row_id] = "given_back" if state == "scheduled" else state
        doubted = [
            doubts.Doubted(mail.id, mail.epoch, s.cause)
            for mail, s in batch
            if isinstance(s, Doubt)
        ]
        if doubted:
            with self._transaction() as connection:
                doubts.doubt(connection, doubted, self._owner, self._settings)
            outcomes |= {row.id: "in_doubt" for row in doubted}
        failed = [
            release.Failed(mail.id, mail.epoch, s.reason, s.stage, s.code)
            for mail, s in batch
            if isinstance(s, Fail)
        ]
        for mail, s in batch:
            # The suppression's trigger waits for the subscriber: a transaction of its own, first.
            if isinstance(s, Bounced) or (isinstance(s, Fail) and s.suppress):
                with self._transaction() as connection:
                    release.suppress_recipient(connection, mail.id, mail.address, "hard_bounce")
        if failed:
            with self._transaction() as connection:
                release.fail(connection, failed)
            outcomes |= {row.id: "failed" for row in failed}
        reached("settle.committed")
        return [outcomes[mail.id] for mail, _ in batch]


def _reason(settlement: Settlement) -> str:
    """One of a few words: a relay's own text is nothing to count by."""
    match settlement:
        case GiveBack(reason) | Fail(reason):
            return reason
        case Doubt(cause):
            return cause if cause == "fault_of_ours" else "no_reply"
        case Refusal(busy):
            return "subscriber_busy" if busy else "not_armed"
        case Bounced():
            return "hard_bounce"


def _brief(error: SQLAlchemyError) -> str:
    return str(getattr(error, "orig", None) or error).partition("\n")[0]
