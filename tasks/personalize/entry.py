"""The personalize pool's entry points: batches whose time it is, wanted texts, and work on content."""

from __future__ import annotations

import time
from functools import cache
from typing import Final

from celery import shared_task

from tasks import names
from tasks.base import FleetTask, database, ring
from tasks.personalize.batches import Batches
from tasks.personalize.desk import Desk
from tasks.personalize.pace import Pace
from tasks.personalize.settings import ModelSettings
from tasks.personalize.work import Writer

BUDGET: Final = 30.0  # seconds that a doorbell works; the next one goes on


@cache
def pace() -> Pace:
    """How fast this process makes texts."""
    return Pace(database(), ModelSettings())


@cache
def writer() -> Writer:
    """The writer of this process."""
    return Writer(database(), ModelSettings(), pace=pace())


@cache
def batches() -> Batches:
    """Who moves batches on, of this process."""
    return Batches(database(), ModelSettings(), pace=pace())


@shared_task(base=FleetTask, name=names.WRITE)
def write() -> dict[str, int]:
    """Move batches on and make wanted texts, for as long as a doorbell may take."""
    until = time.monotonic() + BUDGET

    def over() -> bool:
        return time.monotonic() >= until

    moves = batches().work(over)
    told = writer().work(over)
    if over():
        ring(names.WRITE, names.tick())
    return told | {"batches": moves}


@cache
def desk() -> Desk:
    """The desk of this process."""
    return Desk(database(), ModelSettings())


@shared_task(base=FleetTask, name=names.CONTENT_DRAFT)
def draft() -> dict[str, int]:
    """Draft the sequences that were asked for."""
    return _content(names.CONTENT_DRAFT)


@shared_task(base=FleetTask, name=names.CONTENT_SUBJECT_LINES)
def subject_lines() -> dict[str, int]:
    """Write the subject lines that were asked for."""
    return _content(names.CONTENT_SUBJECT_LINES)


@shared_task(base=FleetTask, name=names.CONTENT_REVIEW)
def review() -> dict[str, int]:
    """Look over the mails that were given."""
    return _content(names.CONTENT_REVIEW)


@shared_task(base=FleetTask, name=names.CONTENT_COMPARE)
def compare() -> dict[str, int]:
    """Put somebody else's mails beside ours."""
    return _content(names.CONTENT_COMPARE)


def _content(task: str) -> dict[str, int]:
    until = time.monotonic() + BUDGET
    told = desk().work(task, lambda: time.monotonic() >= until)
    if time.monotonic() >= until:
        ring(task, names.tick())
    return told
