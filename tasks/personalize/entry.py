"""The personalize pool's entry point: texts that are wanted, until none is."""

from __future__ import annotations

import time
from functools import cache
from typing import Final

from celery import shared_task

from tasks import names
from tasks.base import FleetTask, database, ring
from tasks.personalize.settings import ModelSettings
from tasks.personalize.work import Writer

BUDGET: Final = 30.0  # seconds that a doorbell works; the next one goes on


@cache
def writer() -> Writer:
    """The writer of this process."""
    return Writer(database(), ModelSettings())


@shared_task(base=FleetTask, name=names.WRITE)
def write() -> dict[str, int]:
    """Make wanted texts, for as long as a doorbell may take."""
    until = time.monotonic() + BUDGET
    told = writer().work(lambda: time.monotonic() >= until)
    if time.monotonic() >= until:
        ring(names.WRITE, names.tick())
    return told
