"""Named points between the moves at which a test can make a process stop or die.

The code that delivers says where it stands; nothing listens, unless a test (or `dripfleet chaos`, in
processes of its own) has set `hook`. No setting and no environment variable reaches it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

POINTS: Final[dict[str, str]] = {
    "plan.written": "messages are inserted, not committed",
    "plan.committed": "messages are there, no doorbell has rung",
    "enter.written": "what events ask for, or who is let in, is written, not committed",
    "enter.committed": "people are in, and nobody is told to plan them",
    "dispatch.counted": "due rows are counted, no doorbell has rung",
    "dispatch.rung": "a doorbell is in the queue",
    "claim.moved": "rows are working, not committed",
    "claim.committed": "rows are working, nothing is prepared",
    "mails.prepared": "mails are made, and not with the loop yet",
    "body.written": "a mail stands before its dot",
    "cycle.written": "LOCK, RECORD and ARM are on their way, no answer yet",
    "arm.committed": "rows are armed, the journal knows no dot",
    "dots.noted": "the journal has the dots, none is written",
    "dot.written": "the dot is on the wire, no reply yet",
    "reply.heard": "the reply has come, the journal does not have it",
    "reply.noted": "the journal has the reply, Postgres does not",
    "record.committed": "the outcome is in Postgres, the loop still holds the mail",
    "settle.begun": "a row is to be given back, refused, doubted or failed",
    "settle.committed": "it is, and the loop still holds the mail",
    "reap.moved": "expired leases are ended, not committed",
    "reap.committed": "they are",
    "resolve.moved": "held doubts are settled, not committed",
    "resolve.committed": "they are",
    "replay.released": "a dead worker's working rows are back, its dots are not looked at",
    "replay.written": "all that a dead worker's journal says is in Postgres, the file still there",
}
"""Point → what is so there."""

hook: Callable[[str], None] | None = None


def reached(point: str) -> None:
    """Say that this process stands at `point`, a name of `POINTS`."""
    if hook is not None:
        hook(point)
