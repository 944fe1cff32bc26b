"""What the work tells whoever counts it. Nobody does by default, and then a hook is an empty call.

::

    metrics.meter.claimed(stream, len(rows))

`use` puts a real meter in place, before the work begins; `workers.metrics` has one. Every argument
that becomes a label is one of a few: a name of the operator's or a word of ours, never an address,
an id, or a relay's text.
"""

from __future__ import annotations

from typing import Final

TASK_ENDS: Final = ("done", "snoozed", "put_off", "refused", "failed", "dropped")
"""How a task ends: `put_off` is a Transient fault, `refused` Permanent or Misconfigured, `failed`
any other exception, `dropped` a payload of a version that nobody here knows."""


class Meter:
    """The null meter: it takes everything and keeps nothing. A real one overrides what it counts."""

    def task(self, name: str, end: str, seconds: float) -> None:
        """A task has run; `end` is one of `TASK_ENDS`."""

    def doorbell_lost(self, name: str) -> None:
        """The broker did not take a doorbell."""

    def claimed(self, stream: str, n: int) -> None:
        """So many due messages were taken."""

    def ended(self, stream: str, outcome: str, reason: str, n: int = 1) -> None:
        """Claimed messages have left this process: a state, or `given_back`, `deferred`, `dropped`."""

    def cycle(self, seconds: float, recorded: int, ready: int) -> None:
        """One transaction of the delivery loop: replies recorded, mails that asked for their dot."""

    def reply(self, stage: str, code: int | None) -> None:
        """What ended a conversation, at which stage; None: silence, or a connection that broke."""

    def rendered(self, n: int, seconds: float) -> None:
        """So many mails were rendered and composed, in so many seconds together."""

    def renewed(self, n: int) -> None:
        """So many working leases were renewed."""


meter: Meter = Meter()
"""The meter of this process. Read it at each call: a fork or a test may have changed it."""


def use(chosen: Meter) -> Meter:
    """Put a meter in place; returns the one before."""
    global meter
    before, meter = meter, chosen
    return before
