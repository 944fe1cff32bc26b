"""The demo's churn scores: trained on the customers that were brought in, by the churn pool.

Where that cannot be (the extra is not installed, too few customers) the demo says so and goes on:
a branch without a score takes its `on_stale` way.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from models.session import Database
from tasks import names
from tasks.base import ring
from tasks.churn import runs, store, trainings
from tasks.churn.settings import ChurnSettings
from workers.celery import build
from workers.cli.render import number
from workers.pools import pool_named
from workers.settings import RedisSettings
from workers.supervisor import Fleet

PATIENCE = 240.0
POLL = 0.2

Say = Callable[[str], None]


def make(database: Database, fleet: Fleet, say: Say) -> bool:
    """Train where there is no champion yet, and score everybody; whether there are scores."""
    pool = pool_named("churn")
    if pool.lacks_extra():
        say(
            f"churn: no scores, the extra {pool.extra} is not installed (pip install"
            f" dripfleet[{pool.extra}]); win-back takes its on_stale way"
        )
        return False
    redis = RedisSettings.model_validate({"redis_url": fleet.stack.redis_url})
    app = build(None, redis)
    try:
        with database.transaction() as connection:
            there = store.champion(connection, "churn") is not None
        return (there or _train(database, fleet, say)) and _score(database, fleet, say)
    finally:
        app.close()


def _train(database: Database, fleet: Fleet, say: Say) -> bool:
    with database.transaction() as connection:
        asked = trainings.ask(connection, "churn", {"promote": True})
    ring(names.CHURN_FIT, names.tick())

    def ended() -> bool:
        with database.transaction() as connection:
            return bool(trainings.look(connection, asked).state != "open")

    if not _wait(fleet, ended):
        say("churn: the training goes on without the demo; win-back takes its on_stale way")
        return False
    with database.transaction() as connection:
        found = trainings.look(connection, asked)
    if found.state == "failed":
        say(f"churn: no scores, {found.said}; win-back takes its on_stale way")
        return False
    say(f"churn: {found.artifact} {found.said}")
    return True


def _score(database: Database, fleet: Fleet, say: Say) -> bool:
    with database.transaction() as connection:
        artifact = store.champions(connection)["churn"]
        run, _ = runs.open_run(connection, "churn", artifact, ChurnSettings().range)
    ring(names.CHURN_RANGE, names.tick())

    def now() -> runs.Progress:
        with database.transaction() as connection:
            return runs.progress(connection, run)

    if not _wait(fleet, lambda: now().state != "open"):
        say("churn: the scoring goes on without the demo; whoever has no score yet goes on_stale")
        return False
    found = now()
    if found.state != "done":
        say(f"churn: no scores, {found.reason}; win-back takes its on_stale way")
        return False
    say(f"churn: {number(found.rows)} customers scored; win-back branches on score('churn')")
    return True


def _wait(fleet: Fleet, met: Callable[[], bool]) -> bool:
    until = time.monotonic() + PATIENCE
    while not met():
        if fleet.stopping.is_set() or time.monotonic() >= until:
            return False
        fleet.run(POLL)
    return True
