"""The entry point of clicks and opens, in the upkeep pool: hits whose seconds are over."""

from __future__ import annotations

import time
from typing import Final

from celery import shared_task

from tasks import names
from tasks.base import FleetTask, database
from tasks.track import store

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
