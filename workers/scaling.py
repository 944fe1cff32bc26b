"""`up --autoscale`: look at how late queues are, and size their crews by it.

The look has a thread of its own: a Postgres that hangs must not keep the supervisor from its
processes. What is not known for a while changes nothing.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue

from sqlalchemy.exc import SQLAlchemyError

from models.session import Database
from tasks import names
from tasks.sequence.outlook import span
from tasks.upkeep import checks
from tasks.upkeep.lateness import oldest_due
from workers.autoscale import AutoscaleSettings, Bounds, Scaler
from workers.crew import Crew

Ages = dict[str, float | None]


class Autoscaler:
    """Sizes crews; `step` is called by the supervisor, which alone touches its processes.

    Args:
        bounds: which queues, and how far.
        crews: of all queues.
        database: asked for ages.
        settings: when.
        say: told each change in one line, and why.
    """

    def __init__(
        self,
        bounds: Sequence[Bounds],
        crews: Mapping[str, Crew],
        database: Callable[[], Database],
        settings: AutoscaleSettings,
        say: Callable[[str], None],
    ) -> None:
        self._scalers = [Scaler(each, settings) for each in bounds]
        self._crews = crews
        self._open = database
        self._settings = settings
        self._say = say
        self._looks: SimpleQueue[Ages] = SimpleQueue()
        self._stop = threading.Event()
        self._at_most: set[str] = set()
        self._thread = threading.Thread(target=self._look, name="autoscale", daemon=True)

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()

    def step(self) -> None:
        """Size the crews by the newest look, if there is one."""
        ages: Ages | None = None
        while True:
            try:
                ages = self._looks.get_nowait()
            except Empty:
                break
        if ages is None or self._stop.is_set():
            return
        for scaler in self._scalers:
            self._size(scaler, ages.get(scaler.bounds.queue))

    def _size(self, scaler: Scaler, age: float | None) -> None:
        crew = self._crews[scaler.bounds.queue]
        before = crew.size
        after = scaler.decide(time.monotonic(), age, before)
        changed = crew.resize(after)
        target = _words(self._settings.target_age)
        row = "mail" if names.place_of(crew.queue)[0] == "send" else "enrollment"
        head = f"{crew.queue}: {before} → {after} workers"
        if after > before:
            self._say(f"{head}: the oldest due {row} waits {_words(age)}, target {target}")
        elif after < before:
            window = _words(self._settings.scale_down_stabilization_seconds)
            self._say(
                f"{head}: for {window} fewer would have kept every due {row} within {target};"
                f" {', '.join(changed)} drains"
            )
        self._tell_limit(scaler.bounds, age, after, row)

    def _tell_limit(self, bounds: Bounds, age: float | None, size: int, row: str) -> None:
        """Once, until it is over: all that it may have, and still late."""
        late = age is not None and age > 2 * self._settings.target_age
        if late and size == bounds.max_replicas and bounds.queue not in self._at_most:
            self._at_most.add(bounds.queue)
            self._say(
                f"{bounds.queue}: has its most, {size} workers, and the oldest due {row} waits"
                f" {_words(age)}; `dripfleet status` says whether more would help"
            )
        elif age is not None and age <= self._settings.target_age:
            self._at_most.discard(bounds.queue)

    def _look(self) -> None:
        database = self._open()
        try:
            while not self._stop.wait(self._settings.polling_interval):
                ages: Ages = {}
                try:
                    with database.transaction() as connection:
                        checks.bound(connection)
                        for scaler in self._scalers:
                            queue = scaler.bounds.queue
                            ages[queue] = oldest_due(connection, queue)
                except SQLAlchemyError:  # doctor and the supervisor say so
                    ages = {}
                self._looks.put(ages)
        finally:
            database.close()


def _words(seconds: float | None) -> str:
    return span(dt.timedelta(seconds=seconds or 0))
