"""The quantum pool's entry points: doorbells for runs that wait, and one for the clock.

What computes is imported when the first run is there: a pool that waits holds neither numba nor cirq.
"""

from __future__ import annotations

from typing import Final

from celery import shared_task

from tasks import names
from tasks.base import FleetTask, database
from tasks.errors import Misconfigured
from tasks.quantum import store
from tasks.quantum.request import this_hour

BUDGET: Final = 1200.0
NOISY_SOFT: Final = 3000
NOISY_HARD: Final = 3300


@shared_task(base=FleetTask, name=names.SEGMENT)
def segment() -> dict[str, int]:
    """Ask for every segment anew, as it was asked for last; a cron line may start it."""
    with database().transaction() as connection:
        made = store.ask_again(connection, this_hour(store.now(connection)))
    return {"asked": len(made)}


@shared_task(base=FleetTask, name=names.CORESET)
def coreset() -> dict[str, int]:
    """Stage 1 of the runs that wait for it: a few points in place of everybody."""
    return _work(("coreset",), noisy=False)


@shared_task(base=FleetTask, name=names.CUT)
def cut() -> dict[str, int]:
    """Stages 2 to 4 of the runs on ideal simulators."""
    return _work(("cut", "assign", "judge"), noisy=False)


@shared_task(
    base=FleetTask, name=names.CUT_NOISY, soft_time_limit=NOISY_SOFT, time_limit=NOISY_HARD
)
def cut_noisy() -> dict[str, int]:
    """The same for noisy simulators and hardware: a queue and limits of their own."""
    return _work(("cut", "assign", "judge"), noisy=True)


def _work(stages: tuple[str, ...], *, noisy: bool) -> dict[str, int]:
    try:
        from tasks.quantum import runs
    except ModuleNotFoundError as missing:
        why = (
            f"{missing.name} is not installed where the quantum pool runs:"
            " pip install 'dripfleet[quantum]' there"
        )
        with database().transaction() as connection:
            store.turn_away(connection, stages, noisy=noisy, why=why)
        raise Misconfigured(why) from missing
    return runs.work(database(), stages, noisy=noisy, budget=BUDGET)
