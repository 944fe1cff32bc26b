"""The personalize pool's entry point: batches whose time it is, and texts that are wanted, until none is."""

from __future__ import annotations

import time
from functools import cache
from typing import Final

from celery import shared_task

from tasks import names
from tasks.base import FleetTask, database, ring
from tasks.personalize.batches import Batches
from tasks.personalize.settings import ModelSettings
from tasks.personalize.work import Writer

BUDGET: Final = 30.0  # seconds that a doorbell works; the next one goes on


@cache
def writer() -> Writer:
    """The writer of this process."""
    return Writer(database(), ModelSettings())


@cache
def batches() -> Batches:
    """Who moves batches on, of this process."""
    return Batches(database(), ModelSettings())


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
