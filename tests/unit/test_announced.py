"""The next mail's envelope in the write of a dot: nothing is lost by it, and nothing is sent sooner."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from tasks.send import lane as lanes
from tasks.send.lane import Lane
from tasks.send.mail import Mail, Ticket
from tasks.send.outcome import Accepted, Deferred, InDoubt, Refused, Stage
from tasks.send.settler import Doubt, GiveBack, Settlement
from tasks.send.transport import (
    OFFERED,
    Connection,
    Envelope,
    NotSent,
    Relay,
    Timeouts,
    boottime,
    wire_body,
)
from tests.unit.smtp_peer import HANG_UP, SILENCE, Peer

Run = Callable[[Coroutine[Any, Any, Any]], Any]
BODY = wire_body(b"Subject: hello\r\n\r\n.dotted\r\nbye\r\n")
ONE, TWO = (Envelope("news@shop.example", f"{name}@example.com") for name in ("ada", "bob"))
PLAIN = b"250-peer.test\r\n250 SIZE 1000\r\n"


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner.run


async def at_its_dot(peer: Peer) -> Connection:
    relay = Relay.parse(f"smtp://127.0.0.1:{peer.port}", timeouts=Timeouts(5.0, 5.0, 5.0))
    connection = await Connection.open(relay, helo_name="me.test")
    assert isinstance(connection, Connection)
    assert await connection.offer(ONE, BODY) is OFFERED
    return connection


def test_mails_follow_each_other_with_a_dot_and_an_envelope_in_one_write(run: Run) -> None:
    async def talk() -> None:
        async with Peer() as peer:
            connection = await at_its_dot(peer)
            for mail, following in ((ONE, TWO), (TWO, ONE), (ONE, None)):
                after = (following, BODY) if following else None
                assert isinstance(await connection.finish(5.0, following=after), Accepted)
                if following is not None:
                    # The body waits for its own envelope, and its dot for its own permission.
                    assert await connection.offer(following, BODY) is OFFERED
                    assert connection.at_dot and mail is not following
            await connection.quit()
        assert peer.mails == [BODY + b".\r\n"] * 3
        assert peer.announced == 2
        rcpts = [line for line in peer.heard if line.startswith("RCPT")]
        assert [line[9:12] for line in rcpts] == ["ada", "bob", "ada"]

    run(talk())


@pytest.mark.parametrize(
    ("answer", "outcome", "goes_on"),
    [
        (b"250 2.0.0 ok\r\n", Accepted, True),
        (b"451 4.3.0 later\r\n", Deferred, True),
        (b"550 5.7.1 no\r\n", Refused, True),
        (b"421 4.3.2 closing\r\n" + HANG_UP, Deferred, False),
        (b"250 2.0.0 ok\r\n" + HANG_UP, Accepted, False),
        (b"354 go on\r\n", InDoubt, False),
        (b"nonsense\r\n", InDoubt, False),
        (HANG_UP, InDoubt, False),
        (SILENCE, InDoubt, False),
    ],
)
def test_what_the_dot_comes_to_is_the_same_and_the_next_mail_is_sent_or_not_at_all(
    run: Run, answer: bytes, outcome: type, goes_on: bool
) -> None:
    async def talk() -> None:
        async with Peer(DOT=answer) as peer:
            connection = await at_its_dot(peer)
            if answer == SILENCE:
                peer.script |= {"MAIL": SILENCE, "RCPT": SILENCE, "DATA": SILENCE}
            said = await connection.finish(0.2 if answer == SILENCE else 5.0, following=(TWO, BODY))
            assert isinstance(said, outcome), said
            offered = await connection.offer(TWO, BODY)
            if goes_on:
                assert offered is OFFERED
            else:
                assert isinstance(offered, NotSent) and not connection.usable
            connection.abandon()
        assert len(peer.mails) == 1

    run(talk())


@pytest.mark.parametrize(
    "script",
    [
        {"MAIL": b"452 4.3.1 full\r\n", "RCPT": b"503 no\r\n", "DATA": b"503 no\r\n"},
        {"RCPT": b"550 5.1.1 unknown\r\n", "DATA": b"554 no\r\n"},
    ],
)
def test_an_envelope_that_is_refused_costs_the_next_mail_nothing_else(
    run: Run, script: dict[str, bytes]
) -> None:
    async def talk() -> None:
        async with Peer() as peer:
            connection = await at_its_dot(peer)
            polite = dict(peer.script)
            peer.script |= script
            assert isinstance(await connection.finish(5.0, following=(TWO, BODY)), Accepted)
            refused = await connection.offer(TWO, BODY)
            assert isinstance(refused, NotSent) and refused.code in (452, 550)
            peer.script = polite
            assert await connection.offer(ONE, BODY) is OFFERED  # after RSET
            connection.abandon()
            assert peer.heard.count("RSET") == 1

    run(talk())


def test_only_the_announced_mail_may_follow_and_quit_says_nothing_into_it(run: Run) -> None:
    async def talk() -> None:
        async with Peer() as peer:
            connection = await at_its_dot(peer)
            await connection.finish(5.0, following=(TWO, BODY))
            with pytest.raises(RuntimeError, match="another mail was announced"):
                await connection.offer(ONE, BODY)
            with pytest.raises(RuntimeError, match="no RSET"):
                await connection.reset()
            await connection.quit()
            assert "QUIT" not in peer.heard and not connection.usable
            await asyncio.wait_for(peer.closed.wait(), 5)
        assert peer.mails == [BODY + b".\r\n"]

    run(talk())


@pytest.mark.parametrize("why", ["no pipelining", "too large"])
def test_nothing_is_announced_to_a_relay_that_would_not_have_it(run: Run, why: str) -> None:
    ehlo = PLAIN if why == "no pipelining" else PLAIN.replace(b"250 ", b"250-PIPELINING\r\n250 ")
    body = BODY if why == "no pipelining" else wire_body(b"x\r\n" * 900)

    async def talk() -> None:
        async with Peer(EHLO=ehlo) as peer:
            connection = await at_its_dot(peer)
            assert isinstance(await connection.finish(5.0, following=(TWO, body)), Accepted)
            assert peer.announced == 0
            await connection.quit()
            assert peer.heard[-1] == "QUIT"

    run(talk())


class Ends:
    """The loop of a lane: permits every dot, and counts how each mail ended."""

    def __init__(self, wanted: int) -> None:
        self.permits: Counter[int] = Counter()
        self.ends: Counter[int] = Counter()
        self.doubts = 0
        self.given_back: list[int] = []
        self.wanted = wanted
        self.done = asyncio.Event()

    async def permit(self, mail: Mail) -> float | None:
        self.permits[mail.id] += 1
        mail.armed_at = "now"
        return boottime() + 5

    def answered(self, mail: Mail, outcome: Accepted | Deferred | Refused) -> None:
        self.ends[mail.id] += 1
        if len(self.ends) == self.wanted:
            self.done.set()

    bounced = answered

    def settle(self, mail: Mail, settlement: Settlement) -> None:
        if settlement == GiveBack("drained", 0.0):
            self.given_back.append(mail.id)
            self.done.set()
            return
        assert isinstance(settlement, Doubt), settlement
        self.doubts += 1
        self.answered(mail, Refused(Stage.DOT))

    def stream_fault(self, stream: str, cause: str) -> None:
        raise AssertionError(cause)


@pytest.mark.parametrize("slow", [False, True], ids=["prompt", "slow with one mail"])
def test_a_lane_sends_each_mail_once_and_none_waits_long_for_another(
    run: Run, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "PATIENCE", 0.05)
    mails = [
        Mail(n, 1, n, None, "marketing", "ada@example.com", b"", ONE, BODY, Ticket(1))
        for n in range(20)
    ]

    async def talk() -> None:
        async with Peer() as peer:
            if slow:
                peer.first_dot = SILENCE
            ends = Ends(len(mails) - slow)
            relay = Relay.parse(f"smtp://127.0.0.1:{peer.port}")
            lane = Lane(
                relay, connections=2, helo_name="me.test", reply_wait=1.0, away=1, domain_rest=1,
                cycles=ends,
            )  # fmt: skip
            await lane.put(mails)
            # All but the one whose reply is not to be had, and well before its wait is over.
            await asyncio.wait_for(ends.done.wait(), 0.8 if slow else 10)
            assert ends.permits == Counter(range(len(mails))) and ends.doubts == 0
            assert set(ends.ends.values()) == {1}
            assert len(peer.mails) == len(mails) and peer.announced >= 8
            await lane.close()

    run(talk())


def test_a_drain_waits_for_no_dot_before_it_gives_back_what_was_announced(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "PATIENCE", 0.05)
    mails = [
        Mail(n, 1, n, None, "marketing", "ada@example.com", b"", ONE, BODY, Ticket(1))
        for n in range(3)
    ]

    async def talk() -> None:
        async with Peer() as peer:
            peer.first_dot = SILENCE
            ends = Ends(3)
            lane = Lane(
                Relay.parse(f"smtp://127.0.0.1:{peer.port}"),
                connections=1, helo_name="me.test", reply_wait=30.0, away=1, domain_rest=1,
                cycles=ends,
            )  # fmt: skip
            await lane.put(mails)
            while not ends.permits:
                await asyncio.sleep(0)
            assert [mail.id for mail in lane.drain()] == [2]
            await asyncio.wait_for(ends.done.wait(), 5)
            assert ends.given_back == [1] and ends.permits == Counter([0])
            await lane.close()

    run(talk())
