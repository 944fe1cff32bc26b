"""Scores made and written: a range of the book, or one subscriber; the same features, the same model.

A score carries the artifact that made it, and as its time the instant up to which events counted.
"""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import psycopg
import structlog
from numpy.typing import NDArray
from sqlalchemy import Connection, text

from models.session import Database
from tasks.churn import book, bulk, runs, store
from tasks.churn.artifact import answer, unpack
from tasks.churn.book import Rows
from tasks.churn.kinds import CLV, Kind, named
from tasks.errors import Permanent

log = structlog.get_logger()

KEPT: Final = 4  # models in memory
BATCH: Final = 500  # scores a transaction: whoever scores one of them alone waits for its end

# What is lost with the server is written again (`finish` waits for the disk); and whoever still
# exists is looked up in an index, however few of them the planner expects.
QUICKLY = "SET LOCAL synchronous_commit = off; SET LOCAL enable_seqscan = off"
# In the order of their ids, so that two ranges never wait for each other in a ring; who is gone by
# now gets none. A later score stays: an old run that wakes up takes nothing back.
WRITE = """
INSERT INTO score (name, subscriber_id, value, artifact, scored_at)
SELECT %(name)s, g.id, g.value, %(artifact)s, %(cutoff)s
FROM unnest(CAST(%(ids)s AS bigint[]), CAST(%(values)s AS float8[])) g (id, value)
WHERE EXISTS (SELECT FROM subscriber s WHERE s.id = g.id) ORDER BY g.id
ON CONFLICT (name, subscriber_id) DO UPDATE
SET value = excluded.value, artifact = excluded.artifact, scored_at = excluded.scored_at
WHERE score.scored_at <= excluded.scored_at
"""
# The newest first: who asks for one does not wait for a segment that was asked for before.
ASKED = text("""
DELETE FROM score_request r USING (
    SELECT q.name, q.subscriber_id FROM score_request q WHERE q.said IS NULL
    ORDER BY q.asked_at DESC LIMIT :n FOR UPDATE SKIP LOCKED) q
WHERE r.name = q.name AND r.subscriber_id = q.subscriber_id
RETURNING r.name, r.subscriber_id, clock_timestamp() AS now
""")
SAID = text("""
INSERT INTO score_request (name, subscriber_id, said) VALUES (:name, :id, :said)
ON CONFLICT (name, subscriber_id) DO UPDATE SET said = excluded.said
""")
_models: OrderedDict[str, tuple[Any, dict[str, Any]]] = OrderedDict()


def model_of(database: Database, artifact: str) -> tuple[Any, dict[str, Any]]:
    """A model and its manifest, looked at when it is first loaded, and kept.

    Raises:
        Refused: it is not sound.
        Permanent: there is none of that id.
    """
    if artifact not in _models:
        with database.transaction() as connection:
            found = store.load(connection, artifact)
        _models[artifact] = (unpack(found), found.manifest)
        while len(_models) > KEPT:
            _models.popitem(last=False)
    _models.move_to_end(artifact)
    return _models[artifact]


def rows_of(
    raw: psycopg.Connection[Any],
    kind: Kind,
    manifest: dict[str, Any],
    cutoff: dt.datetime,
    first: int,
    end: int,
) -> Rows:
    """A range as the model of `manifest` takes it."""
    if kind.name == CLV:
        return book.histories_of(raw, cutoff, first, end)
    return book.features_of(raw, kind, cutoff, first, end, manifest.get("plans", []))


def score_range(database: Database, mine: runs.Range) -> int | None:
    """Score a claimed range; scores written, or None: it is somebody else's by now.

    Raises:
        Refused: the artifact is not sound.
        SeesTheFuture: a feature knows what is after the cutoff.
    """
    model, manifest = model_of(database, mine.artifact)
    kind = named(mine.name)
    with book.reading(database) as raw:
        rows = rows_of(raw, kind, manifest, mine.cutoff, mine.first, mine.end)
        values = _values(model, rows)
    for at in range(0, len(values), BATCH):
        with database.transaction() as connection:
            if not runs.hold(connection, mine):
                log.info("score_range_lost", run=mine.run, first=mine.first)
                return None
            driver = _driver(connection)
            driver.execute(QUICKLY)
            batch = slice(at, at + BATCH)
            _write(driver, mine.name, mine.artifact, mine.cutoff, rows.ids[batch], values[batch])
    with database.transaction() as connection:
        if not runs.finish(connection, mine, len(values)):
            return None
    with database.transaction() as connection:
        runs.end_if_done(connection, mine.run)
    return len(values)


def work(database: Database, until: Callable[[], bool], lease: float = 300.0) -> dict[str, int]:
    """Score waiting ranges one after the other, until there are none or `until` says so.

    A fault gives its range back, and the third one fails its run; what is not sound fails at once.
    """
    told = {"ranges": 0, "rows": 0, "faults": 0}
    while not until():
        with database.transaction() as connection:
            mine = runs.claim(connection, lease)
        if mine is None:
            break
        try:
            rows = score_range(database, mine)
        except Permanent as fault:
            told["faults"] += 1
            log.error("score_run_failed", run=mine.run, why=str(fault))
            with database.transaction() as connection:
                runs.fail(connection, mine.run, str(fault))
            continue
        except Exception as fault:
            told["faults"] += 1
            log.exception("score_range_failed", run=mine.run, kind=type(fault).__name__)
            with database.transaction() as connection:
                runs.fault(connection, mine, f"{type(fault).__name__}: {fault}")
            continue
        if rows is not None:
            told["ranges"] += 1
            told["rows"] += rows
    return told


def answer_requests(database: Database, most: int = 10) -> int:
    """Score whoever was asked for; how many. A crash leaves the requests where they were."""
    with database.transaction() as connection:
        driver = _driver(connection)
        # A crash of the server takes the answer back together with the end of its request.
        driver.execute("SET LOCAL synchronous_commit = off")
        asked = connection.execute(ASKED, {"n": most}).all()
        for each in asked:
            said = _score_one(database, driver, each.name, each.subscriber_id, each.now)
            if said:
                values = {"name": each.name, "id": each.subscriber_id, "said": said}
                connection.execute(SAID, values)
    return len(asked)


def score_one(database: Database, name: str, subscriber: int) -> str | None:
    """Score one subscriber here and now; None, or why there is no score."""
    with database.transaction() as connection:
        now = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return _score_one(database, _driver(connection), name, subscriber, now)


def _score_one(
    database: Database, raw: psycopg.Connection[Any], name: str, subscriber: int, now: dt.datetime
) -> str | None:
    try:
        kind = named(name)
        with database.transaction() as connection:
            artifact = store.champion(connection, name)
        if artifact is None:
            return f"score {name!r} has no champion; `dripfleet churn train` makes one"
        model, manifest = model_of(database, artifact)
    except Permanent as fault:
        return str(fault)
    rows = rows_of(raw, kind, manifest, now, subscriber, subscriber + 1)
    if not len(rows.ids):
        return "never bought" if kind.bought else "no event"
    _write(raw, name, artifact, now, rows.ids, _values(model, rows))
    return None


def _values(model: Any, rows: Rows) -> NDArray[np.float64]:
    if not len(rows.ids):
        return np.empty(0)
    return np.asarray(answer(model, rows.table), dtype=np.float64)


def _write(
    raw: psycopg.Connection[Any],
    name: str,
    artifact: str,
    cutoff: dt.datetime,
    ids: NDArray[np.int64],
    values: NDArray[np.float64],
) -> None:
    finite = np.isfinite(values)
    raw.execute(
        WRITE,
        {
            "name": name,
            "artifact": artifact,
            "cutoff": cutoff,
            "ids": bulk.array(ids[finite]),
            "values": bulk.array(values[finite]),
        },
    )


def _driver(connection: Connection) -> psycopg.Connection[Any]:
    """The same transaction by psycopg, which takes arrays of numpy."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    bulk.understand(driver)
    return driver
