"""What one part of the fleet may ask of another: task names, their pools, and the shape of a payload.

Work is started by these strings alone, so no import path ever reaches the broker. A payload holds
no ids and no promise: it is a doorbell, and whoever answers looks into Postgres for what is due.
Each carries `v`, the version of its shape; a worker drops a version that it does not know.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NotRequired, TypedDict, get_args

PoolName = Literal["sequence", "send", "personalize", "churn", "quantum", "upkeep"]
POOLS: Final[tuple[PoolName, ...]] = get_args(PoolName)

SCAN: Final = "sequence.scan"
FIRE: Final = "sequence.fire"
ENTER: Final = "sequence.enter"
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
ASK_WORDS: Final = "sequence.words"
WRITE: Final = "personalize.write"
SEGMENT: Final = "quantum.segment"
CORESET: Final = "quantum.coreset"
CUT: Final = "quantum.cut"
CUT_NOISY: Final = "quantum.cut_noisy"
NAMED_SEGMENTS: Final = "audience.segments"
TRACK: Final = "track.record"
JUDGE: Final = "track.judge"
WEBHOOKS: Final = "webhooks.deliver"
INBOUND: Final = "track.inbound"
CONTENT_DRAFT: Final = "content.draft"
CONTENT_SUBJECT_LINES: Final = "content.subject_lines"
CONTENT_REVIEW: Final = "content.review"
CONTENT_COMPARE: Final = "content.compare"

VERSION: Final = 1

# Celery compares `expires` with the worker's own clock: one that is an hour fast would eat every
# doorbell with a shorter life. They are bounded by the depth of their queue, ticks by this.
LIFE: Final = 4000.0
"""Seconds after which an unanswered doorbell or tick is void."""

# The canary is not here: it goes to the pool that its payload names.
POOL_OF: Final[dict[str, PoolName]] = {
    SCAN: "sequence",
    FIRE: "sequence",
    ENTER: "sequence",
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
    ASK_WORDS: "sequence",
    WRITE: "personalize",
    SEGMENT: "quantum",
    CORESET: "quantum",
    CUT: "quantum",
    CUT_NOISY: "quantum",
    NAMED_SEGMENTS: "upkeep",
    TRACK: "upkeep",
    JUDGE: "upkeep",
    WEBHOOKS: "upkeep",
    INBOUND: "upkeep",
    CONTENT_DRAFT: "personalize",
    CONTENT_SUBJECT_LINES: "personalize",
    CONTENT_REVIEW: "personalize",
    CONTENT_COMPARE: "personalize",
}

# A task that must never stand behind another one of its pool, or never before one, has a queue of
# its own there, which the pool's workers take from too.
QUEUE_OF: Final[dict[str, str]] = {
    CHURN_ONE: "churn.one",
    CUT_NOISY: "quantum-noisy",
    ASK_WORDS: "sequence.words",  # the dispatcher rings where none waits, and scans pile up
    NAMED_SEGMENTS: "segments",
    TRACK: "track",
    WEBHOOKS: "webhooks",  # other systems answer when they like
    INBOUND: "inbound",  # a mailbox that is slow to answer holds nothing else
    JUDGE: "hits",  # behind what producers send it would wait for as long as they do
}

# What a cron line may start by name, with the payload of a tick; ticks of beat are none of them.
SCHEDULED: Final[frozenset[str]] = frozenset({CHURN_TRAIN, CHURN_SCORE, CHURN_DRIFT, SEGMENT})


# The pools whose work may be bound to a place; a region of one has a queue of its own.
REGIONAL: Final[frozenset[PoolName]] = frozenset({"send"})
REGION: Final = "[a-z0-9][a-z0-9-]{0,30}"
"""Pattern of a region's name."""


class TickPayload(TypedDict):
    """Everything that is due, now: scan, fire, enter, dispatch, reap, resolve, all of churn, quantum, content."""

    v: int


class DeliverPayload(TypedDict):
    """Up to `n` messages of `stream` are due: come and claim them. `region` routes it, if one has it."""

    v: int
    stream: str
    n: int
    region: NotRequired[str]


class CanaryPayload(TypedDict):
    """A worker that answers the queue `pool` writes that it lives."""

    v: int
    pool: str


class TrackPayload(TypedDict):
    """What subscribers did, from whoever saw it: the one payload that holds what it is about.

    Each event has `email` or `external_id`, `name`, `source_id` (the same one of a `source` is
    recorded once), and as wanted `occurred_at` (ISO 8601; by default now) and `properties`. At most
    1 000; sent by an application that shares the broker, with JSON as the serializer:
    `app.send_task("track.record", kwargs={...}, queue="track")`.
    """

    v: int
    source: str
    events: list[dict[str, Any]]


Payload = TickPayload | DeliverPayload | CanaryPayload | TrackPayload


def tick() -> TickPayload:
    """The payload of a tick."""
    return {"v": VERSION}


def deliver(stream: str, n: int, region: str | None = None) -> DeliverPayload:
    """The payload of a delivery doorbell."""
    if region is None:
        return {"v": VERSION, "stream": stream, "n": n}
    return {"v": VERSION, "stream": stream, "n": n, "region": region}


def canary(queue: str) -> CanaryPayload:
    """The payload of the canary of a pool, or of one region of it."""
    return {"v": VERSION, "pool": queue}


def queue_of(pool: str, region: str | None = None) -> str:
    """The queue of a pool, or of one region of it: `send`, `send@eu`."""
    return f"{pool}@{region}" if region else pool


def place_of(queue: str) -> tuple[str, str | None]:
    """The pool and the region of a queue, as `queue_of` names it."""
    pool, _, region = queue.partition("@")
    return pool, region or None


def worker_of(queue: str) -> str:
    """The command line that answers a queue."""
    pool, region = place_of(queue)
    return f"dripfleet worker {pool}" + (f" --region {region}" if region else "")
