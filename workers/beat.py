"""Beat: five static ticks and nothing else. A tick means "everything due", never "this one thing".

So two beats, a beat that was frozen, an emptied Redis and a lost tick cost nothing; and nothing
need be remembered from one start to the next.
"""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

import structlog
from celery import Celery
from celery.beat import ScheduleEntry, Scheduler, SchedulingError, Service

from tasks import names
from workers.settings import FleetSettings

log = structlog.get_logger()


def ticks(settings: FleetSettings) -> dict[str, dict[str, Any]]:
    """The schedule; what piled up while a pool was away is answered in seconds, and changes nothing."""
    periods = {
        names.SCAN: settings.scan_every,
        names.DISPATCH: settings.dispatch_every,
        names.REAP: settings.reap_every,
        names.RESOLVE: settings.resolve_every,
        names.INBOUND: settings.inbound_every,
    }
    return {
        name: {
            "task": name,
            "schedule": period,
            "kwargs": names.tick(),
            "options": {"expires": names.LIFE},
        }
        for name, period in periods.items()
    }


class Ticker(Scheduler):
    """Celery's plain scheduler, which keeps no file: a tick that is remembered is one rung late.

    A broker that is gone is said once, and once that it is back; Celery would say it with two
    tracebacks at each tick.
    """

    _lost_since: float | None = None

    def apply_entry(self, entry: ScheduleEntry, producer: Any = None) -> None:
        """Ring one tick; one that is lost is rung again at its next time."""
        try:
            self.apply_async(entry, producer=producer, advance=False)
        except SchedulingError as fault:
            if self._lost_since is None:
                self._lost_since = time.monotonic()
                cause = type(fault.__cause__ or fault.__context__ or fault).__name__
                log.error("ticks_lost", kind=cause, next="start Redis; the rows stay due")
        else:
            if self._lost_since is not None:
                seconds = round(time.monotonic() - self._lost_since, 1)
                log.warning("ticks_again", lost_for=seconds)
                self._lost_since = None


def run(app: Celery) -> None:
    """Tick until SIGTERM."""
    from celery.apps.beat import Beat

    class Ending(Beat):
        def install_sync_handler(self, service: Service) -> None:
            def end(signum: int, frame: FrameType | None) -> None:
                # As an exception alone it could be raised where Python swallows it, inside a
                # finalizer say, and beat would tick on.
                service._is_shutdown.set()  # type: ignore[attr-defined]
                raise SystemExit

            for each in (signal.SIGTERM, signal.SIGINT):
                signal.signal(each, end)

    Ending(app=app, loglevel="INFO", scheduler_cls=f"{__name__}:Ticker", quiet=True).run()
