"""What a doorbell sets off: claim what is due, prepare it, hand it to the loop, settle the rest."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from models.session import Database
from tasks import metrics, trace
from tasks.crashpoint import reached
from tasks.moves import doubt, release
from tasks.moves.claim import Claimed, claim, keep_content, renew
from tasks.moves.settings import DeliverySettings
from tasks.send import route
from tasks.send.mail import Mail, Ticket
from tasks.send.prepare import Changed, Dangerous, Prepared, Preparer, Stream, Unsendable
from tasks.send.transport import boottime

log = structlog.get_logger()

FULL_LOOK = 5.0  # seconds between looks that begin at the oldest row, cursor or not
SLICE = 50  # mails that are handed over while the next ones are rendered
SLICE_OCTETS = 4_000_000  # of fewer, where attachments make them large


class Room(Protocol):
    """What the store asks of the delivery loop."""

    owner: str

    def takes(self, relay: str) -> bool:
        """Whether this relay takes mails now."""
        ...

    def reserve(self, relay: str, n: int) -> int:
        """Room for up to n rows."""
        ...

    def release(self, n: int) -> None:
        """Room that was not used."""
        ...

    def crowded(self) -> bool:
        """Whether what is there takes too much memory; asks for a moment's patience."""
        ...

    def put_off(self, relay: str, address: str) -> tuple[str, float] | None:
        """Why, and for how many seconds, a mail to this address is not made now."""
        ...

    def submit(self, relay: str, mails: Sequence[Mail]) -> None:
        """Hand mails over."""
        ...


class Store:
    """Claims and prepares for one process; `answer` is called from many task threads.

    Of a stream of another region than this process's nothing is ever due here.
    """

    def __init__(
        self,
        database: Database,
        loop: Room,
        preparer: Preparer,
        delivery: DeliverySettings,
        region: str | None = None,
    ) -> None:
        self._database = database
        self._loop = loop
        self._preparer = preparer
        self._delivery = delivery
        self._region = region
        self._cursors: dict[str, dt.datetime] = {}
        self._full_looks: dict[str, float] = {}
        self._lock = threading.Lock()
        self._claiming = threading.Lock()

    def answer(self, stream_key: str, n: int) -> Ticket | None:
        """Claim up to `n` due messages of a stream and hand them to the loop.

        Returns:
            What to wait on; None where the loop has no room, or nothing is due.
        """
        stream = self._preparer.stream(stream_key)
        if stream.reach.leaves and (why := self._preparer.gate.why_held(stream.sender)):
            self._preparer.gate.hold(self._database, stream_key, why)
            return None
        ways = route.parse(stream.relay)
        chosen = route.choose(ways, self._loop.takes)
        granted = 0 if chosen is None else self._loop.reserve(chosen, n)
        if chosen is None or not granted:
            return None
        began, drawn = boottime(), trace.spans.now()
        try:
            rows = self._claim(stream_key, granted)
        except BaseException:
            self._loop.release(granted)
            raise
        if len(rows) < granted:
            self._loop.release(granted - len(rows))
        metrics.meter.claimed(stream_key, len(rows))
        trace.spans.claimed(stream_key, rows, drawn)
        if not rows:
            return None
        batch = _Batch(self, replace(stream, relay=chosen), rows, began)
        batch.elsewhere = len(ways) > 1
        try:
            batch.run()
        finally:
            batch.give_back_the_rest()
        return batch.ticket

    def _claim(self, stream: str, n: int) -> list[Claimed]:
        now = time.monotonic()
        with self._lock:
            full = now - self._full_looks.get(stream, -FULL_LOOK) >= FULL_LOOK
            if full:
                self._full_looks[stream] = now
            cursor = None if full else self._cursors.get(stream)
        # One at a time: two claims side by side would each find no guilty row held here yet.
        with self._claiming, self._database.transaction() as connection:
            claimed = claim(
                connection,
                stream=stream,
                n=n,
                owner=self._loop.owner,
                lease=self._delivery.working_lease,
                cursor=cursor,
                region=self._region,
                alone=self._delivery.alone,
            )
            reached("claim.moved")
        reached("claim.committed")
        if claimed.cursor is not None:
            with self._lock:
                self._cursors[stream] = claimed.cursor
        return claimed.rows


class _Batch:
    """The rows of one claim, on their way to the loop or to whatever else they come to."""

    def __init__(self, store: Store, stream: Stream, rows: list[Claimed], leased_at: float) -> None:
        self.ticket = Ticket(len(rows), suspect=any(row.crashes > 2 for row in rows))
        self._leased_at = leased_at
        self._database = store._database
        self._loop = store._loop
        self._preparer = store._preparer
        self._delivery = store._delivery
        self._stream = stream
        self._left = {row.id: row for row in rows}
        self.elsewhere = False

    def run(self) -> None:
        unfit = [row for row in self._left.values() if row.unfit]
        if unfit:
            self._refuse(unfit)
        self._put_off()
        fit = list(self._left.values())
        ready: list[Mail] = []
        octets = 0
        spent, began, drawn = 0.0, boottime(), trace.spans.now()
        for prepared in self._preparer.mails(self._stream, fit, self.ticket):
            spent += boottime() - began
            if isinstance(prepared, Mail):
                prepared.effect_key = self._left[prepared.id].effect_key
                trace.spans.step("render", prepared, drawn, "ready")
                ready.append(prepared)
                octets += len(prepared.body)
                if len(ready) >= SLICE or octets >= SLICE_OCTETS:
                    self._hand_over(ready)
                    ready, octets = [], 0
            else:
                trace.spans.step("render", prepared.row, drawn, type(prepared).__name__.lower())
                self._settle(prepared)
            self._keep_leases(ready)
            began, drawn = boottime(), trace.spans.now()
        metrics.meter.rendered(len(fit), spent)
        self._hand_over(ready)

    def _keep_leases(self, ready: list[Mail]) -> None:
        """Renew what is still here, where preparing takes long: the loop does not know it yet."""
        if boottime() - self._leased_at < self._delivery.renew_every:
            return
        self._hand_over(list(ready))
        ready.clear()
        self._renew()

    def _renew(self) -> None:
        now = boottime()
        with self._database.transaction() as connection:
            rows = [(row.id, row.epoch) for row in self._left.values()]
            renew(connection, rows, self._delivery.working_lease)
        self._leased_at = now

    def give_back_the_rest(self) -> None:
        """After a fault on the way: these rows go back now, not when their lease ends."""
        if not self._left:
            return
        back = [
            release.Returned(
                row.id, row.epoch, "fault_of_ours", self._delivery.refused_retry, "render"
            )
            for row in self._left.values()
        ]
        try:
            with self._database.transaction() as connection:
                release.give_back(connection, back, self._loop.owner, self._delivery)
        finally:
            for row in list(self._left.values()):
                self._end(row, "given_back", "fault_of_ours")

    def _put_off(self) -> None:
        """Give back, before anything is made of it, what its domain would not be given now."""
        back = [
            release.Returned(row.id, row.epoch, *off)
            for row in self._left.values()
            if (off := self._loop.put_off(self._stream.relay, row.address)) is not None
        ]
        if not back:
            return
        with self._database.transaction() as connection:
            release.give_back(connection, back, self._loop.owner, self._delivery)
        for each in back:
            self._end(self._left[each.id], "given_back", each.reason)

    def _refuse(self, rows: list[Claimed]) -> None:
        with self._database.transaction() as connection:
            told = release.refuse(
                connection,
                [(row.id, row.epoch, row.address, False) for row in rows],
                self._delivery,
            )
        states = {row_id: state for row_id, state, _ in told}
        for row in rows:
            self._end(row, states.get(row.id, "dropped"), "unfit")

    def _settle(self, prepared: Prepared) -> None:
        match prepared:
            case Unsendable(row, why):
                log.warning("mail_not_composed", message=row.id, epoch=row.epoch, why=why)
                with self._database.transaction() as connection:
                    release.fail(
                        connection,
                        [release.Failed(row.id, row.epoch, f"render: {why}", "render")],
                    )
                self._end(row, "failed", "render")
            case Dangerous(row, why):
                log.warning("render_exploded", message=row.id, epoch=row.epoch, why=why)
                back = release.Returned(row.id, row.epoch, "render_exploded", crashed=True)
                with self._database.transaction() as connection:
                    release.give_back(connection, [back], self._loop.owner, self._delivery)
                self._end(row, "given_back", "render_exploded")
            case Changed(row):
                log.warning("content_changed", message=row.id, epoch=row.epoch)
                back = release.Returned(row.id, row.epoch, "content_changed")
                with self._database.transaction() as connection:
                    release.give_back(connection, [back], self._loop.owner, self._delivery)
                    doubt.hold_back(connection, [(row.id, row.epoch)], "content_changed")
                self._end(row, "in_doubt", "content_changed")
            case Mail():
                raise AssertionError("a mail is handed over, not settled")

    def _hand_over(self, mails: list[Mail]) -> None:
        if not mails:
            return
        if self._stream.may_resend:
            with self._database.transaction() as connection:
                keep_content(
                    connection,
                    [(m.id, m.epoch, m.content_sha256, m.kept) for m in mails if m.kept],
                )
        while self._loop.crowded():
            if boottime() - self._leased_at >= self._delivery.renew_every:
                self._renew()
        for mail in mails:
            mail.leased_at = self._leased_at
            mail.elsewhere = self.elsewhere
            del self._left[mail.id]
        reached("mails.prepared")
        self._loop.submit(self._stream.relay, mails)

    def _end(self, row: Claimed, outcome: str, reason: str) -> None:
        outcome = "given_back" if outcome == "scheduled" else outcome
        del self._left[row.id]
        self._loop.release(1)
        metrics.meter.ended(self._stream.key, outcome, reason)
        self.ticket.settle(outcome)
