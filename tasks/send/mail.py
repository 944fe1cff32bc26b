"""A mail on its way through this process, and the ticket of the doorbell that brought it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from tasks.moves.cycle import Ready
from tasks.send.envelope import Envelope, WireBody


class Ticket:
    """What became of the messages that one claim brought; filled in by the delivery loop.

    Args:
        claimed: how many.
        suspect: whether one of them was claimed alone of its kind, so that the next of its kind can
            be claimed only when this one is through.
    """

    def __init__(self, claimed: int, *, suspect: bool = False) -> None:
        self.claimed = claimed
        self.suspect = suspect
        self.outcomes: Counter[str] = Counter()
        self._settled = threading.Event()
        self._lock = threading.Lock()
        if not claimed:
            self._settled.set()

    def settle(self, outcome: str, n: int = 1) -> None:
        """Count `n` messages that have left this process's hands as `outcome`."""
        with self._lock:
            self.outcomes[outcome] += n
            if self.outcomes.total() >= self.claimed:
                self._settled.set()

    def wait(self, timeout: float, lag: float | None = None) -> dict[str, int]:
        """Wait until all are settled, `timeout` seconds at most; returns counts, `open` among them.

        Args:
            timeout: seconds.
            lag: seconds without a move after which nobody waits for the last tenth: whoever has one
                mail in a tarpit would claim nothing else meanwhile.
        """
        if lag is None:
            self._settled.wait(timeout)
        else:
            self._wait_for_most(timeout, lag)
        with self._lock:
            counts = dict(self.outcomes)
            still = self.claimed - self.outcomes.total()
        return {"claimed": self.claimed, **counts, **({"open": still} if still else {})}

    def _wait_for_most(self, timeout: float, lag: float) -> None:
        until, before = time.monotonic() + timeout, -1
        while (left := until - time.monotonic()) > 0 and not self._settled.wait(min(lag, left)):
            with self._lock:
                done = self.outcomes.total()
            if done == before and done >= 0.9 * self.claimed:
                return
            before = done


@dataclass(slots=True, eq=False)
class Mail:
    """One claimed message, rendered and ready for the wire."""

    id: int
    epoch: int
    subscriber_id: int
    enrollment_id: int | None
    stream: str
    address: str
    content_sha256: bytes
    envelope: Envelope
    body: WireBody
    ticket: Ticket
    # The mail before dot-stuffing, where the stream may have to send it a second time.
    kept: bytes | None = field(default=None, repr=False)
    armed_at: str = ""
    broken_connections: int = 0
    ready_since: float = 0.0
    leased_at: float = 0.0
    # Whether its stream names another relay, if this one lets nobody in.
    elsewhere: bool = False
    # The group of domains whose place it has, and since when; empty where nothing limits it.
    group: str = ""
    admitted: float = 0.0
    # Set where it is handed over; its trace is made of it.
    effect_key: bytes = b""
    # Set by the cycle: the latest boottime for the dot, or None where it was not permitted.
    permit: asyncio.Future[float | None] | None = field(default=None, repr=False)

    @property
    def domain(self) -> str:
        """The recipient's domain, lower case."""
        return self.address.rpartition("@")[2].lower()

    def ready(self) -> Ready:
        """What ARM asks of it."""
        return Ready(self.id, self.epoch, self.subscriber_id, self.address, self.content_sha256)
