"""The entry points of what comes back, in the upkeep pool: hits, and mails that came in."""

from __future__ import annotations

import time
from typing import Final

import structlog
from celery import shared_task

from tasks import names
from tasks.base import FleetTask, database
from tasks.errors import DripfleetError
from tasks.moves.tick import ticked
from tasks.track import feedback, read, store
from tasks.track.settings import InboundSettings

log = structlog.get_logger()

BUDGET: Final = 10.0
"""Seconds that a doorbell works; the dispatcher rings while there is more."""


@shared_task(base=FleetTask, name=names.JUDGE)
def judge() -> dict[str, int]:
    """Make events of what the edge wrote down."""
    until = time.monotonic() + BUDGET
    people = machines = lost = 0
    while time.monotonic() < until:
        done = store.settle(database())
        people, machines = people + done.people, machines + done.machines
        lost += done.lost
        if not done.hits:
            break
    return {"people": people, "machines": machines, "lost": lost}


@shared_task(base=FleetTask, name=names.INBOUND)
def inbound() -> dict[str, int]:
    """Read what bounces and complaints came in, where a Maildir or a mailbox is named.

    One that cannot be read keeps the other from nothing; it is read at the next tick.
    """
    settings = InboundSettings()
    counts: dict[str, int] = {}
    for way in read.ways(settings):
        try:
            for word, n in read.read(database(), settings, way, budget=BUDGET).items():
                counts[word] = counts.get(word, 0) + n
        except DripfleetError as fault:
            log.error("inbound_not_read", way=way, why=str(fault))
            counts["faults"] = counts.get("faults", 0) + 1
    with database().transaction() as connection:
        if settled := feedback.settle_waiting(connection):
            counts["settled"] = settled
    with database().transaction() as connection:
        ticked(connection, names.INBOUND, **counts)
    return counts
