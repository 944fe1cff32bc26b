"""One run: mail comes in, faults are played, everything settles, and an outside ledger judges."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tasks.errors import Permanent
from tasks.moves.settings import DeliverySettings
from tasks.upkeep import verify as audit
from workers.chaos import of_edge, raised
from workers.chaos.catalogue import CATALOGUE, Fault
from workers.chaos.load import BATCH, EVERY, Load
from workers.chaos.of_smtp import rules
from workers.chaos.players import Played, Players
from workers.chaos.readers import Readers
from workers.chaos.world import World, await_value
from workers.cli.audit import SinkLedger
from workers.embedded.ledger import read_ledger

FLOWING: Final = 180.0  # seconds within which the first mails must have gone
HEARD: Final = 120.0  # seconds more within which each rule of the sink must have been met
TOLD: Final = 10.0  # seconds between two lines while it settles

FATES = text("""
SELECT m.state::text AS state, coalesce(m.reason, '') AS reason, count(*) AS n
FROM message m WHERE m.maybe_delivered GROUP BY 1, 2 ORDER BY 3 DESC
""")
DOUBTED = text("SELECT count(*) FROM attempt WHERE outcome = 'in_doubt'")
STILL_LIVE = text("""
SELECT m.id, m.state::text AS state, m.run_at, m.watch_at, m.reason FROM message m
WHERE m.run_at IS NOT NULL OR m.watch_at IS NOT NULL ORDER BY m.id LIMIT 20
""")
STILL_ACTIVE = text("""
SELECT e.id, e.sequence_key, e.step_id, e.due_at FROM enrollment e
WHERE e.active ORDER BY e.id LIMIT 20
""")


@dataclass(slots=True)
class Result:
    """What a run came to.

    Attributes:
        seed: of the plan, the load and the sink's draws.
        played: each fault, those of the sink and the raised errors among them.
        mails: lines of the ledger.
        enrolled: people × sequences, by hand or by an event.
        states: messages by state.
        doubts: attempts that were in doubt.
        fates: what became of messages that may have been delivered, `state (reason)` → count.
        copies: mails at the sink beyond the first of their message; `explained` of these belong to a
            doubt that the policy sent again.
        lost: messages that are sent here and not there, or ended nowhere; people whom an event was
            to let in, and who were forgotten.
        settled_in: seconds; None: it did not, and `unsettled` names the rows.
        report: the audit's.
        faults: why the run has failed; empty: it passed.
    """

    seed: int
    played: list[Played] = field(default_factory=list)
    mails: int = 0
    enrolled: int = 0
    states: dict[str, int] = field(default_factory=dict)
    doubts: int = 0
    fates: dict[str, int] = field(default_factory=dict)
    copies: int = 0
    explained: int = 0
    lost: int = 0
    settled_in: float | None = None
    unsettled: list[dict[str, object]] = field(default_factory=list)
    report: audit.Report | None = None
    faults: list[str] = field(default_factory=list)


def plan(seed: int, only: Sequence[str]) -> list[Fault]:
    """The faults of a run in the order of their turn.

    Raises:
        Permanent: a name in `only` that is none of the catalogue.
    """
    if unknown := [name for name in only if name not in CATALOGUE]:
        raise Permanent(
            f"there is no fault {unknown[0]!r}; `dripfleet chaos --list` names those there are"
        )
    chosen = [CATALOGUE[name] for name in only] or list(CATALOGUE.values())
    random.Random(seed).shuffle(chosen)
    return chosen


def run(
    root: Path,
    *,
    seconds: float,
    seed: int,
    only: Sequence[str] = (),
    shorter: float = 60.0,
    guard_off: str | None = None,
    latency: float = 0.005,
    smtp: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Result:
    """Play one run in the folder `root`, made anew; the fleet is stopped when it returns.

    Args:
        root: its servers, logs and ledger stay there.
        seconds: how long faults are begun, each at least once; what is begun is brought to its end.
        seed: the same gives the same plan and the same people; threads still race.
        only: names of faults, instead of all of the catalogue.
        shorter: by how much all durations of delivery are divided.
        guard_off: for the negative control.
        latency: seconds from dot to reply.
        smtp: whether the sink does wrong too.
        say: told what happens.

    Raises:
        DripfleetError: the run could not be made: no servers, a fleet that does not start.
    """
    faults = plan(seed, only)
    result = Result(seed)
    delivery = DeliverySettings().shortened(shorter)
    world = World(
        root,
        shorter=shorter,
        smtp=rules(delivery) if smtp else (),
        seed=seed,
        latency=latency,
        guard_off=guard_off,
        edge=any(each.name == of_edge.NAME for each in faults) and not of_edge.lacking(),
        say=say,
    )
    with world:
        # More than are wanted: without mail no fault finds anything to disturb.
        people = int((seconds + 900) / EVERY) * BATCH
        load = Load(
            world.database,
            world.home.secret("address").encode(),
            people,
            random.Random(seed),
        )
        load.prepare()
        with world.database.transaction() as connection:
            raised.install(connection)
        world.start()
        readers = _readers(world, seed)
        _flow(world, load)
        say("mail flows; faults begin")
        players = Players(world, faults, seconds, seed, say)
        players.start()
        while players.playing():
            _turn(world, load)
        _hear_all(world, load)
        if readers is not None:
            readers.stop()
        result.played = players.played
        world.faults.stop()
        say("no more faults; settling")
        _settle(world, result)
        world.stop()
        _judge(world, load, result, smtp=smtp)
        if readers is not None:
            say(
                f"at the edge: {len(readers.clicked)} clicks, {len(readers.told)} events and"
                f" {len(readers.left)} who left were answered, {readers.unanswered} were not"
            )
            result.faults += readers.faults()
    return result


def _readers(world: World, seed: int) -> Readers | None:
    if world.edge_port is None:
        return None
    secret = world.home.secret("token")
    readers = Readers(world.database, world.edge_url, secret, random.Random(seed + 100))
    readers.start()
    return readers


def _turn(world: World, load: Load | None) -> None:
    world.tend()
    if load is not None:
        load.tick()
    time.sleep(0.05)


def _flow(world: World, load: Load) -> None:
    """Wait until the fleet delivers."""
    deadline = time.monotonic() + FLOWING
    while len(world.sink.lines()) < BATCH:
        if time.monotonic() > deadline:
            raise Permanent(
                f"the fleet has delivered nothing within {FLOWING:g} s; see {world.home.logs}"
            )
        _turn(world, load)


def _hear_all(world: World, load: Load) -> None:
    """Let mail flow on until each rule of the sink has been met, however slow this machine is."""
    deadline = time.monotonic() + HEARD
    while not all(world.faults.fired.values()) and time.monotonic() < deadline:
        _turn(world, load)


def longest_settling(delivery: DeliverySettings) -> float:
    """Seconds that a mail can lawfully take to its end once nothing goes wrong any more.

    A reply that never comes, the hold of its doubt, the same once more for a resend, and the back-off
    after some deferrals; twice that, for a machine that has other things to do.
    """
    once = delivery.armed_lease + delivery.reaper_grace + delivery.doubt_hold
    return 2 * (2 * once + 4 * delivery.backoff_first) + 30


def _settle(world: World, result: Result) -> None:
    began = told = time.monotonic()
    limit = longest_settling(world.delivery)

    def settled() -> bool | None:
        nonlocal told
        world.tend()
        try:
            messages, enrollments = world.live()
        except DBAPIError:
            return None
        if time.monotonic() - told > TOLD:
            told = time.monotonic()
            world.say(f"  {messages} messages and {enrollments} enrollments are live")
        return True if messages == enrollments == 0 else None

    if await_value(settled, limit):
        result.settled_in = time.monotonic() - began
        return
    with world.database.transaction() as connection:
        for query in (STILL_LIVE, STILL_ACTIVE):
            result.unsettled += [dict(row._mapping) for row in connection.execute(query)]
    result.faults.append(
        f"not settled within {limit:.0f} s: {len(result.unsettled)} rows are named"
    )


def _judge(world: World, load: Load, result: Result, *, smtp: bool) -> None:
    """Ask the audit and the ledger; what was planned and never fired fails the run too."""
    report = audit.verify(
        world.database,
        world.delivery,
        audit.VerifySettings(),
        ledger=SinkLedger(world.sink.ledger),
    )
    with world.database.transaction() as connection:
        result.doubts = connection.execute(DOUBTED).scalar_one()
        result.fates = {f"{row.state} ({row.reason})": row.n for row in connection.execute(FATES)}
        errors = raised.raised(connection)
    arrived = Counter(line.message_id for line in read_ledger(world.sink.ledger))
    result.report, result.states, result.enrolled = report, report.states, load.enrolled
    result.mails = sum(arrived.values())
    result.copies = result.mails - len(arrived)
    result.explained = report.sink.copies_in_doubt if report.sink else 0
    found = {finding.name: finding.count for finding in report.findings}
    kept_out = load.kept_out()
    result.lost = found["W3"] + len(result.unsettled) + len(kept_out)
    if kept_out:
        result.faults.append(
            f"{len(kept_out)} people whom an event was to let in are neither in nor refused, such as"
            f" subscriber {kept_out[0]}"
        )
    result.faults += [
        f"{name}: {finding.count} found. {finding.sentence}"
        for finding in report.findings
        if finding.count and (name := finding.name)
    ]
    if smtp:
        result.played += [
            Played(f"sink {label.partition(',')[0]}", "the far end", 1, count)
            for label, count in world.faults.fired.items()
        ]
        result.played += [Played(f"raise {name}", "once", 1, n) for name, n in errors.items()]
    result.faults += [
        f"{each.name} was planned and never fired"
        for each in result.played
        if each.planned and not each.fired
    ]
