"""The entry point of webhooks, in the upkeep pool, from a queue of its own."""

from __future__ import annotations

import threading
import time
from functools import cache
from typing import Final

import structlog
from celery import shared_task

from tasks import names
from tasks.base import FleetTask, database
from tasks.webhooks import store
from tasks.webhooks.settings import WebhookSettings, load

log = structlog.get_logger()

BUDGET: Final = 10.0
"""Seconds that a doorbell works; the dispatcher rings while there is more."""
PRUNE_EVERY: Final = 600.0

# One thread of a worker at most: the others are for those who bring mails back.
_alone = threading.Lock()
_pruned = -PRUNE_EVERY


@cache
def settings() -> WebhookSettings:
    """Those of this process."""
    return load()


@shared_task(base=FleetTask, name=names.WEBHOOKS)
def deliver() -> dict[str, int]:
    """Tell endpoints what is due, signed; what fails is due again later."""
    from tasks.webhooks.post import Post  # with a client for HTTP, which nobody else here needs

    if not _alone.acquire(blocking=False):
        return {}
    try:
        _prune()
        return Post(database(), settings()).work(BUDGET)
    finally:
        _alone.release()


def _prune() -> None:
    global _pruned
    if time.monotonic() - _pruned < PRUNE_EVERY:
        return
    _pruned = time.monotonic()
    until, dropped = time.monotonic() + BUDGET / 2, 0
    while time.monotonic() < until:
        with database().transaction() as connection:
            gone = store.prune(connection, settings().webhook_keep_days)
        dropped += gone
        if gone < store.PRUNED:
            break
    if dropped:
        log.info("old_webhooks_gone", n=dropped)
