"""Words yield to sends: while mails wait, texts are made in a small share of a worker's time.

On a machine that both stand on, and in the one Postgres, a text costs as much as a mail. A mail that is
due comes first; texts are made ahead of their mails, and have time. What counts is work of our own: a
transaction, and the processor's time of a call. Waiting for a model's answer costs a send nothing, so a
model that takes seconds is asked as ever, and the soonest needed texts are the ones that are made.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog
from sqlalchemy import Connection, text

from models.session import Database
from tasks.personalize.settings import ModelSettings

LOOK: Final = 0.5
"""Seconds between two looks at the mails, over all threads of a process."""
HOLD: Final = 3.0
"""Seconds for which words still yield after the last look that found mails waiting."""
BURST: Final = 8
"""Texts that are taken at once meanwhile."""
OWED: Final = 5.0
"""Seconds of rest that are owed at most: one slow moment is no reason to write nothing for a minute."""
NOTE: Final = 2.0

log = structlog.get_logger()

# Mails wait where the oldest due one of a stream was not taken yet, and others are under way: where
# none is, no send worker runs or its relay lets nobody in, and words would yield to nobody. Each is
# one entry of an index; what a pause has parked stands at its end.
WAITS = text("""
SELECT EXISTS (
    SELECT FROM stream t
    WHERE t.paused_at IS NULL AND (
        SELECT m.run_at FROM message m
        WHERE m.stream = t.key AND m.run_at IS NOT NULL ORDER BY m.run_at LIMIT 1)
      <= (SELECT clock_timestamp() - make_interval(secs => :after)))
AND EXISTS (
    SELECT FROM (SELECT m.state FROM message m
                 WHERE m.watch_at IS NOT NULL ORDER BY m.watch_at LIMIT 1000) x
    WHERE x.state IN ('working', 'armed'))
""")
NOTED = text("""
INSERT INTO word_yield AS y (one, since, seen_at) VALUES (true, clock_timestamp(), clock_timestamp())
ON CONFLICT (one) DO UPDATE SET seen_at = clock_timestamp(),
    since = CASE WHEN y.seen_at > clock_timestamp() - interval '10 seconds'
                 THEN y.since ELSE clock_timestamp() END
""")
SINCE = text("""
SELECT clock_timestamp() - y.since FROM word_yield y
WHERE y.seen_at > clock_timestamp() - interval '10 seconds'
""")


class Pace:
    """How fast texts are made; one a process, called from many threads.

    Args:
        database: where mails wait.
        settings: the share of time, and when a mail waits.
        clock: seconds.
        pause: waits for so many seconds.
    """

    def __init__(
        self,
        database: Database,
        settings: ModelSettings,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._database = database
        self._share = settings.yield_share
        self._after = settings.yield_after
        self._clock = clock
        self._pause = pause
        self._lock = threading.Lock()
        self._look_at = self._note_at = self._free_at = self._until = float("-inf")

    @property
    def yields(self) -> bool:
        """Whether mails waited at the last looks."""
        return self._clock() < self._until

    def most(self, n: int) -> int:
        """How many texts may be taken at once, of the `n` that would be."""
        return min(n, BURST) if self.yields else n

    def worked(self, seconds: float) -> None:
        """Count so much work of our own; meanwhile it is followed by a rest of its share."""
        now = self._clock()
        if now < self._until:
            with self._lock:
                owed = max(self._free_at, now) + seconds * (1 / self._share - 1)
                self._free_at = min(owed, now + OWED)

    def rest(self, over: Callable[[], bool], most: float = float("inf")) -> bool:
        """Wait until the next texts may be made: not at all while no mail waits.

        Args:
            over: ends it; asked only where there is a wait.
            most: seconds that it takes at most.

        Returns:
            False where `over` did.
        """
        end = self._clock() + most
        while True:
            self._look()
            now = self._clock()
            if not now < min(self._until, self._free_at, end):
                return True
            self._note()
            if over():
                return False
            self._pause(min(self._free_at - now, end - now, LOOK))

    def _look(self) -> None:
        if self._share >= 1:
            return
        with self._lock:
            now = self._clock()
            if now < self._look_at:
                return
            self._look_at = now + LOOK
        with self._database.transaction() as connection:
            waits = connection.execute(WAITS, {"after": self._after}).scalar_one()
        if waits:
            if not self.yields:
                log.info("words_yield", share=self._share, why="mails that are due wait")
                self._free_at = now
            self._until = now + HOLD

    def _note(self) -> None:
        with self._lock:
            now = self._clock()
            if now < self._note_at:
                return
            self._note_at = now + NOTE
        with self._database.transaction() as connection:
            connection.execute(NOTED)


def yielding(connection: Connection) -> dt.timedelta | None:
    """For how long words have been yielding to sends, over all workers; None: they do not."""
    return connection.execute(SINCE).scalar_one_or_none()
