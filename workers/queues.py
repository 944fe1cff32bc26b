"""One queue a pool, named as the pool, and one a region of it; a task goes where `tasks.names` says.

A regional queue is declared by who answers it, from its setting, and by who rings it, from the
stream's row: a name that stands in neither makes no queue. A few tasks have a queue of their own in
their pool, where nothing long stands before them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kombu import Queue

from tasks import names
from tasks.errors import Misconfigured

# A message that a worker would put here by accident would wait unseen in a queue of its own;
# the pool of house-keeping at least says that it does not know it.
DEFAULT_QUEUE = "upkeep"


def queues(*regional: str) -> tuple[Queue, ...]:
    """The queues of the pools and of single tasks, and these of regions, such as `send@eu`."""
    own = (*names.POOLS, *names.QUEUE_OF.values(), *regional)
    return tuple(Queue(name, routing_key=name) for name in own)


def own_queues(pool: str) -> list[str]:
    """The queues that tasks of a pool have for themselves; its workers take from these too."""
    return [queue for task, queue in names.QUEUE_OF.items() if names.POOL_OF[task] == pool]


def route(
    name: str,
    args: object = None,
    kwargs: Mapping[str, Any] | None = None,
    options: object = None,
    task: object = None,
    **more: object,
) -> dict[str, Any]:
    """The queue of a task: Celery's router.

    Raises:
        Misconfigured: a task, or a canary for a pool, that nobody answers; no region's name.
    """
    given = kwargs or {}
    if name == names.CANARY:
        pool, region = names.place_of(str(given.get("pool")))
    else:
        pool, region = str(names.POOL_OF.get(name)), given.get("region")
    if pool not in names.POOLS:
        raise Misconfigured(
            f"Task {name!r} has no pool: write it into tasks/names.py, with one of"
            f" {', '.join(names.POOLS)}."
        )
    if region is None:
        queue = names.QUEUE_OF.get(name, pool)
        return {"queue": queue, "routing_key": queue}
    if pool not in names.REGIONAL or not re.fullmatch(names.REGION, str(region)):
        raise Misconfigured(
            f"Task {name!r} is for region {region!r} of pool {pool}: expected a region's name"
            f" ({names.REGION}) and one of {', '.join(sorted(names.REGIONAL))}."
        )
    queue = names.queue_of(pool, str(region))
    # The queue itself, not its name: Celery knows only those of the pools beforehand.
    return {"queue": Queue(queue, routing_key=queue), "routing_key": queue}
