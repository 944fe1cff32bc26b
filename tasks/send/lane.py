"""The connections to one relay: each takes the next mail, and stands before its dot until ARM.

A relay that does not let us in closes the lane for a while and its mails go back at once, so that
another machine may have them; a relay that will not have us at all pauses the stream.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import structlog

from tasks import metrics, trace
from tasks.crashpoint import reached
from tasks.send.mail import Mail
from tasks.send.outcome import (
    Accepted,
    Deferred,
    InDoubt,
    Kind,
    NotSent,
    Outcome,
    Refused,
    Stage,
)
from tasks.send.relay import Relay
from tasks.send.settler import Doubt, Fail, GiveBack, Settlement
from tasks.send.transport import Connection, boottime

log = structlog.get_logger()

PATIENCE = 2.0  # seconds that an announced mail waits for the reply to the dot before it
RETRIES_HERE = 2  # a connection that the relay let go of is no fault of the mail on it


@dataclass(slots=True)
class _Seat:
    """Holds one connection at a time; a fault finds it here, whoever opened it."""

    connection: Connection | None = None
    following: Mail | None = None  # announced with the dot of the mail before

    @property
    def at_or_past_dot(self) -> bool:
        return self.connection is not None and self.connection.stage is Stage.DOT

    def take(self) -> Mail | None:
        mail, self.following = self.following, None
        return mail

    def leave(self) -> None:
        if self.connection is not None:
            self.connection.abandon()
            self.connection = None


class Cycles(Protocol):
    """What a lane asks of the loop."""

    async def permit(self, mail: Mail) -> float | None:
        """The latest boottime for this mail's dot; None: no dot, and it is settled already."""
        ...

    def answered(self, mail: Mail, outcome: Accepted | Deferred | Refused) -> None:
        """A reply to the dot has come in."""
        ...

    def bounced(self, mail: Mail, outcome: Refused) -> None:
        """A reply to the dot that says: the address is dead."""
        ...

    def settle(self, mail: Mail, settlement: Settlement) -> None:
        """Any other end."""
        ...

    def stream_fault(self, stream: str, cause: str) -> None:
        """The relay refuses us, not a mail."""
        ...


class Lane:
    """A relay's queue of mails and its connections, all on the delivery loop.

    Args:
        relay: where to.
        connections: how many at most, where the relay's URL does not say.
        helo_name: how we introduce ourselves.
        reply_wait: seconds to wait after a dot.
        away: seconds that a mail stays away when the relay cannot be reached.
        domain_rest: seconds that a domain rests after its relay said 421.
        cycles: the loop.
    """

    def __init__(
        self,
        relay: Relay,
        *,
        connections: int,
        helo_name: str,
        reply_wait: float,
        away: float,
        domain_rest: float,
        cycles: Cycles,
    ) -> None:
        self.relay = relay
        self.closed_until = 0.0
        self._helo_name = helo_name
        self._reply_wait = reply_wait
        self._away = away
        self._domain_rest = domain_rest
        self._cycles = cycles
        self._queue: deque[Mail] = deque()
        self._arrived = asyncio.Condition()
        self._slow: dict[str, float] = {}
        self._failures = 0
        self._told = False
        self._seats: list[_Seat] = []
        self._draining = False
        self._idle = 0
        self._putting: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._next_turn = 0.0
        self._tasks = [
            asyncio.create_task(self._serve()) for _ in range(relay.connections or connections)
        ]

    @property
    def open(self) -> bool:
        """Whether it takes mails now."""
        return boottime() >= self.closed_until

    @property
    def connected(self) -> int:
        """Connections that stand now; asked from any thread."""
        return sum(seat.connection is not None for seat in tuple(self._seats))

    async def put(self, mails: list[Mail]) -> None:
        """Queue these; in order, but for those whose connection breaks."""
        async with self._arrived:
            self._queue.extend(mails)
            self._arrived.notify(len(mails))

    def take_back(self) -> list[Mail]:
        """Take what is queued and on no connection yet."""
        mails = list(self._queue)
        self._queue.clear()
        return mails

    def drain(self) -> list[Mail]:
        """`take_back`, and announce no more; what was announced is given back with its turn."""
        self._draining = True
        return self.take_back()

    async def close(self) -> None:
        """End the connections; every mail must be settled by now."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self) -> None:
        seat = _Seat()
        self._seats.append(seat)
        try:
            while True:
                mail = seat.take() or await self._next()
                try:
                    await self._deliver(mail, seat)
                except Exception:
                    # Whatever it was, the row goes back; after the dot only doubt is honest.
                    log.exception("conversation_broke", message=mail.id, epoch=mail.epoch)
                    # The stage alone may be that of the mail before; `armed_at` is this one's.
                    dotted = bool(mail.armed_at) and seat.at_or_past_dot
                    seat.leave()
                    end = (
                        Doubt("fault_of_ours") if dotted else GiveBack("fault_of_ours", self._away)
                    )
                    self._cycles.settle(mail, end)
        finally:
            if seat.connection is not None:
                await seat.connection.quit(timeout=1.0)

    async def _next(self) -> Mail:
        if self.relay.rate is None:
            return await self._taken()
        # One at a time, so that all but one wait where `take_back` finds them.
        async with self._turn:
            mail = await self._taken()
            await asyncio.sleep(max(0.0, self._next_turn - boottime()))
            self._next_turn = max(self._next_turn, boottime()) + 1 / self.relay.rate
            return mail

    async def _taken(self) -> Mail:
        async with self._arrived:
            while True:
                while not self._queue:
                    self._idle += 1
                    try:
                        await self._arrived.wait()
                    finally:
                        self._idle -= 1
                mail = self._queue.popleft()
                if not self._slow:
                    return mail
                rest = self._slow.get(mail.domain, 0.0) - boottime()
                if rest <= 0:
                    return mail
                self._cycles.settle(mail, GiveBack("domain_resting", rest))

    async def _deliver(self, mail: Mail, seat: _Seat) -> None:
        connection = seat.connection
        began = trace.spans.now()
        if connection is None or not connection.usable:
            opened = await Connection.open(self.relay, helo_name=self._helo_name)
            if isinstance(opened, NotSent):
                seat.connection = None
                trace.spans.step("offer", mail, began, opened)
                metrics.meter.reply(opened.stage.value, opened.code)
                self._unreachable(mail, opened)
                return
            self._reached()
            seat.connection = connection = opened
        offered = await connection.offer(mail.envelope, mail.body)
        trace.spans.step("offer", mail, began, offered)
        if isinstance(offered, NotSent):
            metrics.meter.reply(offered.stage.value, offered.code)
            await self._not_sent(mail, offered)
            return
        reached("body.written")
        began = trace.spans.now()
        not_after = await self._cycles.permit(mail)
        trace.spans.step("arm", mail, began, "refused" if not_after is None else "armed")
        if not_after is None:
            seat.leave()
            return
        began = trace.spans.now()
        outcome = await self._finish(connection, seat, not_after)
        trace.spans.step("dot", mail, began, outcome)
        metrics.meter.reply(outcome.stage.value, outcome.code)
        if isinstance(outcome, NotSent):
            self._cycles.settle(mail, GiveBack("not_sent", 1.0, outcome.stage.value))
        elif isinstance(outcome, InDoubt):
            self._cycles.settle(mail, Doubt(outcome.cause))
        elif isinstance(outcome, Refused) and (outcome.enhanced or "").startswith("5.1."):
            self._cycles.bounced(mail, outcome)
        else:
            if outcome.code == 421:
                self._rest(mail.domain)
            self._cycles.answered(mail, outcome)

    async def _finish(self, connection: Connection, seat: _Seat, not_after: float) -> Outcome:
        """Write the dot, and with it the next mail's envelope where that mail would wait anyway."""
        following = self._waiting() if connection.pipelining else None
        if following is None:
            return await connection.finish(self._reply_wait, not_after=not_after)
        seat.following = following
        # A relay that is slow with one mail must not hold up another.
        timer = asyncio.get_running_loop().call_later(PATIENCE, self._elsewhere, seat)
        try:
            return await connection.finish(
                self._reply_wait,
                not_after=not_after,
                following=(following.envelope, following.body),
            )
        finally:
            timer.cancel()

    def _waiting(self) -> Mail | None:
        """The next mail in line, if no idle connection is about to take it."""
        if self._draining or self.relay.rate is not None or len(self._queue) <= self._idle:
            return None
        if self._slow and self._slow.get(self._queue[0].domain, 0.0) > boottime():
            return None
        return self._queue.popleft()

    def _elsewhere(self, seat: _Seat) -> None:
        mail = seat.take()
        if mail is not None and seat.connection is not None:
            seat.connection.forsake()
            if self._draining:
                self._cycles.settle(mail, GiveBack("drained", 0.0))
                return
            task = asyncio.create_task(self.put([mail]))
            self._putting.add(task)
            task.add_done_callback(self._putting.discard)

    async def _not_sent(self, mail: Mail, outcome: NotSent) -> None:
        if outcome.kind is Kind.STREAM_FAULT:
            self._cycles.settle(mail, GiveBack("stream_fault", 0.0, outcome.stage, outcome.code))
            self._cycles.stream_fault(mail.stream, outcome.cause)
        elif outcome.kind is Kind.HARD_BOUNCE:
            self._cycles.settle(mail, Fail("hard_bounce", outcome.stage, outcome.code, True))
        elif outcome.kind is Kind.REFUSED:
            # Without a reply it was refused by us, for a reason of one word.
            reason = outcome.cause if outcome.reply is None else "refused"
            self._cycles.settle(mail, Fail(reason, outcome.stage, outcome.code))
        elif outcome.code is None and mail.broken_connections < RETRIES_HERE:
            mail.broken_connections += 1
            await self.put([mail])
        else:
            if outcome.kind is Kind.SLOW_DOWN:
                self._rest(mail.domain)
            self._cycles.settle(mail, GiveBack("deferred", None, outcome.stage, outcome.code))

    def _reached(self) -> None:
        if self._told:
            log.warning("relay_back", relay=str(self.relay), failures=self._failures)
        self._failures, self._told = 0, False

    def _rest(self, domain: str) -> None:
        now = boottime()
        self._slow = {name: until for name, until in self._slow.items() if until > now}
        self._slow[domain] = now + self._domain_rest

    def _unreachable(self, mail: Mail, outcome: NotSent) -> None:
        back = GiveBack("relay_unreachable", self._away, outcome.stage, outcome.code)
        self._cycles.settle(mail, back)
        if outcome.kind is Kind.STREAM_FAULT:
            self._cycles.stream_fault(mail.stream, outcome.cause)
            return
        self._failures += 1
        if self._failures < 3:
            return
        # Nobody gets in: do not hold what another machine could send.
        pause = min(self._away, 2.0 ** min(self._failures - 3, 10))
        self.closed_until = boottime() + pause
        if not self._told:
            # Once, until it is over: every connection meets the same closed door.
            self._told = True
            log.warning("relay_unreachable", relay=str(self.relay), cause=outcome.cause)
        for queued in self.take_back():
            self._cycles.settle(queued, back)
