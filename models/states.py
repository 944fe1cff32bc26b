"""Where a message may stand, and where it may go from there: names alone, without a table.

A send worker needs these and no mapped class: without SQLAlchemy's ORM it is six megabytes lighter.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a message stands; names as in Postgres's `message_state`."""

    SCHEDULED = "scheduled"
    WORKING = "working"
    ARMED = "armed"
    IN_DOUBT = "in_doubt"
    SENT = "sent"
    SENT_ASSUMED = "sent_assumed"
    FAILED = "failed"
    SUPPRESSED = "suppressed"
    CAPPED = "capped"
    HELD_OUT = "held_out"
    LATE = "late"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


LIVE = (State.SCHEDULED, State.WORKING, State.ARMED, State.IN_DOUBT)
NON_SENDS = (
    State.SUPPRESSED,
    State.CAPPED,
    State.HELD_OUT,
    State.LATE,
    State.EXPIRED,
    State.CANCELLED,
)
TERMINAL = (State.SENT, State.SENT_ASSUMED, State.FAILED, *NON_SENDS)

# NULL → state: where a message may begin (`in_doubt` only while a quarantine stands).
LEGAL_MOVES: dict[State | None, tuple[State, ...]] = {
    None: (State.SCHEDULED, State.IN_DOUBT, *NON_SENDS),
    State.SCHEDULED: (State.WORKING, State.SENT, State.IN_DOUBT, *NON_SENDS),
    State.WORKING: (State.ARMED, State.SCHEDULED, State.FAILED, State.SENT, *NON_SENDS),
    State.ARMED: (State.SENT, State.FAILED, State.SCHEDULED, State.IN_DOUBT),
    State.IN_DOUBT: (State.SENT, State.FAILED, State.SENT_ASSUMED, State.SCHEDULED),
    State.SENT_ASSUMED: (State.SENT, State.FAILED),
    State.FAILED: (State.SCHEDULED,),
}
