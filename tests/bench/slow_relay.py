"""G5: a relay that answers each dot after a second, 200 connections in one worker.

    python -m tests.bench.goals --only G5

Mails a second by the 200 that are possible, from the first dot on (before it there is the wait for beat's
next tick), and the same of smtp-source. What is due, sent and in the sink's ledger must agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from tasks.errors import Permanent
from tests.bench.pair_window import PAYLOAD
from tests.bench.question import Answers, Plan
from tests.bench.smtp_pair import Pair
from tests.bench.whole_fleet import WholeFleet
from workers.embedded.ledger import LEDGER, read_ledger
from workers.embedded.sink import EmbeddedSink, start_sink

LATENCY = 1.0  # seconds from a dot to its reply
CONNECTIONS = 200


@contextmanager
def listening(folder: Path) -> Iterator[EmbeddedSink]:
    """Run the slow sink for the length of the block."""
    sink = start_sink(folder / "slow", latency=LATENCY)
    try:
        yield sink
    finally:
        sink.stop()


def url(sink: EmbeddedSink) -> str:
    """As the fleet is given it."""
    return f"{sink.url}?connections={CONNECTIONS}"


def measure(
    plan: Plan,
    answers: Answers,
    fleet: WholeFleet,
    sink: EmbeddedSink,
    pair: Pair,
    folder: Path,
) -> None:
    """Answer G5 by a window each.

    Raises:
        Transient, Permanent: there is no figure.
    """
    plan.say(f"{CONNECTIONS} connections to a sink that answers after {LATENCY:g} s")
    done = fleet.deliver("slow", ("slow sink", sink.pid))
    arrived = [line.message_id for line in islice(read_ledger(folder / "slow" / LEDGER), None)]
    if len(arrived) != plan.mails or len(set(arrived)) != plan.mails:
        raise Permanent(
            f"{plan.mails} mails were sent to the slow sink, whose ledger has {len(arrived)} lines of"
            f" {len(set(arrived))} mails: no figure"
        )
    ideal = plan.mails / CONNECTIONS * LATENCY
    answers.goals["G5"] = [ideal / (done.seconds - done.first + LATENCY)]
    to = int(sink.url.rpartition(":")[2])
    took, _ = pair.send(to, mails=plan.mails, connections=CONNECTIONS, payload=PAYLOAD)
    answers.goals["G5_source"] = [ideal / took]
