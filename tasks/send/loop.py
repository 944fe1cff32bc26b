"""The delivery loop: many SMTP conversations on one event loop, grouped into cycles.

Every connection that stands before its dot, and every reply that has come in, goes with the next
cycle, one transaction that RECORDs the answered and ARMs the ready; the next starts when the last
has committed. The loop has a thread of its own from the worker's start to its drain, and tasks only
hand it rows: a mail that waits ten minutes for its reply holds up nobody else.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from typing import Final

import structlog
import uvloop
from sqlalchemy.exc import DBAPIError

from models.session import Database
from tasks.moves.claim import renew
from tasks.moves.cycle import STATEMENTS, Answered, Cycled, Ready, cycle
from tasks.moves.pipeline import ConnectionLost, Pipeline, StatementFailed
from tasks.moves.settings import DeliverySettings
from tasks.send.journal import Journal, JournalFull
from tasks.send.lane import Lane
from tasks.send.mail import Mail
from tasks.send.outcome import Accepted, Deferred, Refused
from tasks.send.relay import Relay
from tasks.send.settings import SendSettings
from tasks.send.settler import GiveBack, Refusal, Settlement, Settler
from tasks.send.transport import boottime

log = structlog.get_logger()

BUSY_PAUSE: Final = 0.05  # seconds before a subscriber's lock is tried again
STUCK_PAUSE: Final = 1.0  # seconds before a RECORD that failed alone is tried again


class DeliveryLoop:
    """One a send process. `start`, then `reserve` and `submit` from any thread, `drain`, `join`.

    Args:
        database: where the rows are.
        relays: relay name → where it is; `default` is always there.
        settings: connections, window, names.
        delivery: durations.
        journal: this incarnation's, already locked; its owner is in the rows we claim.
    """

    def __init__(
        self,
        database: Database,
        relays: Mapping[str, Relay],
        settings: SendSettings,
        delivery: DeliverySettings,
        journal: Journal,
    ) -> None:
        self.owner = str(journal.owner)
        self._database = database
        self._relays = dict(relays)
        self._settings = settings
        self._delivery = delivery
        self._journal = journal
        self._reserved = 0
        self._lock = threading.Lock()
        self._draining = False
        self._held: set[Mail] = set()
        self._armed: set[Mail] = set()
        self._ready: list[Mail] = []
        self._answers: list[tuple[Mail, Accepted | Deferred | Refused]] = []
        self._lanes: dict[str, Lane] = {}
        self._started = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)

    def start(self) -> None:
        """Start the thread; returns when it takes mails.

        Raises:
            ConnectionLost, StatementFailed: Postgres is not there, or not migrated.
        """
        self._thread.start()
        self._started.wait()
        if self._fault is not None:
            raise self._fault

    def reserve(self, relay: str, n: int) -> int:
        """Room for up to `n` rows, to be claimed now; 0 while draining or its relay is closed."""
        with self._lock:
            lane = self._lanes.get(relay)
            if self._draining or (lane is not None and not lane.open):
                return 0
            granted = max(0, min(n, self._settings.window - self._reserved))
            self._reserved += granted
            return granted

    def release(self, n: int) -> None:
        """Give back room that no row was claimed for, or whose row ended before `submit`."""
        with self._lock:
            self._reserved -= n
        self._loop.call_soon_threadsafe(self._finish_if_empty)

    def submit(self, relay: str, mails: Sequence[Mail]) -> None:
        """Take these; their tickets tell what became of them."""
        self._loop.call_soon_threadsafe(self._accept, relay, list(mails))

    def drain(self) -> None:
        """Claim nothing more, give back what is not armed; returns at once."""
        with self._lock:
            if self._draining:
                return
            self._draining = True
        self._loop.call_soon_threadsafe(self._drain)

    def join(self, timeout: float) -> bool:
        """Wait for armed mails and stop; False: some still waited for their reply."""
        self.drain()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._main())
        except BaseException as error:  # handed to whoever waits in `start`
            self._fault = error
            if self._started.is_set():
                # Without its loop this process is of no use: the supervisor starts another, and
                # what it holds comes back by its journal.
                log.exception("delivery_loop_ended")
                os.kill(os.getpid(), signal.SIGTERM)
        finally:
            self._started.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._done = asyncio.Event()
        self._pipeline = self._connect()
        self._settler = Settler(
            self._database, self.owner, self._delivery, self._settled, self.answered
        )
        background = [
            asyncio.create_task(self._settler.run()),
            asyncio.create_task(self._renew()),
            asyncio.create_task(self._cycles()),
        ]
        self._started.set()
        log.info("delivery_loop_started", owner=self.owner)
        try:
            ended, _ = await asyncio.wait(
                [*background, asyncio.create_task(self._done.wait())],
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in ended:
                task.result()
            for lane in self._lanes.values():
                await lane.close()
        finally:
            for task in background:
                task.cancel()
            self._pipeline.close()
            self._journal.close(remove=not self._armed)
            log.info("delivery_loop_drained", owner=self.owner, armed=len(self._armed))

    def _connect(self) -> Pipeline:
        return Pipeline(self._database.raw(), STATEMENTS)

    def _accept(self, relay: str, mails: list[Mail]) -> None:
        self._held.update(mails)
        if self._draining:
            self._settler.put_all(mails, GiveBack("drained", 0.0))
            return
        lane = self._lanes.get(relay)
        if lane is None:
            lane = self._lanes[relay] = Lane(
                self._relays[relay],
                connections=self._settings.connections,
                helo_name=self._settings.helo_name,
                reply_wait=self._delivery.reply_wait,
                away=self._delivery.refused_retry,
                cycles=self,
            )
        task = asyncio.ensure_future(lane.put(mails))
        task.add_done_callback(lambda done: done.result())

    def _drain(self) -> None:
        for lane in self._lanes.values():
            self._settler.put_all(lane.take_back(), GiveBack("drained", 0.0))
        self._finish_if_empty()

    def _finish_if_empty(self) -> None:
        # Room that is reserved may be rows that a task has claimed and not handed over yet.
        if self._draining and not self._held and self._reserved <= 0:
            self._done.set()

    async def permit(self, mail: Mail) -> float | None:
        """Wait for this mail's ARM; see `lane.Cycles`."""
        if self._draining:
            self.settle(mail, GiveBack("drained", 0.0))
            return None
        mail.permit = self._loop.create_future()
        mail.ready_since = boottime()
        self._ready.append(mail)
        self._wake.set()
        return await mail.permit

    def answered(self, mail: Mail, outcome: Accepted | Deferred | Refused) -> None:
        """Record this reply with the next cycle."""
        self._answers.append((mail, outcome))
        self._wake.set()

    def settle(self, mail: Mail, settlement: Settlement) -> None:
        """Settle this mail beside the cycles."""
        self._settler.put(mail, settlement)

    def stream_fault(self, stream: str, cause: str) -> None:
        """Pause the stream, and send its mails back to their places."""
        log.error("stream_paused", stream=stream, cause=cause)
        task = asyncio.ensure_future(asyncio.to_thread(self._settler.pause_stream, stream, cause))
        task.add_done_callback(_log_fault)
        for lane in self._lanes.values():
            queued = lane.take_back()
            self._settler.put_all(
                [mail for mail in queued if mail.stream == stream],
                GiveBack("stream_fault", 0.0),
            )
            rest = [mail for mail in queued if mail.stream != stream]
            asyncio.ensure_future(lane.put(rest)).add_done_callback(_log_fault)

    def _settled(self, mail: Mail, outcome: str) -> None:
        self._held.discard(mail)
        self._armed.discard(mail)
        with self._lock:
            self._reserved -= 1
        mail.ticket.settle(outcome)
        self._finish_if_empty()

    async def _cycles(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            answers, self._answers = self._answers, []
            ready, self._ready = self._ready, []
            if answers or ready:
                await self._cycle(answers, ready)

    async def _cycle(
        self, answers: list[tuple[Mail, Accepted | Deferred | Refused]], ready: list[Mail]
    ) -> None:
        recorded = [
            mail.answered(outcome.code or 0, outcome.enhanced, outcome.text)
            for mail, outcome in answers
        ]
        if recorded:
            self._note_replies(recorded)
        try:
            await self._run_cycle(answers, recorded, ready)
        except StatementFailed as error:
            log.warning("cycle_failed", sqlstate=error.sqlstate, error=str(error))
            await self._apart(answers, recorded, ready)
        except ConnectionLost as error:
            await self._lost(answers, ready, error)

    async def _run_cycle(
        self,
        answers: Sequence[tuple[Mail, Accepted | Deferred | Refused]],
        recorded: Sequence[Answered],
        ready: Sequence[Mail],
    ) -> None:
        began = boottime()
        wanted: list[Ready] = [mail.ready() for mail in ready]
        done = await cycle(
            self._pipeline, recorded, wanted, owner=self.owner, settings=self._delivery
        )
        for mail, outcome in answers:
            self._settled(mail, _OUTCOMES[type(outcome)])
        if ready:
            self._permit(ready, done, began)
        # What has been answered since and is not noted yet stands among the dots.
        try:
            self._journal.compact([(mail.id, mail.epoch) for mail in self._armed], [])
        except JournalFull as error:
            log.warning("journal_not_compacted", error=str(error))

    def _permit(self, ready: Sequence[Mail], done: Cycled, began: float) -> None:
        armed = [mail for mail in ready if mail.id in done.armed]
        for mail in armed:
            mail.armed_at = done.armed_at
        try:
            self._journal.append_dots([(mail.id, mail.epoch) for mail in armed])
        except JournalFull as error:
            log.error("journal_full", error=str(error), rows=len(armed))
            for mail in armed:
                self._forbid(mail, GiveBack("journal_full", self._delivery.refused_retry, "arm"))
            armed = []
        # From here the dot must leave at once; and however long the answer to COMMIT took (this
        # process may have been stopped), well before the reaper could take the row for lost.
        not_after = min(
            boottime() + self._delivery.dot_within, began + self._delivery.armed_lease / 4
        )
        for mail in armed:
            self._armed.add(mail)
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
        if self._draining or boottime() - mail.ready_since > self._delivery.lock_wait:
            self._forbid(mail, Refusal(busy=True))
            return

        def ready() -> None:
            self._ready.append(mail)
            self._wake.set()

        self._loop.call_later(BUSY_PAUSE, ready)

    def _forbid(self, mail: Mail, settlement: Settlement) -> None:
        _answer(mail, None)
        self.settle(mail, settlement)

    async def _apart(
        self,
        answers: list[tuple[Mail, Accepted | Deferred | Refused]],
        recorded: list[Answered],
        ready: list[Mail],
    ) -> None:
        """RECORD and ARM apart, and each group halved until the bad row stands alone."""
        todo: list[tuple[int, int, bool]] = []
        if answers:
            todo.append((0, len(answers), True))
        if ready:
            todo.append((0, len(ready), False))
        while todo:
            low, high, record = todo.pop()
            try:
                if record:
                    await self._run_cycle(answers[low:high], recorded[low:high], [])
                else:
                    await self._run_cycle([], [], ready[low:high])
            except StatementFailed as error:
                middle = (low + high) // 2
                if high - low > 1:
                    todo += [(low, middle, record), (middle, high, record)]
                elif record:
                    mail = answers[low][0]
                    log.warning("record_stuck", message=mail.id, sqlstate=error.sqlstate)
                    self._loop.call_later(STUCK_PAUSE, self.answered, *answers[low])
                else:
                    log.warning("arm_stuck", message=ready[low].id, sqlstate=error.sqlstate)
                    self._again(ready[low])
            except ConnectionLost as error:
                left = [*todo, (low, high, record)]
                await self._lost(
                    [answers[i] for a, b, kind in left if kind for i in range(a, b)],
                    [ready[i] for a, b, kind in left if not kind for i in range(a, b)],
                    error,
                )
                return

    async def _lost(
        self,
        answers: list[tuple[Mail, Accepted | Deferred | Refused]],
        ready: list[Mail],
        error: ConnectionLost,
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
                log.warning("postgres_unreachable", error=str(fault).partition("\n")[0])
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)
        self._wake.set()

    def _note_replies(self, recorded: list[Answered]) -> None:
        try:
            self._journal.append_replies(
                [(a.id, a.epoch, a.code, a.enhanced_code, a.reply) for a in recorded]
            )
        except JournalFull as error:
            # The replies go to Postgres all the same; only a crash right now would leave doubt.
            log.error("journal_full", error=str(error), rows=len(recorded))

    async def _renew(self) -> None:
        """Keep the working leases of what waits here alive, in one statement."""
        while True:
            await asyncio.sleep(self._delivery.renew_every)
            held = [(mail.id, mail.epoch) for mail in self._held if mail not in self._armed]
            if not held:
                continue
            try:
                await asyncio.to_thread(self._renew_rows, held)
            except DBAPIError as error:
                log.warning("lease_not_renewed", rows=len(held), error=str(error.orig))

    def _renew_rows(self, held: list[tuple[int, int]]) -> None:
        with self._database.transaction() as connection:
            renew(connection, held, self._delivery.working_lease)


_OUTCOMES: Final[dict[type, str]] = {Accepted: "sent", Deferred: "deferred", Refused: "refused"}


def _answer(mail: Mail, not_after: float | None) -> None:
    if mail.permit is not None and not mail.permit.done():
        mail.permit.set_result(not_after)


def _log_fault(task: asyncio.Future[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("background_fault", error=str(error))
