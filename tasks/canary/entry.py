"""The canary's entry point, loaded by every pool."""

from __future__ import annotations

from typing import Any

from celery import shared_task

from tasks import names
from tasks.base import FleetTask, database
from tasks.canary import store


@shared_task(base=FleetTask, name=names.CANARY, bind=True)
def canary(self: Any, pool: str) -> dict[str, str]:
    """Write that this worker took its canary from the queue of `pool`."""
    with database().transaction() as connection:
        store.seen(connection, pool, self.request.hostname or "unknown")
    return {"pool": pool}
