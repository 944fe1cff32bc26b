"""The upkeep pool's entry points: the reaper and the resolver, each answering a tick."""

from __future__ import annotations

import time

import structlog
from celery import shared_task
from sqlalchemy.exc import OperationalError

from tasks import names
from tasks.base import FleetTask, database
from tasks.crashpoint import reached
from tasks.moves import doubt, quarantine
from tasks.moves.settings import DeliverySettings
from tasks.moves.tick import ticked
from tasks.upkeep import old_words
from tasks.upkeep import reap as work

log = structlog.get_logger()

HOUSE_EVERY = 600.0
_house_kept = -HOUSE_EVERY


@shared_task(base=FleetTask, name=names.REAP)
def reap() -> dict[str, int]:
    """Bring back what nobody holds any more."""
    global _house_kept
    counts = work.reap(database(), DeliverySettings())
    if time.monotonic() - _house_kept >= HOUSE_EVERY:
        _house_kept = time.monotonic()
        try:
            work.keep_house(database())
            if gone := old_words.prune(database(), old_words.OldWordsSettings()):
                log.info("old_words_gone", texts=gone)
        except OperationalError as error:  # a lock that was not to be had: the next time will do
            log.warning("house_not_kept", error=str(error.orig).partition("\n")[0])
    with database().transaction() as connection:
        ticked(connection, names.REAP, **counts)
    return counts


@shared_task(base=FleetTask, name=names.RESOLVE)
def resolve() -> dict[str, int]:
    """Settle doubts whose hold is over, by their stream's policy."""
    counts: dict[str, int] = {}
    while True:
        with database().transaction() as connection:
            settled = doubt.resolve(connection, work.BATCH)
            if settled:
                reached("resolve.moved")
        if settled:
            reached("resolve.committed")
        for state, n in settled.items():
            counts[state] = counts.get(state, 0) + n
        if sum(settled.values()) < work.BATCH:
            break
    if evident := quarantine.settle_evident(database()):
        counts["sent"] = counts.get("sent", 0) + evident
    with database().transaction() as connection:
        ticked(connection, names.RESOLVE, **counts)
    return counts
