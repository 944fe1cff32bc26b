"""Moves batches on in children that die: a process of its own, for tests of what they leave behind.

    python -m tests.live.killed_batches DATABASE_URL POINT …

For each POINT a child begins and kills itself where it stands; a line each says by which signal. Settings
are those of the environment. A batch whose holder died is free at once: its lease is ended here.
"""

from __future__ import annotations

import os
import signal
import sys

import openai
import structlog

from models.session import Database
from tasks import crashpoint
from tasks.personalize import batches
from tasks.personalize.batches import Batches
from tasks.personalize.settings import ModelSettings


def die_at(point: str, url: str) -> None:
    def hook(reached: str) -> None:
        if reached == point:
            os.kill(os.getpid(), signal.SIGKILL)

    crashpoint.hook = hook
    Batches(Database(url), ModelSettings()).work()


def main(url: str, points: list[str]) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    vars(batches)["CHUNK"] = 7  # so that answers are taken in by more than one transaction
    assert openai  # imported once, and not by each child
    for point in points:
        child = os.fork()  # one thread, nothing open
        if child == 0:
            die_at(point, url)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.WTERMSIG(status)}\n")
        connection = Database(url).raw()
        connection.execute("UPDATE word_batch SET lease_until = NULL, look_at = '-infinity'")
        connection.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
