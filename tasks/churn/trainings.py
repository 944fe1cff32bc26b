"""Trainings as rows: asked for, held under a lease while they run, and how they ended."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import Any, Final

import structlog
from sqlalchemy import Connection, text

from models.session import Database
from tasks.churn import store
from tasks.churn.settings import ChurnSettings
from tasks.churn.uplift_name import is_uplift
from tasks.errors import Permanent

log = structlog.get_logger()

LEASE: Final = dt.timedelta(minutes=35)  # beyond the hard limit of the pool
MOST: Final = 3  # times that a training is begun; one that kills its worker ends there

ASK = text("""
INSERT INTO score_training (name, options) VALUES (:name, CAST(:options AS jsonb)) RETURNING id
""")
CLAIM = text("""
WITH next AS MATERIALIZED (
    SELECT t.id FROM score_training t
    WHERE t.state = 'open' AND (t.lease_until IS NULL OR t.lease_until <= clock_timestamp())
    ORDER BY t.id LIMIT 1 FOR UPDATE SKIP LOCKED)
UPDATE score_training t SET epoch = t.epoch + 1, lease_until = clock_timestamp() + CAST(:lease AS interval)
FROM next WHERE t.id = next.id RETURNING t.id, t.name, t.options, t.epoch
""")
END = text("""
UPDATE score_training SET state = :state, artifact = :artifact, said = :said, lease_until = NULL,
    ended_at = clock_timestamp()
WHERE id = :id AND epoch = :epoch AND state = 'open'
""")
LOOK = text(
    "SELECT t.id, t.name, t.state, t.artifact, t.said FROM score_training t WHERE t.id = :id"
)
OPEN = text("SELECT t.id FROM score_training t WHERE t.name = :name AND t.state = 'open'")


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of a training: the artifact, the verdict in words, and whether it is champion now."""

    artifact: str
    said: str
    promoted: bool
    manifest: dict[str, Any]


def ask(connection: Connection, name: str, options: dict[str, Any]) -> int:
    """Ask for a training; its id. Ring `churn.fit` after the commit."""
    values = {"name": name, "options": json.dumps(options)}
    return int(connection.execute(ASK, values).scalar_one())


def ask_all(connection: Connection) -> int:
    """Ask for a training of every score that has a champion and none under way; how many.

    And of every uplift that was ever trained: one that showed no gain may by now, or no longer.
    """
    asked = 0
    for name in dict.fromkeys([*store.champions(connection), *store.uplifts(connection)]):
        if connection.execute(OPEN, {"name": name}).first() is None:
            ask(connection, name, {})
            asked += 1
    return asked


def look(connection: Connection, id: int) -> Any:
    """How a training stands: state, artifact, said."""
    return connection.execute(LOOK, {"id": id}).one()


def work(database: Database, settings: ChurnSettings) -> dict[str, int]:
    """Do the oldest training that nobody does; one a call, since it is long."""
    with database.transaction() as connection:
        mine = connection.execute(CLAIM, {"lease": LEASE}).one_or_none()
    if mine is None:
        return {"trained": 0}
    state, artifact = "failed", None
    try:
        if mine.epoch > MOST:
            raise Permanent(f"begun {MOST} times and never ended; see the log of the churn pool")
        ended = train(database, mine.name, mine.options, settings)
        state, artifact, said = "done", ended.artifact, ended.said
    except Permanent as fault:
        said = str(fault)
        log.error("training_failed", score=mine.name, why=said)
    except Exception as fault:
        said = f"{type(fault).__name__}: {fault}"
        log.exception("training_failed", score=mine.name, kind=type(fault).__name__)
    with database.transaction() as connection:
        connection.execute(
            END,
            {
                "id": mine.id,
                "epoch": mine.epoch,
                "state": state,
                "artifact": artifact,
                "said": said,
            },
        )
    return {"trained": int(state == "done")}


def train(
    database: Database,
    name: str,
    options: dict[str, Any],
    settings: ChurnSettings,
    say: Any = lambda text: None,
) -> Ended:
    """Train a score, and promote it where the rule or the operator says so.

    Args:
        database: the book.
        name: of the score.
        options: horizon_days, kinds, seed as `training.Options` has them; promote: the operator's
            word that it becomes champion whatever the rule says, or (False) that it does not.
        settings: the pool's.
        say: told how far it is.

    Raises:
        TooLittle: the history has nothing to learn from; the champion stays.
    """
    if is_uplift(name):
        from tasks.churn import uplift_training

        return uplift_training.train(database, name, options, settings, say)
    from tasks.churn import training
    from tasks.churn.kinds import CHURN

    asked = dict(options)
    word = asked.pop("promote", None)
    if name == CHURN:
        asked.setdefault("horizon_days", settings.horizon)
    if "kinds" in asked:
        asked["kinds"] = tuple(asked["kinds"])
    trained = training.train(
        database, name, training.Options(**{"most": settings.sample} | asked), say=say
    )
    verdict = trained.verdict
    promoted = verdict.promote if word is None else bool(word)
    why = verdict.why if word is None else f"the operator's word; by the rule: {verdict.why}"
    if promoted:
        with database.transaction() as connection:
            store.promote(connection, trained.artifact.id, why)
    said = f"{'promoted' if promoted else 'not promoted'}: {why}"
    log.info("trained", score=name, artifact=trained.artifact.id, promoted=promoted, why=why)
    return Ended(trained.artifact.id, said, promoted, trained.artifact.manifest)
