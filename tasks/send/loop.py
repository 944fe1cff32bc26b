"""The delivery loop: many SMTP conversations on one event loop, in a thread of its own.

It lives from the worker's start to its drain, and tasks only hand it rows: a mail that waits ten
minutes for its reply holds up nobody else. `lane` drives the connections, `cycles` the
transactions, `settler` the rarer moves.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
import uvloop
from sqlalchemy.exc import SQLAlchemyError

from models.session import Database
from tasks import metrics
from tasks.errors import Misconfigured
from tasks.moves.claim import renew
from tasks.moves.settings import DeliverySettings
from tasks.send import limits
from tasks.send.cycles import Cycles, Reply
from tasks.send.journal import Journal
from tasks.send.lane import Lane, Paced
from tasks.send.mail import Mail, Ticket
from tasks.send.outcome import Refused
from tasks.send.pace import Pace, Standing
from tasks.send.relay import Relay
from tasks.send.seen import Seen
from tasks.send.settings import SendSettings
from tasks.send.settler import Bounced, GiveBack, Settlement, Settler
from tasks.send.throttle import Throttles
from tasks.send.transport import boottime

log = structlog.get_logger()

RENEWED_AT_ONCE = 250  # rows that ARM waits for at most, if it meets a renewal
CROWDED = (
    64_000_000  # octets of mails here beyond which no more are handed over; attachments reach it
)


@dataclass(frozen=True, slots=True)
class Gauges:
    """How a loop stands at a moment; `connections` and `closed_for` (seconds) by relay."""

    armed: int
    held: int
    window_free: int
    journal_bytes: int
    journal_torn: bool
    connections: Mapping[str, int]
    closed_for: Mapping[str, float]
    paces: Mapping[str, Sequence[Standing]] = field(default_factory=dict)


class DeliveryLoop:
    """One a send process. `start`, then `reserve` and `submit` from any thread, `drain`, `join`.

    Args:
        database: where the rows are.
        relays: relay name → where it is; `default` is always there.
        settings: connections, window, names.
        delivery: durations.
        journal: this incarnation's, already locked; its owner is in the rows we claim.
        seen: where the latest permission is kept for a later incarnation.
        throttles: what operators allow the relays; None: nothing limits them.
    """

    def __init__(
        self,
        database: Database,
        relays: Mapping[str, Relay],
        settings: SendSettings,
        delivery: DeliverySettings,
        journal: Journal,
        seen: Seen,
        throttles: Throttles | None = None,
    ) -> None:
        self.owner = str(journal.owner)
        self.armed: set[Mail] = set()
        self.draining = False
        self._held: set[Mail] = set()
        self._database = database
        self._relays = dict(relays)
        self._settings = settings
        self._delivery = delivery
        self._journal = journal
        self._seen = seen
        self._throttles = throttles
        self._lanes: dict[str, Lane] = {}
        self._reserved = 0
        self._octets = 0
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._started = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)

    def start(self) -> None:
        """Start the thread; returns when it takes mails.

        Raises:
            Exception: what kept it from starting: Postgres not there, or not migrated.
        """
        self._thread.start()
        self._started.wait()
        if self._fault is not None:
            raise self._fault

    def takes(self, relay: str) -> bool:
        """Whether this relay takes mails now: it is not paused, and its lane not closed.

        Raises:
            Misconfigured: this process knows no relay of that name.
        """
        if relay not in self._relays:
            raise Misconfigured(
                f"a stream names the relay {relay!r}, which this worker does not know; set"
                f" DRIPFLEET_SMTP_URL_{relay.upper()} and restart it"
            )
        lane = self._lanes.get(relay)
        return (lane is None or lane.open) and not self._paused(relay)

    def reserve(self, relay: str, n: int, wait: float = 1.0) -> int:
        """Room for up to `n` rows, to be claimed now.

        Args:
            relay: whose lane.
            n: rows wanted.
            wait: seconds to wait for the first place, where every one is taken.

        Returns:
            How many; 0 while draining, or while the relay is paused or its lane closed.

        Raises:
            Misconfigured: this process knows no relay of that name.
        """
        with self._room:
            if not self.takes(relay):
                return 0
            lane = self._lanes.get(relay)
            if lane is not None and lane.on_trial:
                n = 1  # one mail finds out whether it lets us in again
            self._room.wait_for(lambda: self.draining or self._free() > 0, wait)
            if self.draining:
                return 0
            granted = min(n, self._free())
            self._reserved += granted
            return granted

    def release(self, n: int) -> None:
        """Give back room that no row was claimed for, or whose row ended before `submit`."""
        self._unreserve(n)
        self._tell(self._finish_if_empty)

    def crowded(self, wait: float = 1.0) -> bool:
        """Whether there are more octets here than should be, after `wait` seconds at most."""
        with self._room:
            return not self._room.wait_for(lambda: self.draining or self._octets < CROWDED, wait)

    def put_off(self, relay: str, address: str) -> tuple[str, float] | None:
        """Why, and for how many seconds, a mail to this address had better not be made now."""
        lane = self._lanes.get(relay)
        if lane is None or lane.pace is None or not lane.pace.active:
            return None
        return lane.pace.put_off(address.rpartition("@")[2].lower())

    def submit(self, relay: str, mails: Sequence[Mail]) -> None:
        """Take these; their tickets tell what became of them."""
        with self._lock:
            self._octets += sum(len(mail.body) for mail in mails)
        self._loop.call_soon_threadsafe(self._accept, relay, list(mails))

    def drain(self) -> None:
        """Claim nothing more, give back what is not armed; returns at once."""
        with self._room:
            if self.draining:
                return
            self.draining = True
            self._room.notify_all()
        self._tell(self._drain)

    def join(self, timeout: float) -> bool:
        """Wait for armed mails and stop; False: some still waited for their reply."""
        self.drain()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    async def permit(self, mail: Mail) -> float | None:
        """See `lane.Cycles`."""
        return await self._cycles.permit(mail)

    def answered(self, mail: Mail, reply: Reply) -> None:
        """See `lane.Cycles`."""
        self._cycles.answered(mail, reply)

    def bounced(self, mail: Mail, outcome: Refused) -> None:
        """See `lane.Cycles`; noted first, for the suppression may have to wait."""
        self._cycles.note([(mail, outcome)])
        self._settler.put(mail, Bounced(outcome))

    def settle(self, mail: Mail, settlement: Settlement) -> None:
        """See `lane.Cycles`."""
        self._settler.put(mail, settlement)

    def recorded(self, mails: Sequence[tuple[Mail, str]]) -> None:
        """See `cycles.Holder`: let go of those whose reply is in Postgres, a lock a kind at most."""
        ended: Counter[tuple[str, str]] = Counter()
        told: Counter[tuple[Ticket, str]] = Counter()
        for mail, outcome in mails:
            ended[mail.stream, outcome] += 1
            told[mail.ticket, outcome] += 1
            self._held.discard(mail)
            self.armed.discard(mail)
            self._journal.settled(mail.id, mail.epoch)
        for (stream, outcome), n in ended.items():
            metrics.meter.ended(stream, outcome, "reply", n)
        self._unreserve(len(mails), sum(len(mail.body) for mail, _ in mails))
        for (ticket, outcome), n in told.items():
            ticket.settle(outcome, n)
        self._finish_if_empty()

    def settled(self, mail: Mail, outcome: str, reason: str) -> None:
        """Let go of a mail: its row is somebody else's from now on."""
        metrics.meter.ended(mail.stream, outcome, reason)
        self._held.discard(mail)
        self.armed.discard(mail)
        if outcome != "in_doubt":
            self._journal.settled(mail.id, mail.epoch)
        self._unreserve(1, len(mail.body))
        mail.ticket.settle(outcome)
        self._finish_if_empty()

    def gauges(self) -> Gauges:
        """How it stands now, asked from any thread; a look, not a snapshot."""
        lanes = dict(self._lanes)
        now = boottime()
        return Gauges(
            armed=len(self.armed),
            held=len(self._held),
            window_free=max(0, self._free()),
            journal_bytes=self._journal.size,
            journal_torn=self._journal.torn,
            connections={
                name: lanes[name].connected if name in lanes else 0 for name in self._relays
            },
            closed_for={
                name: max(0.0, lanes[name].closed_until - now) if name in lanes else 0.0
                for name in self._relays
            },
            paces={
                name: lane.pace.standing()
                for name, lane in lanes.items()
                if lane.pace is not None and lane.pace.active
            },
        )

    def stream_fault(self, stream: str, cause: str) -> None:
        """Pause the stream, and send its mails back to their places."""
        log.error("stream_paused", stream=stream, cause=cause)
        self._spawn(asyncio.to_thread(self._settler.pause_stream, stream, cause))
        for lane in self._lanes.values():
            queued = lane.take_back()
            ours = [mail for mail in queued if mail.stream == stream]
            self._settler.put_all(ours, GiveBack("stream_fault", 0.0))
            self._spawn(lane.put([mail for mail in queued if mail.stream != stream]))

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
        self._done = asyncio.Event()
        self._background: set[asyncio.Future[None]] = set()
        self._cycles = Cycles(self._database, self._journal, self._seen, self._delivery, self)
        self._settler = Settler(
            self._database, self.owner, self._delivery, self.settled, self.answered
        )
        always = [
            asyncio.create_task(each)
            for each in (self._settler.run(), self._renew(), self._cycles.run())
        ]
        if self._throttles is not None:
            always.append(asyncio.create_task(self._look_at_limits(self._throttles)))
        self._started.set()
        log.info("delivery_loop_started", owner=self.owner)
        done = asyncio.create_task(self._done.wait())
        try:
            ended, _ = await asyncio.wait([*always, done], return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
            for lane in self._lanes.values():
                await lane.close()
        finally:
            for each in always:
                each.cancel()
            self._cycles.close()
            # Only an orderly end proves that nothing was on its way.
            self._journal.close(remove=self._done.is_set() and not self.armed)
            log.info("delivery_loop_drained", owner=self.owner, armed=len(self.armed))

    def _accept(self, relay: str, mails: list[Mail]) -> None:
        self._held.update(mails)
        if self.draining:
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
                domain_rest=self._delivery.domain_rest,
                cycles=self,
                paced=self._paced(relay),
            )
            if lane.pace is not None and self._throttles is not None:
                lane.pace.allow(self._throttles.of(relay))
        self._spawn(lane.put(mails))

    def _paced(self, relay: str) -> Paced | None:
        throttles = self._throttles
        if throttles is None:
            return None
        return lambda ready, give_back: Pace(
            relay,
            throttles.groups,
            throttles.tokens(relay),
            domain_rest=self._delivery.domain_rest,
            away=self._delivery.refused_retry,
            ready=ready,
            give_back=give_back,
        )

    def _paused(self, relay: str) -> bool:
        return self._throttles is not None and self._throttles.of(relay).paused is not None

    async def _look_at_limits(self, throttles: Throttles) -> None:
        while True:
            await asyncio.sleep(limits.READ_EVERY)
            try:
                await asyncio.to_thread(throttles.load)
            except SQLAlchemyError as error:
                log.info("limits_not_read", error=type(error).__name__)
                continue
            for name, lane in self._lanes.items():
                allowed = throttles.of(name)
                if lane.pace is not None:
                    lane.pace.allow(allowed)
                if allowed.paused is not None:
                    for mail in lane.take_back():
                        away = 0.0 if mail.elsewhere else self._delivery.refused_retry
                        self._settler.put(mail, GiveBack("relay_paused", away))

    def _drain(self) -> None:
        for lane in self._lanes.values():
            self._settler.put_all(lane.drain(), GiveBack("drained", 0.0))
        self._finish_if_empty()

    def _finish_if_empty(self) -> None:
        # Room that is reserved may be rows that a task has claimed and not handed over yet.
        if self.draining and not self._held and self._reserved <= 0:
            self._done.set()

    def _tell(self, callback: Callable[[], None]) -> None:
        # A loop that has ended by a fault needs no word, and its rows come back by their leases.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)

    def _free(self) -> int:
        return self._settings.window - self._reserved

    def _unreserve(self, n: int, octets: int = 0) -> None:
        with self._room:
            crowded = self._octets >= CROWDED
            self._reserved -= n
            self._octets -= octets
            if crowded:  # some wait for octets, others for a row's room
                self._room.notify_all()
            else:
                self._room.notify()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._spawned)

    def _spawned(self, task: asyncio.Future[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background_fault", error=str(error))

    async def _renew(self) -> None:
        """Keep the working leases of what waits here long alive, in one statement each time.

        A row on its way through in seconds is left alone: its renewal would be in ARM's way.
        """
        every = self._delivery.renew_every
        while True:
            await asyncio.sleep(every / 3)
            before = boottime() - every
            old = [m for m in self._held if m.leased_at <= before and m not in self.armed]
            for start in range(0, len(old), RENEWED_AT_ONCE):
                mails = old[start : start + RENEWED_AT_ONCE]
                now = boottime()
                try:
                    await asyncio.to_thread(self._renew_rows, [(m.id, m.epoch) for m in mails])
                except SQLAlchemyError as error:
                    log.warning("lease_not_renewed", rows=len(mails), error=type(error).__name__)
                    break
                metrics.meter.renewed(len(mails))
                for mail in mails:
                    mail.leased_at = now

    def _renew_rows(self, held: list[tuple[int, int]]) -> None:
        with self._database.transaction() as connection:
            renew(connection, held, self._delivery.working_lease)
