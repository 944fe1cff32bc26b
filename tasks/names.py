"""What one part of the fleet may ask of another: task names, their pools, and the shape of a payload.

Work is started by these strings alone, so no import path ever reaches the broker. A payload holds
no ids and no promise: it is a doorbell, and whoever answers looks into Postgres for what is due.
Each carries `v`, the version of its shape; a worker drops a version that it does not know.
"""

from __future__ import annotations

from typing import Final, Literal, TypedDict, get_args

PoolName = Literal["sequence", "send", "personalize", "churn", "quantum", "upkeep"]
POOLS: Final[tuple[PoolName, ...]] = get_args(PoolName)

SCAN: Final = "sequence.scan"
FIRE: Final = "sequence.fire"
DISPATCH: Final = "sequence.dispatch"
DELIVER: Final = "send.deliver"
REAP: Final = "upkeep.reap"
RESOLVE: Final = "upkeep.resolve"
CANARY: Final = "fleet.canary"
SEGMENT: Final = "quantum.segment"
CORESET: Final = "quantum.coreset"
CUT: Final = "quantum.cut"
CUT_NOISY: Final = "quantum.cut_noisy"

VERSION: Final = 1

# The canary is not here: it goes to the pool that its payload names.
POOL_OF: Final[dict[str, PoolName]] = {
    SCAN: "sequence",
    FIRE: "sequence",
    DISPATCH: "sequence",
    DELIVER: "send",
    REAP: "upkeep",
    RESOLVE: "upkeep",
    SEGMENT: "quantum",
    CORESET: "quantum",
    CUT: "quantum",
    CUT_NOISY: "quantum",
}

# Work that would keep a pool's other work waiting has a queue of its own, which the pool takes too.
OWN_QUEUE_OF: Final[dict[str, str]] = {CUT_NOISY: "quantum-noisy"}

# What a cron line may start by name, with the payload of a tick; ticks of beat are none of them.
SCHEDULED: Final[frozenset[str]] = frozenset({SEGMENT})
SCHEDULED_LATER: Final[frozenset[str]] = frozenset({"churn.score"})


class TickPayload(TypedDict):
    """Everything that is due, now: scan, fire, dispatch, reap, resolve, and all of quantum."""

    v: int


class DeliverPayload(TypedDict):
    """Up to `n` messages of `stream` are due: come and claim them."""

    v: int
    stream: str
    n: int


class CanaryPayload(TypedDict):
    """A worker of `pool` writes that it lives."""

    v: int
    pool: str


Payload = TickPayload | DeliverPayload | CanaryPayload


def tick() -> TickPayload:
    """The payload of a tick."""
    return {"v": VERSION}


def deliver(stream: str, n: int) -> DeliverPayload:
    """The payload of a delivery doorbell."""
    return {"v": VERSION, "stream": stream, "n": n}


def canary(pool: str) -> CanaryPayload:
    """The payload of a pool's canary."""
    return {"v": VERSION, "pool": pool}
