"""The cycles of delivery: RECORD the answered, ARM the ready, one transaction at a time.

Every connection that stands before its dot, and every reply that has come in, goes with the next
cycle; the next starts when the last has committed, and no more come in for a moment. After an error the two run apart, and a group is
halved until the bad row stands alone; after a lost answer to COMMIT no dot follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias

import structlog

from models.session import Database
from tasks import metrics, trace
from tasks.crashpoint import reached
from tasks.moves.cycle import STATEMENTS, Answered, Cycled, cycle
from tasks.moves.pipeline import ConnectionLost, Pipeline, StatementFailed
from tasks.moves.settings import DeliverySettings
from tasks.send.journal import Journal, JournalFull
from tasks.send.mail import Mail
from tasks.send.outcome import Accepted, Deferred, Refused
from tasks.send.seen import Seen
from tasks.send.settler import GiveBack, Refusal, Settlement
from tasks.send.transport import boottime

log = structlog.get_logger()

GATHER: Final = 0.001  # seconds without anybody new, after which a cycle starts
GATHER_MOST: Final = 0.005  # seconds after which it starts anyway
BUSY_PAUSE: Final = 0.05  # seconds before a subscriber's lock is tried again
FULL_PAUSE: Final = 5.0  # seconds before a journal that took nothing is tried again
STUCK_PAUSE: Final = 1.0  # seconds before a RECORD that failed alone is tried again

Reply: TypeAlias = Accepted | Deferred | Refused
_OUTCOMES: Final[dict[type, str]] = {Accepted: "sent", Deferred: "deferred", Refused: "refused"}


class Holder(Protocol):
    """What the cycles ask of the loop that holds the mails."""

    armed: set[Mail]
    draining: bool

    def settle(self, mail: Mail, settlement: Settlement) -> None:
        """An end beside the cycles."""
        ...

    def recorded(self, mails: Sequence[tuple[Mail, str]]) -> None:
        """Mails that have left our hands, each with its outcome."""
        ...


class Cycles:
    """One a loop; all methods run on it."""

    def __init__(
        self,
        database: Database,
        journal: Journal,
        seen: Seen,
        settings: DeliverySettings,
        holder: Holder,
    ) -> None:
        self._database = database
        self._journal = journal
        self._seen = seen
        self._owner = str(journal.owner)
        self._settings = settings
        self._holder = holder
        self._ready: list[Mail] = []
        self._answers: list[tuple[Mail, Reply]] = []
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._full_until = 0.0
        self._pipeline = self._connect()

    def close(self) -> None:
        """Close the connection."""
        self._pipeline.close()

    async def permit(self, mail: Mail) -> float | None:
        """Wait for this mail's ARM: the latest boottime for its dot, or None, and it is settled."""
        if self._holder.draining:
            self._holder.settle(mail, GiveBack("drained", 0.0))
            return None
        if self._journal.torn or boottime() < self._full_until:
            # Without a journal no dot, and without a dot no ARM: it would only count attempts.
            self._holder.settle(mail, GiveBack("journal_full", self._settings.refused_retry, "arm"))
            return None
        mail.permit = self._loop.create_future()
        mail.ready_since = boottime()
        self._ready.append(mail)
        self._wake.set()
        return await mail.permit

    def answered(self, mail: Mail, reply: Reply) -> None:
        """Record this reply with the next cycle."""
        reached("reply.heard")
        self._answers.append((mail, reply))
        self._wake.set()

    async def run(self) -> None:
        """Cycle for ever; cancelled when the loop ends."""
        while True:
            await self._wake.wait()
            await self._gather()
            self._wake.clear()
            answers, self._answers = self._answers, []
            ready, self._ready = self._ready, []
            if answers or ready:
                await self._cycle(answers, ready)

    async def _gather(self) -> None:
        """Wait for those who are a moment behind: a transaction costs much, a mail in it little.

        A relay that is near answers a group of dots within a millisecond or two. Started at the
        first of them, cycles take half of the connections each.
        """
        seen, until = 0, boottime() + GATHER_MOST
        while seen < (n := len(self._answers) + len(self._ready)) and boottime() < until:
            seen = n
            await asyncio.sleep(GATHER)

    async def _cycle(self, answers: list[tuple[Mail, Reply]], ready: list[Mail]) -> None:
        if answers:
            self.note(answers)
            reached("reply.noted")
        try:
            await self._run(answers, ready)
        except StatementFailed as error:
            log.warning("cycle_failed", sqlstate=error.sqlstate, error=str(error))
            await self._apart(answers, ready)
        except ConnectionLost as error:
            await self._lost(answers, ready, error)

    async def _run(self, answers: Sequence[tuple[Mail, Reply]], ready: Sequence[Mail]) -> None:
        began, drawn = boottime(), trace.spans.now()
        done = await cycle(
            self._pipeline,
            [_answered(mail, reply) for mail, reply in answers],
            [mail.ready() for mail in ready],
            owner=self._owner,
            settings=self._settings,
        )
        metrics.meter.cycle(boottime() - began, len(answers), len(ready))
        trace.spans.recorded(answers, drawn)
        if answers:
            reached("record.committed")
            self._holder.recorded([(mail, _OUTCOMES[type(reply)]) for mail, reply in answers])
        if ready:
            self._permit(ready, done, began)
        try:
            self._journal.compact()
        except JournalFull as error:
            log.warning("journal_not_compacted", error=str(error))

    def _permit(self, ready: Sequence[Mail], done: Cycled, began: float) -> None:
        reached("arm.committed")
        armed = [mail for mail in ready if mail.id in done.armed]
        for mail in armed:
            mail.armed_at = done.armed_at
        if armed:
            self._seen.note(armed[0].id, armed[0].epoch, done.armed_at)
        try:
            self._journal.append_dots([(mail.id, mail.epoch) for mail in armed])
        except JournalFull as error:
            self._full_until = boottime() + FULL_PAUSE
            log.error("journal_full", error=str(error), rows=len(armed))
            for mail in armed:
                self._forbid(mail, GiveBack("journal_full", self._settings.refused_retry, "arm"))
            armed = []
        reached("dots.noted")
        # From here the dot must leave at once; and however long the answer to COMMIT took (this
        # process may have been stopped), well before the reaper could take the row for lost.
        not_after = min(
            boottime() + self._settings.dot_within, began + self._settings.armed_lease / 4
        )
        for mail in armed:
            self._holder.armed.add(mail)
            _answer(mail, not_after)
        for mail in ready:
            if mail.id in done.armed:
                continue
            if mail.id in done.busy:
                self._again(mail)
            else:
                self._forbid(mail, Refusal())

    def _again(self, mail: Mail) -> None:
        """Its subscriber's lock was taken: it comes with a later cycle, for `lock_wait` at most."""
        if self._holder.draining or boottime() - mail.ready_since > self._settings.lock_wait:
            self._forbid(mail, Refusal(busy=True))
            return

        def ready() -> None:
            self._ready.append(mail)
            self._wake.set()

        self._loop.call_later(BUSY_PAUSE, ready)

    def _forbid(self, mail: Mail, settlement: Settlement) -> None:
        _answer(mail, None)
        self._holder.settle(mail, settlement)

    async def _apart(self, answers: list[tuple[Mail, Reply]], ready: list[Mail]) -> None:
        """RECORD and ARM apart, and each group halved until the bad row stands alone."""
        todo: list[tuple[list[tuple[Mail, Reply]], list[Mail]]] = []
        if answers:
            todo.append((answers, []))
        if ready:
            todo.append(([], ready))
        while todo:
            replies, mails = todo.pop()
            try:
                await self._run(replies, mails)
            except StatementFailed as error:
                half = (len(replies) + len(mails)) // 2
                if half:
                    todo += [(replies[:half], mails[:half]), (replies[half:], mails[half:])]
                elif replies:
                    log.warning("record_stuck", message=replies[0][0].id, sqlstate=error.sqlstate)
                    self._loop.call_later(STUCK_PAUSE, self.answered, *replies[0])
                else:
                    log.warning("arm_stuck", message=mails[0].id, sqlstate=error.sqlstate)
                    self._again(mails[0])
            except ConnectionLost as error:
                left = [*todo, (replies, mails)]
                await self._lost(
                    [reply for group, _ in left for reply in group],
                    [mail for _, group in left for mail in group],
                    error,
                )
                return

    async def _lost(
        self, answers: list[tuple[Mail, Reply]], ready: list[Mail], error: ConnectionLost
    ) -> None:
        """COMMIT's answer is lost: no dot follows, and what was answered is recorded again."""
        log.warning("cycle_connection_lost", error=str(error).partition("\n")[0])
        for mail in ready:
            self._forbid(mail, GiveBack("commit_unknown", 0.0, "arm"))
        self._answers = answers + self._answers
        self._pipeline.close()
        pause = 0.1
        while True:
            try:
                self._pipeline = await asyncio.to_thread(self._connect)
                break
            except Exception as fault:  # psycopg's many ways to say that nobody is there
                tell = log.warning if pause <= 0.1 else log.debug  # a streak is told once
                tell("postgres_unreachable", error=str(fault).partition("\n")[0])
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)
        self._wake.set()

    def note(self, answers: Sequence[tuple[Mail, Reply]]) -> None:
        """Write these replies into the journal, before anything else is done about them."""
        try:
            self._journal.append_replies(
                [
                    (mail.id, mail.epoch, reply.code or 0, reply.enhanced, reply.text)
                    for mail, reply in answers
                ]
            )
        except JournalFull as error:
            # The replies go to Postgres all the same; only a crash right now would leave doubt.
            log.error("journal_full", error=str(error), rows=len(answers))

    def _connect(self) -> Pipeline:
        return Pipeline(self._database.raw(), STATEMENTS)


def _answered(mail: Mail, reply: Reply) -> Answered:
    return Answered(
        mail.id,
        mail.epoch,
        mail.enrollment_id,
        mail.armed_at,
        mail.content_sha256,
        reply.code or 0,
        reply.enhanced,
        reply.text,
    )


def _answer(mail: Mail, not_after: float | None) -> None:
    if mail.permit is not None and not mail.permit.done():
        mail.permit.set_result(not_after)
