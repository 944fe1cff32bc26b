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
CHURN_TRAIN: Final = "churn.train"
CHURN_FIT: Final = "churn.fit"
CHURN_SCORE: Final = "churn.score"
CHURN_RANGE: Final = "churn.range"
CHURN_ONE: Final = "churn.one"
CHURN_DRIFT: Final = "churn.drift"
CANARY: Final = "fleet.canary"

VERSION: Final = 1

# The canary is not here: it goes to the pool that its payload names.
POOL_OF: Final[dict[str, PoolName]] = {
    SCAN: "sequence",
    FIRE: "sequence",
    DISPATCH: "sequence",
    DELIVER: "send",
    REAP: "upkeep",
    RESOLVE: "upkeep",
    CHURN_TRAIN: "churn",
    CHURN_FIT: "churn",
    CHURN_SCORE: "churn",
    CHURN_RANGE: "churn",
    CHURN_ONE: "churn",
    CHURN_DRIFT: "churn",
}

# A task that must never stand behind another one of its pool has a queue of its own there.
QUEUE_OF: Final[dict[str, str]] = {CHURN_ONE: "churn.one"}

# What a cron line may start by name, with the payload of a tick; ticks of beat are none of them.
SCHEDULED: Final[frozenset[str]] = frozenset({CHURN_TRAIN, CHURN_SCORE, CHURN_DRIFT})
SCHEDULED_LATER: Final[frozenset[str]] = frozenset({"quantum.segment"})


class TickPayload(TypedDict):
    """Everything that is due, now: scan, fire, dispatch, reap, resolve, and all of churn."""

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
