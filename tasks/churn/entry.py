"""The churn pool's entry points: train, score the book, score one, look for drift.

None of them imports pandas or scikit-learn before it is called, and then in a child of the worker:
a model that was fitted or asked in the parent leaves a forked child waiting for OpenMP for ever.
"""

from __future__ import annotations

import time
from functools import cache
from importlib.util import find_spec
from typing import Any, Final

import structlog
from celery import current_app, group, shared_task
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from tasks import names
from tasks.base import FleetTask, database, ring
from tasks.churn.lanes import Lanes
from tasks.churn.settings import ChurnSettings
from tasks.churn.uplift_name import is_uplift
from tasks.errors import Misconfigured, Permanent

log = structlog.get_logger()

BUDGET: Final = 60.0  # seconds that a doorbell works on ranges; the next one goes on
DOORBELLS: Final = 16  # at most for one run; who answers works on until nothing is left

_lanes = Lanes()  # before the fork


@cache
def settings() -> ChurnSettings:
    """The settings of this process."""
    return ChurnSettings()


def require_extra() -> None:
    """Refuse work that needs what is not installed.

    Raises:
        Misconfigured: names the extra.
    """
    if find_spec("skops") is None:
        raise Misconfigured(
            "scores need the extra `ml`, which is not installed here: pip install dripfleet[ml]"
        )


@shared_task(base=FleetTask, name=names.CHURN_SCORE)
def score() -> dict[str, int]:
    """Open a run of every score that has a champion, or go on with the one that is open."""
    require_extra()
    from tasks.churn import runs, store

    with database().transaction() as connection:
        champions = store.champions(connection)
    if not champions:
        log.warning("no_champion", next="dripfleet churn train")
    for name, artifact in champions.items():
        with database().transaction() as connection:
            runs.open_run(connection, name, artifact, settings().range)
    return {"runs": len(champions), "rung": ring_ranges()}


# Untyped, since a canvas would else be refused here: `v` is no argument of the function.
@shared_task(base=FleetTask, name=names.CHURN_RANGE, typing=False)
def score_ranges() -> dict[str, int]:
    """Score waiting ranges for a minute; ring again if that was not enough."""
    require_extra()
    with _lanes.take(_children()) as free:
        if not free:
            return {"busy": 1}
        from tasks.churn import runs, scoring

        until = time.monotonic() + BUDGET
        told = scoring.work(database(), lambda: time.monotonic() >= until, settings().lease)
        with database().transaction() as connection:
            left = runs.waiting(connection)
    if left:
        ring(names.CHURN_RANGE, names.tick())
    return told


@shared_task(base=FleetTask, name=names.CHURN_ONE)
def score_one() -> dict[str, int]:
    """Score whoever was asked for; its queue holds nothing else."""
    require_extra()
    from tasks.churn import scoring

    answered = scoring.answer_requests(database())
    if answered > 1:
        ring(names.CHURN_ONE, names.tick())
    return {"answered": answered}


@shared_task(base=FleetTask, name=names.CHURN_TRAIN)
def train() -> dict[str, int]:
    """Ask for a training of every score that has a champion; what a schedule starts."""
    from tasks.churn import trainings

    with database().transaction() as connection:
        asked = trainings.ask_all(connection)
    if asked:
        ring(names.CHURN_FIT, names.tick())
    return {"asked": asked}


@shared_task(base=FleetTask, name=names.CHURN_FIT)
def fit() -> dict[str, int]:
    """Do one training that was asked for; ring for the next."""
    require_extra()
    with _lanes.take(_children()) as free:
        if not free:
            return {"busy": 1}
        from tasks.churn import trainings

        told = trainings.work(database(), settings())
    if told["trained"]:
        ring(names.CHURN_FIT, names.tick())
    return told


@shared_task(base=FleetTask, name=names.CHURN_DRIFT)
def drift() -> dict[str, int]:
    """Hold the subscribers of now against those that each champion was tested on."""
    require_extra()
    with _lanes.take(_children()) as free:
        if not free:
            return {"busy": 1}
        from tasks.churn import store, watch

        with database().transaction() as connection:
            champions = store.champions(connection)
        told: dict[str, int] = {}
        for name in champions:
            if is_uplift(name):
                continue  # learned from who came in, who are not the book; trained anew instead
            try:
                told[name] = sum(each.drifted for each in watch.look(database(), name).features)
            except Permanent as fault:
                log.error("drift_not_looked_for", score=name, why=str(fault))
    return told


def ring_ranges() -> int:
    """Ring for every waiting range, a canvas of doorbells; how many."""
    from tasks.churn import runs

    with database().transaction() as connection:
        n = min(runs.waiting(connection), DOORBELLS)
    bell: Any = current_app.signature(
        names.CHURN_RANGE, kwargs=dict(names.tick()), expires=names.LIFE
    )
    try:
        if n:
            group([bell.clone() for _ in range(n)]).apply_async()
    except (OperationalError, RedisError, OSError) as fault:
        # The dispatcher rings for what nobody works on.
        log.warning("doorbell_lost", doorbell=names.CHURN_RANGE, kind=type(fault).__name__)
        return 0
    return n


def _children() -> int:
    return int(current_app.conf.worker_concurrency or 1)
