"""How fast each group of domains is mailed through one relay: who goes now, who waits, who comes later.

::

    a mail ─admits→ on a connection ─left→
        └ its group has no token, or no connection: aside ─→ on a connection
                                                       └──→ given back with a time of its own

A group that is slow or has had enough stands aside and never in the way of the others. What would
wait here longer than `HOLD` goes back to its row with the time at which its turn comes, so that it
holds no place and the claim does not take it again and again; that is no attempt, for no mail was
offered. Where nothing limits the relay nobody is asked anything (`Pace.active`).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from tasks.moves.put_off import FULL, RESTING, THROTTLED, UNASKED
from tasks.send.buckets import Ask, Grant
from tasks.send.domains import EACH, NAMES
from tasks.send.limits import NOTHING, Allowed, Limit
from tasks.send.mail import Mail
from tasks.send.outcome import Accepted, Outcome
from tasks.send.signals import asked_wait, slows
from tasks.send.transport import boottime

log = structlog.get_logger()

HOLD: Final = 2.0  # seconds that a mail stands aside at most, by what its group is given now
FEW: Final = 16  # mails that may stand aside of any domain that is not slow
LAPSE: Final = 5.0  # seconds after which granted tokens are given back
ALIVE: Final = 5.0  # seconds between two words to Redis of a group with mails under way
LATEST: Final = 900.0  # seconds that a mail is put off at most: limits and rates change
UNLIMITED: Final = 10_000  # tokens at once where only connections or a day are limited
AWAY: Final = 15.0  # seconds that a group stands still when Redis or Postgres cannot be asked
BATCH: Final = 1000  # tokens that one question asks for at most
DAY_BATCH: Final = 20  # and of a warm-up's day
# Apart from the threads that write to Postgres: DNS may hold up nothing but the mails that ask it.
LOOKUPS: Final = ThreadPoolExecutor(8, thread_name_prefix="mx")


class Source(Protocol):
    """Where tokens come from; called on a thread."""

    def ask(self, asks: list[tuple[Limit, Ask]]) -> list[tuple[Grant, str]]:
        """Grants, and why there is nothing where there is nothing.

        Raises:
            OSError, RedisError, SQLAlchemyError: it cannot be asked.
        """
        ...

    def leave(self, asks: list[tuple[Limit, Ask]]) -> None:
        """Give back, and share in no group any more."""
        ...

    def find(self, domain: str) -> str:
        """The group of a domain, looked up."""
        ...


class Known(Protocol):
    """What `mx.Groups` knows at once."""

    def of(self, domain: str) -> str | None:
        """A domain's group, None where it has to be looked up."""
        ...


@dataclass(slots=True, eq=False)
class _Group:
    name: str
    limit: Limit
    aside: deque[Mail] = field(default_factory=deque)
    tokens: int = 0
    lapse: float = 0.0
    share: int | None = None  # connections of this process; None: as many as there are
    under_way: int = 0
    delivered: int = 0
    slowed: bool = False
    rest: float = 0.0
    closed_until: float = 0.0
    why: str = THROTTLED
    rate: float | None = None
    processes: int = 1
    spell: float = 0.0  # seconds of a conversation, lately
    next_turn: float = 0.0  # of the next mail that is put off
    moved: float = 0.0  # when a mail last went or came
    hungry: bool = False  # somebody waits for tokens
    again: bool = False  # a question is planned

    @property
    def label(self) -> str:
        """What it is called where names must be few."""
        if self.limit.domains != EACH:
            return self.limit.domains
        return self.name if self.name in NAMES else "other"

    @property
    def free(self) -> bool:
        return self.share is None or self.under_way < self.share

    def lasts(self, now: float) -> float:
        """Seconds that a conversation lasts, lately.

        Of a tarpit nothing has come back yet that could tell: then as long as nothing has moved. Less
        than `HOLD` of that says nothing, for a busy machine stands still so long too.
        """
        stalled = 0.0 if self.free else now - self.moved
        return max(self.spell, stalled if stalled > HOLD else 0.0)

    def turns(self, now: float) -> tuple[float, float]:
        """Seconds between two mails of this process: by the rate, and by the connections."""
        by_rate = 60.0 / self.rate * self.processes if self.rate else 0.0
        if self.share is None:
            return by_rate, 0.0
        return by_rate, self.lasts(now) / self.share if self.share else HOLD

    def room(self, now: float, usual: float) -> int:
        """How many may stand aside: who gets a turn within `HOLD`.

        A few more where the domain is no slower than all are (`usual`, seconds of a conversation): a
        busy machine must not send them away.
        """
        by_rate, by_share = self.turns(now)
        few = 1 if self.lasts(now) > max(0.5, 4 * usual) else FEW
        return min(
            max(1, int(HOLD / by_rate)) if by_rate else UNLIMITED,
            max(few, int(HOLD / by_share)) if by_share else UNLIMITED,
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """A group of one relay as this process sees it.

    `label`: a name of ours or of the operator's; domains without one share `other`. `rate` None:
    nothing limits it, or nobody has said yet what it is; `ceiling` in mails a minute too.
    """

    group: str
    label: str
    rate: float | None
    ceiling: float | None
    aside: int
    under_way: int
    closed_for: float


class Pace:
    """The pace of one relay in this process; all but `put_off` and `standing` on the delivery loop.

    Args:
        relay: its name, for logs.
        groups: domains → groups.
        source: of tokens.
        domain_rest: seconds that a group rests which says "slow down" and names no time.
        away: seconds that a mail stays away when there is nobody to ask.
        ready: called with mails that may go, each with its place reserved.
        give_back: called with a mail that is put off, why, and for how many seconds.
    """

    def __init__(
        self,
        relay: str,
        groups: Known,
        source: Source,
        *,
        domain_rest: float,
        away: float,
        ready: Callable[[list[Mail]], None],
        give_back: Callable[[Mail, str, float], None],
    ) -> None:
        self._relay = relay
        self._known = groups
        self._source = source
        self._domain_rest = domain_rest
        self._away = away
        self._ready = ready
        self._give_back = give_back
        self._allowed: Allowed = NOTHING
        self._groups: dict[str, _Group] = {}
        self._looking: dict[str, list[Mail]] = {}
        self._wanted: set[_Group] = set()
        self._lookups: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._turns = threading.Lock()
        self._told = False
        self._usual = 0.0
        self.active = False

    def allow(self, allowed: Allowed) -> None:
        """Go by these limits from now on; what is under way goes on."""
        self._allowed = allowed
        self.active = bool(allowed.limits)
        for name, group in list(self._groups.items()):
            limit = allowed.of(name)
            if limit == group.limit:
                continue
            if limit is None:
                del self._groups[name]
                self._let_all(group)
            else:
                group.limit, group.closed_until, group.lapse, group.next_turn = limit, 0.0, 0.0, 0.0
                self._ask(group)

    def admits(self, mail: Mail) -> bool:
        """Whether this mail goes now; if not it is kept here, and comes by `ready` or is put off."""
        if mail.group:
            mail.admitted = boottime()
            return True
        if not self.active:
            return True
        name = self._name_of(mail.domain)
        if name is None:
            self._look_up(mail)
            return False
        group = self._group(name)
        if group is None or self._take(group, mail):
            return True
        group.aside.append(mail)
        now = boottime()
        if group.closed_until > now or (not group.free and group.tokens > 0):
            self._trim(group, now)
            self._plan(group, now)
        return False

    def takes(self, mail: Mail) -> bool:
        """As `admits`, but a mail that must wait stays where it is."""
        if mail.group or not self.active:
            mail.admitted = boottime()
            return True
        name = self._name_of(mail.domain)
        if name is None:
            return False
        group = self._group(name)
        return group is None or (not group.aside and self._take(group, mail))

    def lags(self, mail: Mail) -> bool:
        """Whether its group answers so slowly that nobody should wait behind it."""
        group = self._groups.get(mail.group)
        return group is not None and group.spell > HOLD / 2

    def heard(self, mail: Mail, outcome: Outcome) -> float | None:
        """Learn from what became of it.

        Returns:
            The seconds that its group rests, where it asked us to slow down; None: it did not, or
            nothing limits it and the lane's own rule holds.
        """
        group = self._groups.get(mail.group)
        if group is None:
            return None
        if isinstance(outcome, Accepted):
            group.delivered += 1
            return None
        if not slows(outcome.reply):
            return None
        rest = asked_wait(outcome.reply) or self._domain_rest
        now = boottime()
        if group.why != RESTING or group.closed_until < now:
            # Once, until it is over: all its connections hear the same.
            log.warning(
                "domain_slows_down",
                relay=self._relay,
                group=group.name,
                code=outcome.code,
                rest_s=rest,
            )
        group.slowed, group.rest = True, max(group.rest, rest)
        group.tokens, group.why = 0, RESTING
        group.closed_until = max(group.closed_until, now + rest)
        self._tell(group)
        return rest

    def left(self, mail: Mail, *, unused: bool = False) -> None:
        """It is off its connection; `unused`: without having been offered to anybody."""
        group = self._groups.get(mail.group)
        mail.group = ""
        if group is None:
            return
        now = boottime()
        group.under_way = max(0, group.under_way - 1)
        group.moved = now
        if unused:
            group.tokens += 1
        else:
            spell = now - mail.admitted
            group.spell = spell if not group.spell else 0.8 * group.spell + 0.2 * spell
            # Cut, so that a tarpit does not make its own slowness usual.
            usual = self._usual or spell
            self._usual = 0.95 * usual + 0.05 * min(spell, 4 * usual)
        self._serve(group)

    def take_back(self) -> list[Mail]:
        """Take whatever stands aside."""
        mails = [mail for group in self._groups.values() for mail in group.aside]
        mails += [mail for waiting in self._looking.values() for mail in waiting]
        for group in self._groups.values():
            group.aside.clear()
        self._looking = {}
        return mails

    def put_off(self, domain: str) -> tuple[str, float] | None:
        """Why, and for how many seconds, a mail that is only now claimed had better not be made.

        Asked from any thread; None: make it.
        """
        if not self.active:
            return None
        name = self._name_of(domain)
        group = None if name is None else self._groups.get(name)
        if group is None:
            return None
        now = boottime()
        if group.closed_until > now + HOLD:
            return group.why, self._turn(group, now)
        if group.share == 0 or len(group.aside) >= group.room(now, self._usual):
            return THROTTLED, self._turn(group, now)
        return None

    def standing(self) -> list[Standing]:
        """How the groups stand, asked from any thread."""
        now = boottime()
        return [
            Standing(
                group.name,
                group.label,
                group.rate,
                group.limit.per_minute,
                len(group.aside),
                group.under_way,
                max(0.0, group.closed_until - now),
            )
            for group in tuple(self._groups.values())
        ]

    async def close(self) -> None:
        """Give back what was granted and not used, and leave the connections to the others."""
        asks = [
            (group.limit, Ask(name, 0, group.limit.per_minute, group.tokens, group.delivered))
            for name, group in self._groups.items()
        ]
        if asks:
            # Where nobody can be asked it lapses by itself.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(HOLD):
                    await asyncio.to_thread(self._source.leave, asks)

    async def run(self) -> None:
        """Ask for tokens as long as somebody wants some; cancelled with its lane."""
        while True:
            try:
                # Not `wait_for`, which in Python 3.11 may swallow the cancellation at a drain.
                async with asyncio.timeout(ALIVE):
                    await self._wake.wait()
            except TimeoutError:
                now = boottime()
                self._wanted |= {
                    group
                    for group in self._groups.values()
                    if group.under_way or group.delivered or (group.tokens and group.lapse < now)
                }
            self._wake.clear()
            # What comes within the same breath goes with one question.
            await asyncio.sleep(0.002)
            wanted = [group for group in self._wanted if self._groups.get(group.name) is group]
            self._wanted.clear()
            if wanted:
                await self._refill(wanted)
            self._forget()

    # The groups

    def _name_of(self, domain: str) -> str | None:
        """The group of a domain; one that an operator has limited by its own name is its own."""
        return domain if domain in self._allowed.limits else self._known.of(domain)

    def _group(self, name: str) -> _Group | None:
        group = self._groups.get(name)
        if group is None:
            limit = self._allowed.of(name)
            if limit is None:
                return None
            group = self._groups[name] = _Group(name, limit, moved=boottime())
        return group

    def _take(self, group: _Group, mail: Mail) -> bool:
        now = boottime()
        if group.tokens > 0 and now < group.lapse and now >= group.closed_until and group.free:
            group.tokens -= 1
            group.under_way += 1
            mail.group = group.name
            mail.admitted = group.moved = now
            if group.tokens < self._low(group):
                self._ask(group)
            return True
        if group.tokens <= 0 or now >= group.lapse:
            self._ask(group)
        return False

    def _low(self, group: _Group) -> float:
        """Tokens below which more are asked for ahead of need: a tenth of a second of its rate."""
        return 0 if not group.rate else min(BATCH / 2, group.rate / 600 / group.processes)

    def _serve(self, group: _Group) -> None:
        """Let go who stands aside, as far as tokens and connections reach."""
        going: list[Mail] = []
        while group.aside and self._take(group, group.aside[0]):
            going.append(group.aside.popleft())
        if going:
            self._ready(going)

    def _let_all(self, group: _Group) -> None:
        mails, group.aside = list(group.aside), deque()
        if mails:
            self._ready(mails)

    def _ask(self, group: _Group) -> None:
        """Ask for tokens, if there may be any."""
        if group.closed_until <= boottime():
            group.hungry = True
            self._tell(group)

    def _tell(self, group: _Group) -> None:
        self._wanted.add(group)
        self._wake.set()

    def _plan(self, group: _Group, now: float) -> None:
        """Ask again when there is something to be had, for who may wait here."""
        if group.aside and group.closed_until > now and not group.again:
            group.again = True
            asyncio.get_running_loop().call_later(
                group.closed_until - now + 0.005, self._again, group
            )

    async def _refill(self, groups: list[_Group]) -> None:
        now = boottime()
        asks = []
        for group in groups:
            unused = 0
            if group.tokens and now >= group.lapse:
                unused, group.tokens = group.tokens, 0
            asks.append((group.limit, self._ask_of(group, unused)))
            group.delivered, group.slowed, group.rest, group.hungry = 0, False, 0.0, False
        try:
            answers = await asyncio.to_thread(self._source.ask, asks)
        except Exception as fault:  # whatever it is: what nobody has granted does not go
            self._nobody(groups, asks, fault)
            return
        if self._told:
            self._told = False
            log.warning("throttle_back", relay=self._relay)
        for group, (_, ask), (grant, why) in zip(groups, asks, answers, strict=True):
            self._granted(group, ask, grant, why)

    def _ask_of(self, group: _Group, unused: int) -> Ask:
        if group.limit.per_minute is None and group.limit.warm_up is None:
            # Only what a process has under way is limited; the tokens are there to lapse, so that
            # nothing goes on for long that nobody has asked about.
            wanted = UNLIMITED - group.tokens
        elif group.hungry:
            most = BATCH if group.limit.warm_up is None else DAY_BATCH
            a_second = math.ceil((group.rate or 60.0) / 60 / group.processes)
            wanted = max(0, min(max(len(group.aside), a_second), most) - group.tokens)
        else:
            wanted = 0
        return Ask(
            group.name,
            wanted,
            group.limit.per_minute,
            unused,
            group.delivered,
            group.slowed,
            group.rest,
            random.random(),
        )

    def _granted(self, group: _Group, ask: Ask, grant: Grant, why: str) -> None:
        now = boottime()
        group.tokens += grant.granted
        if grant.granted:
            group.lapse = now + LAPSE
        group.rate, group.processes = grant.rate, max(1, grant.processes)
        group.share = grant.share(group.limit.connections)
        if grant.resting or (ask.wanted and not grant.granted and grant.wait > 0):
            until = now + max(grant.wait, grant.resting)
            if until > group.closed_until:
                group.why, group.closed_until = why, until
        self._serve(group)
        self._trim(group, now)
        self._plan(group, now)

    def _again(self, group: _Group) -> None:
        group.again = False
        if group.aside:
            self._ask(group)

    def _trim(self, group: _Group, now: float) -> None:
        """Put off who would wait here too long."""
        closed = group.closed_until - now
        keep = 0 if closed > HOLD or group.share == 0 else group.room(now, self._usual)
        if len(group.aside) <= keep:
            return
        why = group.why if closed > 0 else THROTTLED
        later = [group.aside.pop() for _ in range(len(group.aside) - keep)]
        for mail in reversed(later):
            self._give_back(mail, why, self._turn(group, now))

    def _turn(self, group: _Group, now: float) -> float:
        """Seconds until the turn of the next mail that is put off; each has its own."""
        with self._turns:
            turn = max(group.next_turn, group.closed_until, now + HOLD / 2)
            step = max(*group.turns(now), 0.001)
            if group.why == FULL and group.closed_until > now:
                # Tomorrow is what is meant, however far it is; and not all in its first second.
                return group.closed_until - now + LATEST * random.random()
            delay = turn - now + step * random.random()
            if delay >= LATEST:
                return LATEST * (0.7 + 0.3 * random.random())
            group.next_turn = turn + step
            return delay

    def _nobody(
        self, groups: list[_Group], asks: list[tuple[Limit, Ask]], fault: Exception
    ) -> None:
        """Redis or Postgres is away: nothing goes that was not granted, and what was told is kept."""
        if not self._told:
            self._told = True
            log.error(
                "throttle_unreachable",
                relay=self._relay,
                kind=type(fault).__name__,
                next="start Redis; domains with a limit get nothing until it answers",
            )
        now = boottime()
        for group, (_, ask) in zip(groups, asks, strict=True):
            group.delivered += ask.delivered
            group.slowed |= ask.slowed
            group.rest = max(group.rest, ask.rest)
            if group.tokens > 0 and now < group.lapse and not group.slowed:
                continue
            if group.closed_until <= now:
                group.why = UNASKED
            group.closed_until = max(group.closed_until, now + min(self._away, AWAY))
            while group.aside:
                self._give_back(group.aside.popleft(), group.why, self._turn(group, now))

    def _forget(self) -> None:
        """Groups of single domains would pile up: those without anything go."""
        if len(self._groups) <= 2000:
            return
        now = boottime()
        idle = [
            name
            for name, group in self._groups.items()
            if not (group.aside or group.under_way or group.tokens or group.delivered)
            and group.closed_until < now
            and group.next_turn < now
        ]
        for name in idle:
            del self._groups[name]

    def _look_up(self, mail: Mail) -> None:
        domain = mail.domain
        waiting = self._looking.get(domain)
        if waiting is not None:
            waiting.append(mail)
            return
        self._looking[domain] = [mail]
        task = asyncio.create_task(self._find(domain))
        self._lookups.add(task)
        task.add_done_callback(self._lookups.discard)

    async def _find(self, domain: str) -> None:
        # Whatever it comes to, `of` knows an answer from now on.
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(LOOKUPS, self._source.find, domain)
        if waiting := self._looking.pop(domain, []):
            self._ready(waiting)


def only(mails: Iterable[Mail], pace: Pace | None) -> list[Mail]:
    """These mails with no place reserved any more."""
    given = list(mails)
    if pace is not None:
        for mail in given:
            if mail.group:
                pace.left(mail, unused=True)
    return given
