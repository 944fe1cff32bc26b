"""A fleet as processes on servers of its own: what its tests stand on, and how they wait for it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from models.migrate import migrate
from models.session import Database
from workers.embedded.stack import Stack
from workers.supervisor import Fleet


@contextmanager
def servers(**variables: str) -> Iterator[Stack]:
    """Embedded servers in a home of their own, migrated; `DRIPFLEET_` variables beyond the defaults."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("DRIPFLEET_")}
    with tempfile.TemporaryDirectory(prefix="df") as folder:
        own = {f"DRIPFLEET_{name}": value for name, value in variables.items()}
        with Stack(environ={**plain, **own, "DRIPFLEET_HOME": folder}) as stack:
            database = Database(stack.database_url)
            migrate(database)
            database.close()
            yield stack


@contextmanager
def running(fleet: Fleet) -> Iterator[Fleet]:
    """Its processes, all answering; ended at once."""
    try:
        fleet.start()
        fleet.wait_ready(60)
        yield fleet
    finally:
        fleet.hurry()
        fleet.stop()


def until(
    met: Callable[[], bool], what: str, fleet: Fleet | None = None, seconds: float = 30
) -> None:
    """Poll, with the supervisor at work, until the condition is met."""
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        if fleet is not None:
            fleet.poll()
        time.sleep(0.03)
