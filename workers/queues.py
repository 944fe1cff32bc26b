"""One queue a pool, named as the pool; a task goes to the pool that `tasks.names` says.

Beside them stands a queue for each kind of work that has one of its own (`names.OWN_QUEUE_OF`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kombu import Queue

from tasks import names
from tasks.errors import Misconfigured

# A message that a worker would put here by accident would wait unseen in a queue of its own;
# the pool of house-keeping at least says that it does not know it.
DEFAULT_QUEUE = "upkeep"


def queues() -> tuple[Queue, ...]:
    """All queues; no other is ever made."""
    own = tuple(names.OWN_QUEUE_OF.values())
    return tuple(Queue(name, routing_key=name) for name in (*names.POOLS, *own))


def queues_of(pool: str) -> list[str]:
    """The queues that a worker of the pool takes from."""
    own = [queue for name, queue in names.OWN_QUEUE_OF.items() if names.POOL_OF[name] == pool]
    return [pool, *own]


def route(
    name: str,
    args: object = None,
    kwargs: Mapping[str, Any] | None = None,
    options: object = None,
    task: object = None,
    **more: object,
) -> dict[str, str]:
    """The queue of a task: Celery's router.

    Raises:
        Misconfigured: a task, or a canary for a pool, that nobody answers.
    """
    pool = (kwargs or {}).get("pool") if name == names.CANARY else names.POOL_OF.get(name)
    if pool not in names.POOLS:
        raise Misconfigured(
            f"Task {name!r} has no pool: write it into tasks/names.py, with one of"
            f" {', '.join(names.POOLS)}."
        )
    queue = names.OWN_QUEUE_OF.get(name, pool)
    return {"queue": queue, "routing_key": queue}
