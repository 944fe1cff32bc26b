"""A window of smtp-source and smtp-sink: what the wire itself takes for as many mails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.bench.cpu_time import cpu_seconds, used_between
from tests.bench.question import Plan
from tests.bench.smtp_pair import SINK, SOURCE, Pair

PAYLOAD = 3000  # octets below the headers of smtp-source, for mails as long as the fleet's


@dataclass(frozen=True, slots=True)
class Window:
    """Both programs, with as many mails and connections as the fleet.

    Attributes:
        port: of smtp-sink, on loopback.
        pid: its process.
    """

    pair: Pair
    plan: Plan
    port: int
    pid: int
    name: str = f"{SOURCE} and {SINK}"

    @classmethod
    @contextmanager
    def open(cls, pair: Pair, plan: Plan) -> Iterator[Window]:
        """Run smtp-sink for the length of the block."""
        with pair.listening() as (port, pid):
            yield cls(pair, plan, port, pid)

    def micros(self) -> float:
        """Microseconds of processor that both take for a mail."""
        before = cpu_seconds({"sink": self.pid})
        # Twice, so that a window is not all start and end of so few milliseconds.
        mails = 2 * self.plan.mails
        _, used = self.pair.send(
            self.port, mails=mails, connections=self.plan.connections, payload=PAYLOAD
        )
        sink = used_between(before, cpu_seconds({"sink": self.pid}))["sink"]
        return (used + sink) / mails * 1e6
