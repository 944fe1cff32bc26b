"""Beat: four static ticks and nothing else. A tick means "everything due", never "this one thing".

So two beats, a beat that was frozen, an emptied Redis and a lost tick cost nothing; and nothing
need be remembered from one start to the next.
"""

from __future__ import annotations

from typing import Any

from celery import Celery

from tasks import names
from workers.settings import FleetSettings


def ticks(settings: FleetSettings) -> dict[str, dict[str, Any]]:
    """The schedule; what piled up while a pool was away is answered in seconds, and changes nothing."""
    periods = {
        names.SCAN: settings.scan_every,
        names.DISPATCH: settings.dispatch_every,
        names.REAP: settings.reap_every,
        names.RESOLVE: settings.resolve_every,
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


def run(app: Celery) -> None:
    """Tick until SIGTERM."""
    # The plain scheduler keeps no file: a tick that is remembered is a tick that is rung late.
    app.Beat(loglevel="INFO", scheduler_cls="celery.beat:Scheduler", quiet=True).run()
