"""The pools of the fleet: what each loads, how wide it runs, and when a task of it is too long.

Threads where the work waits for Postgres or the network, prefork where it computes: a thread cannot
be stopped, so only prefork pools have time limits, and only they let a task be long.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from tasks.errors import Misconfigured
from tasks.names import POOLS, PoolName

CANARY = "tasks.canary.entry"
LONGEST_TASK = 3300
"""Seconds of the longest limit that a task sets for itself: noisy quantum runs."""
DURATIONS = "tasks.moves.settings:DeliverySettings"
IDENTITY = "tasks.moves.settings:IdentitySettings"
WORDING = "tasks.wording:WordingSettings"


@dataclass(frozen=True)
class Pool:
    """A kind of worker.

    Attributes:
        name: of the pool and of its queue.
        kind: Celery's pool: threads, or prefork (child processes).
        concurrency: tasks side by side in one worker process.
        imports: the entry points it loads, and nothing beyond what they import.
        soft_limit: seconds after which a task is told to end (prefork only).
        hard_limit: seconds after which its child is killed.
        settings: classes checked at its boot beside the database's and Redis's.
        extra: the optional dependencies of its work; the canary needs none of them.
        needs: a module of that extra, by which one sees that it is installed.
        nice: how far its children stand back from everybody else on the processor.
    """

    name: PoolName
    kind: Literal["threads", "prefork"]
    concurrency: int
    imports: tuple[str, ...] = (CANARY,)
    soft_limit: float | None = None
    hard_limit: float | None = None
    settings: tuple[str, ...] = ()
    extra: str | None = None
    needs: str | None = None
    nice: int = 0

    def lacks_extra(self) -> bool:
        """Whether the dependencies of its work are missing; looks, and imports nothing."""
        return self.needs is not None and find_spec(self.needs) is None


# More threads than scan and dispatch need at once: a scan that takes long must not keep the
# dispatcher waiting behind the ticks that pile up after it.
_ALL = (
    Pool(
        "sequence",
        "threads",
        4,
        ("tasks.sequence.entry", CANARY),
        settings=(DURATIONS, IDENTITY, WORDING),
    ),
    # Several doorbells are answered side by side, so that the one delivery loop never runs dry.
    Pool(
        "send",
        "threads",
        4,
        ("tasks.send.entry", CANARY),
        settings=(DURATIONS, "tasks.send.settings:SendSettings"),
    ),
    # One doorbell works on several texts side by side: DRIPFLEET_MODEL_CONCURRENCY of them.
    Pool(
        "personalize",
        "threads",
        4,
        ("tasks.personalize.entry", CANARY),
        settings=("tasks.personalize.settings:ModelSettings",),
    ),
    # What is long keeps all children but one busy (tasks.churn.lanes), so two are the fewest: the
    # other one answers whoever asks for a single score.
    Pool(
        "churn",
        "prefork",
        2,
        ("tasks.churn.entry", CANARY),
        soft_limit=1500,
        hard_limit=1800,
        settings=("tasks.churn.settings:ChurnSettings",),
        extra="ml",
        needs="skops",
    ),
    # Two, of which noisy runs take one at most: they last minutes, and have limits of their own.
    Pool(
        "quantum",
        "prefork",
        2,
        ("tasks.quantum.entry", CANARY),
        soft_limit=1500,
        hard_limit=1800,
        settings=("tasks.quantum.settings:QuantumSettings",),
        extra="quantum",
        needs="cirq",
        nice=10,
    ),
    # House-keeping, and what the audience needs: segments one at a time, events from producers, clicks
    # and opens.
    Pool(
        "upkeep",
        "threads",
        4,
        ("tasks.upkeep.entry", "tasks.audience.entry", "tasks.track.entry", "tasks.webhooks.entry", CANARY),
        settings=(
            DURATIONS, "tasks.upkeep.old_words:OldWordsSettings", "tasks.track.settings:InboundSettings",
        ),
    ),
)  # fmt: skip

BY_NAME: dict[str, Pool] = {pool.name: pool for pool in _ALL}


def pool_named(name: str) -> Pool:
    """The pool of that name.

    Raises:
        Misconfigured: there is none.
    """
    if name not in BY_NAME:
        raise Misconfigured(f"There is no pool {name!r}: expected one of {', '.join(POOLS)}.")
    return BY_NAME[name]


def visibility_timeout() -> int:
    """Seconds after which Redis gives a message to somebody else: above every hard limit.

    The same for every process: the one with the shortest would take the work of all the others
    for lost. A delivery is not bound to it, since leases in Postgres guard the rows.
    """
    limits = [pool.hard_limit or 0 for pool in _ALL]
    return int(max(*limits, LONGEST_TASK)) + 300
