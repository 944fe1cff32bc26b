"""One slow domain holds up nobody: who goes, who stands aside, who is put off, and what replies say."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import Misconfigured
from tasks.send import domains, mx, route
from tasks.send.buckets import Ask, Grant
from tasks.send.lane import Lane
from tasks.send.limits import Allowed, Limit, WarmUp
from tasks.send.mail import Mail, Ticket
from tasks.send.outcome import Accepted, Deferred, Refused
from tasks.send.pace import Pace
from tasks.send.relay import Relay
from tasks.send.reply import RawReply, Reply
from tasks.send.settler import GiveBack, Settlement
from tasks.send.signals import asked_wait, slows
from tasks.send.transport import Envelope, boottime, wire_body
from tests.unit.smtp_peer import Peer
from workers.embedded.faults import Faults
from workers.embedded.sink import serve

BODY = wire_body(b"Subject: hello\r\n\r\nbye\r\n")
FAST, SLOW = "fast.test", "tarpit.test"


def said(line: str) -> Reply:
    return Reply.of(RawReply(int(line[:3]), (line.encode(),)))


@pytest.mark.parametrize(
    ("line", "slow", "wait"),
    [
        ("421 4.7.28 Our system has detected an unusual rate of unsolicited mail", True, None),
        ("421 4.7.0 [TSS04] temporarily deferred due to unexpected volume; try again in 2 hours", True, 7200.0),
        ("451 4.7.650 The mail server has been temporarily rate limited due to IP reputation", True, None),
        ("451 Server busy. Please retry after 90 seconds", True, 90.0),
        ("450 4.7.1 Greylisted, please try again in 300 seconds", False, 300.0),
        ("450 4.2.1 The user you are trying to contact is receiving mail at a rate", False, None),
        ("452 4.2.2 The mailbox is full", False, None),
        ("451 4.3.0 Local error", False, None),
        ("550 5.7.1 too many messages", False, None),
        ("250 2.0.0 queued", False, None),
        ("421 try again in 99999 hours", True, 4 * 3600.0),
    ],
)  # fmt: skip
def test_a_reply_says_whether_to_slow_down_and_for_how_long(
    line: str, slow: bool, wait: float | None
) -> None:
    assert (slows(said(line)), asked_wait(said(line))) == (slow, wait)


def test_the_domains_of_one_provider_are_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(domain: str) -> tuple[list[str], float]:
        raise TimeoutError

    asked: list[str] = []

    def resolve(domain: str) -> tuple[list[str], float]:
        asked.append(domain)
        if domain == "gone.invalid-tld":
            raise OSError("no answer")
        host = {"shop.co": "ASPMX.L.google.com.", "firm.co": "firm-co.mail.protection.outlook.com"}
        return [host.get(domain, f"mx.{domain}")], 300.0

    groups = mx.Groups(resolve)
    for domain, group in (
        ("googlemail.com", "gmail"), ("hotmail.com", "microsoft"), ("aol.com", "yahoo"),
        ("a.example.com", "a.example.com"), ("here.test", "here.test"),
    ):  # fmt: skip
        assert groups.of(domain) == group
    assert groups.of("shop.co") is None and asked == []
    assert [groups.find(each) for each in ("shop.co", "firm.co", "own.co", "gone.invalid-tld")] == [
        "gmail", "microsoft", "own.co", "gone.invalid-tld",
    ]  # fmt: skip
    assert groups.of("shop.co") == "gmail" and len(asked) == 4
    assert mx.Groups(None).of("shop.co") == "shop.co"
    # A resolver that is dead is left alone: nobody waits for it again and again.
    for n in range(2):  # one has failed above
        assert groups.of(f"d{n}.co") is None
        monkeypatch.setattr(groups, "_resolve", dead)
        assert groups.find(f"d{n}.co") == f"d{n}.co"
    assert groups.of("new.co") == "new.co" and groups.of("shop.co") == "gmail"
    assert set(domains.GROUPS) <= domains.NAMES


def test_a_warm_up_doubles_and_ends() -> None:
    plan = WarmUp(50, dt.timedelta(days=2), 400, dt.date(2026, 1, 1))
    days = [plan.cap(dt.date(2026, 1, 1) + dt.timedelta(days=n)) for n in range(-1, 8)]
    assert days == [50, 50, 50, 100, 100, 200, 200, None, None]
    assert WarmUp(1, dt.timedelta(days=1), 10**9, dt.date(1970, 1, 1)).cap(dt.date.max) is None


class Tokens:
    """A source that grants so many tokens in all, then none for `wait` seconds."""

    def __init__(self, tokens: int = 10**6, wait: float = 60.0, fault: bool = False) -> None:
        self.tokens, self.wait, self.fault = tokens, wait, fault
        self.heard: list[Ask] = []

    def ask(self, asks: list[tuple[Limit, Ask]]) -> list[tuple[Grant, str]]:
        if self.fault:
            raise ConnectionError("no Redis")
        answers = []
        for limit, ask in asks:
            self.heard.append(ask)
            granted = min(ask.wanted, self.tokens)
            self.tokens -= granted
            rate = limit.per_minute
            resting = ask.rest if ask.slowed else 0.0
            why = "domain_resting" if resting else "throttled"
            answers.append((Grant(granted, self.wait, rate, resting, 1, 0), why))
        return answers

    def leave(self, asks: list[tuple[Limit, Ask]]) -> None:
        self.ask(asks)

    def find(self, domain: str) -> str:
        raise AssertionError("no domain of these tests is looked up")


class Loop:
    """The loop of a lane: permits every dot, and notes what became of each mail."""

    def __init__(self) -> None:
        self.sent: list[Mail] = []
        self.back: list[tuple[Mail, GiveBack]] = []
        self.moved = asyncio.Event()

    async def permit(self, mail: Mail) -> float | None:
        return boottime() + 5

    def answered(self, mail: Mail, outcome: Accepted | Deferred | Refused) -> None:
        self.sent.append(mail)
        self.moved.set()

    bounced = answered

    def settle(self, mail: Mail, settlement: Settlement) -> None:
        assert isinstance(settlement, GiveBack), settlement
        self.back.append((mail, settlement))
        self.moved.set()

    def stream_fault(self, stream: str, cause: str) -> None:
        raise AssertionError(cause)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await self.moved.wait()
                self.moved.clear()


def lane_of(loop: Loop, port: int, source: Tokens, *limits: Limit) -> Lane:
    lane = Lane(
        Relay.parse(f"smtp://127.0.0.1:{port}?connections=4"),
        connections=4, helo_name="me.test", reply_wait=30, away=1, domain_rest=30, cycles=loop,
        paced=lambda ready, back: Pace(
            "default", mx.Groups(), source, domain_rest=30, away=1, ready=ready, give_back=back
        ),
    )  # fmt: skip
    assert lane.pace is not None
    lane.pace.allow(Allowed({limit.domains: limit for limit in limits}))
    return lane


def mails(n: int, domain: str, start: int = 0) -> list[Mail]:
    return [
        Mail(i, 1, i, None, "marketing", f"p{i}@{domain}", b"",
             Envelope("a@b.example", f"p{i}@{domain}"), BODY, Ticket(1))
        for i in range(start, start + n)
    ]  # fmt: skip


Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture
def run() -> Run:
    return lambda work: asyncio.run(work)


def test_a_domain_without_tokens_is_put_off_each_mail_to_its_own_turn_and_the_others_go(
    run: Run, tmp_path: Path
) -> None:
    async def talk() -> None:
        async with serve(tmp_path) as sink:
            loop, source = Loop(), Tokens(3, wait=1.0)
            lane = lane_of(loop, sink.port, source, Limit(SLOW, per_minute=60))
            mixed = [
                m for pair in zip(mails(20, SLOW), mails(20, FAST, 100), strict=True) for m in pair
            ]
            await lane.put(mixed)
            # Two may wait here: their turn comes within two seconds.
            await loop.until(lambda: len(loop.sent) + len(loop.back) == 38)
            gone = [mail.domain for mail in loop.sent]
            assert (gone.count(FAST), gone.count(SLOW)) == (20, 3)
            delays = sorted(s.delay or 0.0 for _, s in loop.back)
            assert {s.reason for _, s in loop.back} == {"throttled"}
            # A second apart: sixty a minute is what the domain is given.
            assert 1 <= delays[0] <= 2.1 and 13 <= delays[-1] - delays[0] <= 15
            assert lane.pace is not None and lane.pace.put_off(SLOW) is not None
            assert lane.pace.put_off(FAST) is None
            assert sum(ask.delivered for ask in source.heard) <= 3
            await lane.close()
            assert sum(ask.delivered for ask in source.heard) == 3

    run(talk())


def test_a_tarpit_has_its_connections_and_no_more(run: Run, tmp_path: Path) -> None:
    tarpit = Faults.parse([f"dot:stall,seconds=60,rcpt=*@{SLOW}"])

    async def talk() -> None:
        async with serve(tmp_path, faults=tarpit) as sink:
            loop = Loop()
            lane = lane_of(loop, sink.port, Tokens(), Limit("*", connections=2))
            await lane.put([*mails(200, SLOW), *mails(50, FAST, 1000)])
            await loop.until(lambda: sum(m.domain == FAST for m in loop.sent) == 50)
            assert lane.pace is not None
            (slow,) = [each for each in lane.pace.standing() if each.group == SLOW]
            assert slow.under_way == 2
            await lane.close()

    run(talk())


def test_who_asks_us_to_slow_down_rests_as_long_as_they_say(run: Run) -> None:
    async def talk() -> None:
        script = {"RCPT": b"421 4.7.0 too many messages, try again in 5 minutes\r\n"}
        async with Peer(script) as peer:
            loop, source = Loop(), Tokens(1, wait=1.0)
            lane = lane_of(loop, peer.port, source, Limit(SLOW, per_minute=600))
            await lane.put(mails(8, SLOW))
            await loop.until(lambda: len(loop.back) == 8)
            assert {s.reason for _, s in loop.back} <= {"deferred", "domain_resting"}
            resting = [s.delay for _, s in loop.back if s.reason == "domain_resting"]
            assert resting and min(d for d in resting if d is not None) >= 299
            assert any(ask.slowed and ask.rest == 300 for ask in source.heard)
            await lane.close()

    run(talk())


def test_a_domain_that_is_limited_by_its_name_is_apart_from_its_provider(
    run: Run, tmp_path: Path
) -> None:
    async def talk() -> None:
        async with serve(tmp_path) as sink:
            loop, source = Loop(), Tokens()
            limits = Limit("gmail", per_minute=600), Limit("googlemail.com", per_minute=60)
            lane = lane_of(loop, sink.port, source, *limits)
            await lane.put([*mails(1, "gmail.com"), *mails(1, "googlemail.com", 1)])
            await loop.until(lambda: len(loop.sent) == 2)
            assert {ask.group: ask.per_minute for ask in source.heard} == {
                "gmail": 600, "googlemail.com": 60,
            }  # fmt: skip
            await lane.close()

    run(talk())


def test_with_nobody_to_ask_nothing_goes_and_unlimited_domains_do(run: Run, tmp_path: Path) -> None:
    async def talk() -> None:
        async with serve(tmp_path) as sink:
            loop = Loop()
            lane = lane_of(loop, sink.port, Tokens(fault=True), Limit(SLOW, per_minute=600))
            await lane.put([*mails(5, SLOW), *mails(5, FAST, 100)])
            await loop.until(lambda: len(loop.sent) + len(loop.back) == 10)
            assert {mail.domain for mail in loop.sent} == {FAST}
            assert {s.reason for _, s in loop.back} == {"throttle_unreachable"}
            await lane.close()

    run(talk())


def test_limits_taken_off_let_everybody_go(run: Run, tmp_path: Path) -> None:
    async def talk() -> None:
        async with serve(tmp_path) as sink:
            loop = Loop()
            lane = lane_of(loop, sink.port, Tokens(1, wait=1.0), Limit("*", per_minute=60))
            await lane.put(mails(3, SLOW))
            await loop.until(lambda: len(loop.sent) == 1)
            assert lane.pace is not None
            lane.pace.allow(Allowed())
            await lane.put(mails(3, SLOW, 10))
            await loop.until(lambda: len(loop.sent) + len(loop.back) == 6)
            assert len(loop.sent) >= 5
            await lane.close()

    run(talk())


def test_what_was_announced_or_reserved_is_there_to_be_taken_back(run: Run, tmp_path: Path) -> None:
    async def talk() -> None:
        async with serve(tmp_path) as sink:
            loop = Loop()
            lane = lane_of(loop, sink.port, Tokens(0, wait=1.0), Limit("*", per_minute=60))
            await lane.put(mails(2, SLOW))
            await asyncio.sleep(0.05)
            taken = lane.drain()
            assert len(taken) + len(loop.back) == 2
            assert all(mail.group == "" for mail in taken)
            await lane.close()

    run(talk())


class Moody(Tokens):
    """Grants a few, or none for a moment, or does not answer at all."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng

    def ask(self, asks: list[tuple[Limit, Ask]]) -> list[tuple[Grant, str]]:
        if self.rng.random() < 0.1:
            raise ConnectionError("Redis is away")
        answers = []
        for limit, ask in asks:
            granted = self.rng.randint(0, min(ask.wanted, 4))
            rest = ask.rest if ask.slowed else 0.0
            wait = self.rng.choice((0.01, 0.05, 5.0))
            grant = Grant(granted, wait, limit.per_minute, rest, self.rng.randint(1, 3), 0)
            answers.append((grant, "throttled"))
        return answers


@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_each_mail_has_one_end_and_no_place_stays_taken(
    run: Run, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    faults = Faults.parse(
        ["rcpt:421,p=0.05", "rcpt:450,p=0.05", "dot:451,p=0.05", "body:close,p=0.05",
         "mail:close,p=0.03", f"dot:stall,seconds=0.05,p=0.2,rcpt=*@{SLOW}"],
        seed=seed,
    )  # fmt: skip
    kinds = (
        Limit("*", per_minute=60_000), Limit("*", connections=2), Limit(SLOW, connections=1),
        Limit("*", per_minute=6000, connections=1), Limit("c.test", per_minute=600),
    )  # fmt: skip

    async def talk() -> None:
        async with serve(tmp_path, faults=faults) as sink:
            loop = Loop()
            lane = lane_of(loop, sink.port, Moody(rng))
            assert lane.pace is not None
            number = 0
            for _ in range(8):
                chosen = rng.sample(kinds, rng.randint(0, 3))
                lane.pace.allow(Allowed({limit.domains: limit for limit in chosen}))
                many: list[Mail] = []
                for _ in range(25):
                    domain = rng.choice((SLOW, FAST, "c.test", "d.test"))
                    many += mails(1, domain, number)
                    number += 1
                await lane.put(many)
                await asyncio.sleep(rng.random() * 0.03)
                if rng.random() < 0.2:
                    await lane.put(lane.take_back())
            taken = lane.drain()
            await loop.until(lambda: len(loop.sent) + len(loop.back) + len(taken) >= number)
            await asyncio.sleep(0.05)
            ends = [mail.id for mail in (*loop.sent, *taken, *(mail for mail, _ in loop.back))]
            assert sorted(ends) == list(range(number))
            assert all(each.under_way == 0 and each.aside == 0 for each in lane.pace.standing())
            await lane.close()

    run(talk())


def test_a_doorbell_waits_for_its_mails_but_not_for_the_last_few_in_a_tarpit() -> None:
    ticket = Ticket(20)
    ticket.settle("sent", 17)
    assert ticket.wait(0.05, lag=0.01) == {"claimed": 20, "sent": 17, "open": 3}
    ticket.settle("sent")
    # Nine of ten are through, and nothing moves any more: long before its time is over.
    assert ticket.wait(60, lag=0.01) == {"claimed": 20, "sent": 18, "open": 2}
    ticket.settle("given_back", 2)
    assert ticket.wait(60) == {"claimed": 20, "sent": 18, "given_back": 2}


# Several relays


def test_a_stream_with_several_relays_goes_by_weight_past_those_that_are_closed() -> None:
    ways = route.parse("main=3, second=1,spare=0")
    assert ways == (("main", 3), ("second", 1), ("spare", 0))

    def drawn(closed: set[str]) -> list[str | None]:
        return [
            route.choose(ways, lambda name: name not in closed, lambda at=at: at)  # type: ignore[misc]
            for at in (0.0, 0.74, 0.76, 0.999)
        ]

    assert drawn(set()) == ["main", "main", "second", "second"]
    assert drawn({"main"}) == ["second"] * 4
    assert drawn({"main", "second"}) == ["spare"] * 4
    assert drawn({"main", "second", "spare"}) == [None] * 4
    assert route.parse("default") == (("default", 1),)
    for wrong in ("", "Main", "a=1,a=2", "a=-1", "a b"):
        with pytest.raises(Misconfigured, match="expected such as"):
            route.parse(wrong)
    assert route.names("A!") == ["A!"]
