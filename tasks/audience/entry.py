"""The audience's entry points, in the upkeep pool: segments that are due, events from producers."""

from __future__ import annotations

import time
from functools import cache
from typing import Any, Final

import structlog
from celery import shared_task
from celery.exceptions import Reject
from sqlalchemy.exc import DataError, SQLAlchemyError

from tasks import names
from tasks.audience import segment_refresh, track
from tasks.audience.settings import load
from tasks.audience.store import check_secret
from tasks.base import FleetTask, database
from tasks.errors import Misconfigured

log = structlog.get_logger()

BUDGET: Final = 10.0
"""Seconds that a doorbell works on segments; the dispatcher rings while there is more."""
PUT_BACK_AFTER: Final = 2.0
"""Seconds until events that could not be written go back into their queue."""


@shared_task(base=FleetTask, name=names.NAMED_SEGMENTS)
def evaluate_segments() -> dict[str, int]:
    """Evaluate whom events have touched, then every segment that is due."""
    until = time.monotonic() + BUDGET
    touches = refreshed = joined = left = 0
    while time.monotonic() < until:
        worked = segment_refresh.work_touches(database())
        touches += worked
        done = segment_refresh.refresh(database())
        if done is not None:
            refreshed, joined, left = refreshed + 1, joined + done.joined, left + done.left
        elif not worked:
            break
    return {"touches": touches, "refreshed": refreshed, "joined": joined, "left": left}


@cache
def secret() -> bytes:
    """The key of this process's identities, once it was found to be the database's."""
    key = load().key
    with database().transaction() as connection:
        check_secret(connection, key)
    return key


class Producer(FleetTask):
    """A task that others send: a payload of another version is refused on record, not dropped."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As `FleetTask`; what is no payload of ours comes as `unknown`."""
        if args or kwargs.get("v", names.VERSION) != names.VERSION:
            kwargs = {"unknown": {"args": list(args), **kwargs}}
        return super().__call__(**{**kwargs, "v": names.VERSION})


# Untyped: whatever a producer sends is judged by `track`, and kept with the reason.
@shared_task(base=Producer, name=names.TRACK, typing=False)
def record(**payload: Any) -> dict[str, int]:
    """Record what subscribers did; see `tasks.audience.track` for what is promised."""
    try:
        key = secret()
        try:
            return track.record(database(), key, payload)
        except DataError as fault:  # what no check of ours foresaw comes back the same each time
            kind = type(fault.orig).__name__
            with database().transaction() as connection:
                said = {"unreadable": str(payload)[:10_000]}
                track.refuse(connection, "", said, f"Postgres cannot hold it ({kind})")
            return {"new": 0, "known": 0, "refused": 1}
    except (SQLAlchemyError, Misconfigured) as fault:
        # Acknowledged it would be lost: back it goes, slowly, until Postgres or the secret is there.
        why = str(fault) if isinstance(fault, Misconfigured) else None
        log.warning("events_put_back", kind=type(fault).__name__, why=why)
        time.sleep(PUT_BACK_AFTER)
        raise Reject(type(fault).__name__, requeue=True) from None
