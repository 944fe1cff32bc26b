"""The connections to one relay: each takes the next mail, and stands before its dot until ARM.

A relay that does not let us in closes the lane for a while and its mails go back at once, so that
another machine may have them; a relay that will not have us at all pauses the stream.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

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
from tasks.send.pace import Pace, only
from tasks.send.relay import Relay
from tasks.send.settler import Doubt, Fail, GiveBack, Settlement
from tasks.send.transport import Connection, boottime

log = structlog.get_logger()

PATIENCE = 2.0  # seconds that an announced mail waits for the reply to the dot before it
FAILURES = (
    3  # openings that failed one after the other, after which nobody is sent there for a while
)
RETRIES_HERE = 2  # a connection that the relay let go of is no fault of the mail on it


@dataclass(slots=True)
class _Seat:
    """Holds one connection at a time; a fault finds it here, whoever opened it."""

    connection: Connection | None = None
    following: Mail | None = None  # announced with the dot of the mail before
    offered: int = 0  # mails on this connection so far

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


Paced: TypeAlias = Callable[
    [Callable[[list[Mail]], None], Callable[[Mail, str, float], None]], Pace
]


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
        paced: makes the pace of this relay's domains, given whom to tell who may go and who is put
            off; None: nothing limits them.
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
        paced: Paced | None = None,
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
        self.pace = None if paced is None else paced(self._may_go, self._put_off)
        self._tasks = [
            asyncio.create_task(self._serve()) for _ in range(relay.connections or connections)
        ]
        if self.pace is not None:
            self._tasks.append(asyncio.create_task(self.pace.run()))

    @property
    def open(self) -> bool:
        """Whether it takes mails now."""
        return boottime() >= self.closed_until

    @property
    def on_trial(self) -> bool:
        """Whether it was closed because nobody got in, and nobody has got in since."""
        return self._failures >= FAILURES

    @property
    def connected(self) -> int:
        """Connections that stand now; asked from any thread."""
        return sum(seat.connection is not None for seat in tuple(self._seats))

    async def put(self, mails: list[Mail]) -> None:
        """Queue these; in order, but for those whose connection breaks."""
        async with self._arrived:
            self._queue.extend(mails)
            self._arrived.notify(len(mails) or len(self._queue))

    def take_back(self) -> list[Mail]:
        """Take what is queued and on no connection yet."""
        aside = [] if self.pace is None else self.pace.take_back()
        mails = list(self._queue)
        self._queue.clear()
        return aside + only(mails, self.pace)

    def drain(self) -> list[Mail]:
        """`take_back`, and announce no more; what was announced is given back with its turn."""
        self._draining = True
        return self.take_back()

    async def close(self) -> None:
        """End the connections; every mail must be settled by now."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.pace is not None:
            await self.pace.close()

    async def _serve(self) -> None:
        seat = _Seat()
        self._seats.append(seat)
        try:
            while True:
                mail = seat.take() or await self._next()
                again = False
                try:
                    again = await self._deliver(mail, seat)
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
                else:
                    await self._retire(seat)
                finally:
                    if mail.group and self.pace is not None:
                        self.pace.left(mail)
                if again:
                    await self.put([mail])
        finally:
            if seat.connection is not None:
                await seat.connection.quit(timeout=1.0)

    async def _retire(self, seat: _Seat) -> None:
        """Close a connection over which as many mails went as its relay wants."""
        if seat.connection is not None and self._full(seat):
            # A mail that comes meanwhile must not find it here.
            connection, seat.connection = seat.connection, None
            await connection.quit(timeout=1.0)

    def _full(self, seat: _Seat) -> bool:
        return self.relay.mails is not None and seat.offered >= self.relay.mails

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
                rest = self._slow.get(mail.domain, 0.0) - boottime() if self._slow else 0.0
                if rest <= 0:
                    if self.pace is None or self.pace.admits(mail):
                        return mail
                    continue
                only([mail], self.pace)
                self._cycles.settle(mail, GiveBack("domain_resting", rest))

    async def _deliver(self, mail: Mail, seat: _Seat) -> bool:
        """Bring it to its end; True: it is to be tried once more from here."""
        connection = seat.connection
        began = trace.spans.now()
        if connection is None or not connection.usable:
            opened = await Connection.open(self.relay, helo_name=self._helo_name)
            if isinstance(opened, NotSent):
                seat.connection = None
                trace.spans.step("offer", mail, began, opened)
                metrics.meter.reply(opened.stage.value, opened.code)
                only([mail], self.pace)
                self._unreachable(mail, opened)
                return False
            self._reached()
            seat.connection = connection = opened
            seat.offered = 0
        seat.offered += 1
        offered = await connection.offer(mail.envelope, mail.body)
        trace.spans.step("offer", mail, began, offered)
        if isinstance(offered, NotSent):
            metrics.meter.reply(offered.stage.value, offered.code)
            return self._not_sent(mail, offered)
        reached("body.written")
        began = trace.spans.now()
        not_after = await self._cycles.permit(mail)
        trace.spans.step("arm", mail, began, "refused" if not_after is None else "armed")
        if not_after is None:
            seat.leave()
            return False
        began = trace.spans.now()
        outcome = await self._finish(mail, connection, seat, not_after)
        trace.spans.step("dot", mail, began, outcome)
        metrics.meter.reply(outcome.stage.value, outcome.code)
        if isinstance(outcome, NotSent):
            self._cycles.settle(mail, GiveBack("not_sent", 1.0, outcome.stage.value))
        elif isinstance(outcome, InDoubt):
            self._cycles.settle(mail, Doubt(outcome.cause))
        elif isinstance(outcome, Refused) and (outcome.enhanced or "").startswith("5.1."):
            self._cycles.bounced(mail, outcome)
        else:
            if self._heard(mail, outcome) is None and outcome.code == 421:
                self._rest(mail.domain)
            self._cycles.answered(mail, outcome)
        return False

    def _heard(self, mail: Mail, outcome: Outcome) -> float | None:
        """Seconds that its group rests, if that is what the answer of a paced mail asks for."""
        return self.pace.heard(mail, outcome) if mail.group and self.pace is not None else None

    async def _finish(
        self, mail: Mail, connection: Connection, seat: _Seat, not_after: float
    ) -> Outcome:
        """Write the dot, and with it the next mail's envelope where that mail would wait anyway."""
        lags = bool(mail.group) and self.pace is not None and self.pace.lags(mail)
        last = lags or not connection.pipelining or self._full(seat)
        following = None if last else self._waiting()
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
        if self.pace is not None and not self.pace.takes(self._queue[0]):
            return None
        return self._queue.popleft()

    def _elsewhere(self, seat: _Seat) -> None:
        mail = seat.take()
        if mail is not None and seat.connection is not None:
            seat.connection.forsake()
            only([mail], self.pace)
            if self._draining:
                self._cycles.settle(mail, GiveBack("drained", 0.0))
                return
            task = asyncio.create_task(self.put([mail]))
            self._putting.add(task)
            task.add_done_callback(self._putting.discard)

    def _may_go(self, mails: list[Mail]) -> None:
        """Who stood aside comes before the others: it has waited."""
        if self._draining:
            for mail in only(mails, self.pace):
                self._cycles.settle(mail, GiveBack("drained", 0.0))
            return
        self._queue.extendleft(reversed(mails))
        task = asyncio.create_task(self.put([]))
        self._putting.add(task)
        task.add_done_callback(self._putting.discard)

    def _put_off(self, mail: Mail, why: str, delay: float) -> None:
        self._cycles.settle(mail, GiveBack(why, delay))

    def _not_sent(self, mail: Mail, outcome: NotSent) -> bool:
        """Settle it; True: the connection alone was at fault, and it goes once more from here."""
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
            return True
        else:
            rest = self._heard(mail, outcome)
            if rest is None and outcome.kind is Kind.SLOW_DOWN:
                self._rest(mail.domain)
            self._cycles.settle(mail, GiveBack("deferred", None, outcome.stage, outcome.code))
        return False

    def _reached(self) -> None:
        if self._told:
            log.warning("relay_back", relay=str(self.relay), failures=self._failures)
        self._failures, self._told = 0, False

    def _rest(self, domain: str) -> None:
        now = boottime()
        self._slow = {name: until for name, until in self._slow.items() if until > now}
        self._slow[domain] = now + self._domain_rest

    def _unreachable(self, mail: Mail, outcome: NotSent) -> None:

        def back(mail: Mail) -> GiveBack:
            away = 0.0 if mail.elsewhere else self._away
            return GiveBack("relay_unreachable", away, outcome.stage, outcome.code)

        self._cycles.settle(mail, back(mail))
        if outcome.kind is Kind.STREAM_FAULT:
            self._cycles.stream_fault(mail.stream, outcome.cause)
            return
        self._failures += 1
        if self._failures < FAILURES:
            return
        # Nobody gets in: do not hold what another machine could send.
        pause = min(self._away, 2.0 ** min(self._failures - FAILURES, 10))
        self.closed_until = boottime() + pause
        if not self._told:
            # Once, until it is over: every connection meets the same closed door.
            self._told = True
            log.warning("relay_unreachable", relay=str(self.relay), cause=outcome.cause)
        for queued in self.take_back():
            self._cycles.settle(queued, back(queued))
