"""Artifacts in Postgres, and the one of each score that is used: promoted and rolled back as one.

A champion changes in one transaction, after the artifact was read back from the database and found
sound: whoever scores meanwhile sees the old one or the new one.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from tasks.churn.artifact import Artifact, unpack
from tasks.churn.uplift_name import PREFIX, is_uplift, no_gain
from tasks.errors import Permanent

SAVE = text("""
INSERT INTO score_artifact (id, name, data, manifest)
VALUES (:id, :name, :data, CAST(:manifest AS jsonb)) ON CONFLICT (id) DO NOTHING
""")
LOAD = text("SELECT a.id, a.name, a.data, a.manifest FROM score_artifact a WHERE a.id = :id")
CHAMPION = text("SELECT c.artifact FROM score_champion c WHERE c.name = :name")
CHAMPIONS = text("SELECT c.name, c.artifact FROM score_champion c ORDER BY c.name")
# The lock of the row, or of the key where there is none yet: two promotions take turns.
LOCK = text("SELECT pg_advisory_xact_lock(7, hashtext('score_champion ' || :name))")
POINT = text("""
INSERT INTO score_champion (name, artifact) VALUES (:name, :artifact)
ON CONFLICT (name) DO UPDATE SET artifact = excluded.artifact, promoted_at = clock_timestamp()
""")
NOTE = text("""
INSERT INTO score_promotion (name, artifact, before, why) VALUES (:name, :artifact, :before, :why)
""")
UPLIFTS = text("SELECT DISTINCT a.name FROM score_artifact a WHERE starts_with(a.name, :prefix)")
# Ranges that write scores hold the row of their run (`runs.HOLD`): what they wrote is seen below.
STOP_RUN = text("""
UPDATE score_run SET state = 'superseded', reason = :why, ended_at = clock_timestamp()
WHERE name = :name AND state = 'open'
""")
STAND_DOWN = text("DELETE FROM score_champion c WHERE c.name = :name")
FORGET = text("DELETE FROM score s WHERE s.name = :name")
# What stood before the champion of now was promoted; a rollback is no promotion, so that two of them
# go two steps back.
BEFORE = text("""
SELECT p.before FROM score_promotion p
WHERE p.name = :name AND p.artifact = :artifact AND p.why <> 'rollback' ORDER BY p.id DESC LIMIT 1
""")
# Its bytes are left out: a list of models is short.
LIST = text("""
SELECT a.id, a.name, a.manifest ->> 'kind' AS kind, a.created_at, octet_length(a.data) AS bytes,
    c.artifact IS NOT NULL AS champion, a.manifest -> 'report' AS report,
    a.manifest ->> 'cutoff' AS cutoff
FROM score_artifact a LEFT JOIN score_champion c ON c.name = a.name AND c.artifact = a.id
WHERE CAST(:name AS text) IS NULL OR a.name = :name
ORDER BY a.name, a.created_at DESC
""")
DRIFTED = text("""
INSERT INTO score_drift (name, artifact, drifted, report)
VALUES (:name, :artifact, :drifted, CAST(:report AS jsonb))
""")
SCORES = text("""
SELECT s.name, s.value, s.artifact, s.scored_at, s.scored_at <= clock_timestamp() - interval '24 hours' AS old
FROM score s WHERE s.subscriber_id = :id ORDER BY s.name
""")
SUBSCRIBER = text("SELECT s.id FROM subscriber s WHERE s.address_hmac = :hmac")


@dataclass(frozen=True, slots=True)
class Model:
    """An artifact in a list; `auc` and the like as its report has them."""

    id: str
    name: str
    kind: str
    created_at: dt.datetime
    bytes: int
    champion: bool
    cutoff: str | None
    report: dict[str, Any]


def save(connection: Connection, artifact: Artifact) -> None:
    """Keep an artifact; the same bytes are kept once."""
    connection.execute(
        SAVE,
        {
            "id": artifact.id,
            "name": artifact.name,
            "data": artifact.data,
            "manifest": json.dumps(artifact.manifest),
        },
    )


def load(connection: Connection, id: str) -> Artifact:
    """The artifact of that id; not looked at, see `artifact.unpack`.

    Raises:
        Permanent: there is none.
    """
    row = connection.execute(LOAD, {"id": id}).one_or_none()
    if row is None:
        raise Permanent(f"there is no artifact {id!r}; `dripfleet churn models` lists them")
    return Artifact(row.id, row.name, bytes(row.data), row.manifest)


def champion(connection: Connection, name: str) -> str | None:
    """Id of the artifact that makes a score; None: there is none yet."""
    found: str | None = connection.execute(CHAMPION, {"name": name}).scalar_one_or_none()
    return found


def champions(connection: Connection) -> dict[str, str]:
    """Every score that has a champion, with its artifact's id."""
    return {row.name: row.artifact for row in connection.execute(CHAMPIONS)}


def uplifts(connection: Connection) -> list[str]:
    """Every uplift that was ever trained, whether it has a champion or not."""
    return sorted(connection.execute(UPLIFTS, {"prefix": PREFIX}).scalars())


def withdraw(connection: Connection, name: str, why: str) -> str | None:
    """Take a score's champion and all its scores away; the id, or None: it had none.

    Whoever asks for the score finds it missing from the end of the transaction on.
    """
    connection.execute(LOCK, {"name": name})
    gone = champion(connection, name)
    if gone is None:
        return None
    note = {"name": name, "artifact": gone, "before": gone, "why": f"withdrawn: {why}"}
    connection.execute(STAND_DOWN, {"name": name})
    connection.execute(NOTE, note)
    connection.execute(STOP_RUN, {"name": name, "why": f"withdrawn: {why}"})
    connection.execute(FORGET, {"name": name})
    return gone


def promote(connection: Connection, id: str, why: str) -> str | None:
    """Make an artifact the champion of its score; the id of the one before.

    Raises:
        Refused: it is not sound; the champion stays.
        Permanent: there is no such artifact, or it is an uplift that shows no gain.
    """
    artifact = load(connection, id)
    unpack(artifact)
    fault = (
        no_gain(artifact.name, artifact.manifest["report"]) if is_uplift(artifact.name) else None
    )
    if fault is not None:
        raise Permanent(f"{id} is not promoted: {fault}; no word of an operator changes that")
    connection.execute(LOCK, {"name": artifact.name})
    before = champion(connection, artifact.name)
    if before == id:
        return before
    connection.execute(POINT, {"name": artifact.name, "artifact": id})
    connection.execute(NOTE, {"name": artifact.name, "artifact": id, "before": before, "why": why})
    return before


def rollback(connection: Connection, name: str) -> tuple[str, str]:
    """Go back to the champion before this one; ids of the one before and of the one now.

    Raises:
        Refused: it is not sound; the champion stays.
        Permanent: there is nothing to go back to.
    """
    connection.execute(LOCK, {"name": name})
    now = champion(connection, name)
    if now is None:
        raise Permanent(f"score {name!r} has no champion: there is nothing to roll back")
    before = connection.execute(BEFORE, {"name": name, "artifact": now}).scalar_one_or_none()
    if before is None:
        raise Permanent(f"{now} is the first champion of {name!r}: there is nothing before it")
    unpack(load(connection, before))
    connection.execute(POINT, {"name": name, "artifact": before})
    connection.execute(NOTE, {"name": name, "artifact": before, "before": now, "why": "rollback"})
    return now, before


def models(connection: Connection, name: str | None = None) -> list[Model]:
    """The artifacts, of one score or of all, the newest first."""
    return [
        Model(
            row.id, row.name, row.kind or "", row.created_at, row.bytes, row.champion, row.cutoff,
            row.report or {},
        )
        for row in connection.execute(LIST, {"name": name})
    ]  # fmt: skip


def note_drift(
    connection: Connection, name: str, artifact: str, drifted: int, report: dict[str, Any]
) -> None:
    """Write down how far the subscribers had moved."""
    connection.execute(
        DRIFTED,
        {"name": name, "artifact": artifact, "drifted": drifted, "report": json.dumps(report)},
    )


def scores(connection: Connection, subscriber: int) -> list[dict[str, Any]]:
    """Every score of a subscriber, with artifact and time."""
    return [dict(row._mapping) for row in connection.execute(SCORES, {"id": subscriber})]


def subscriber_of(connection: Connection, hmac: bytes) -> int | None:
    """Id of the subscriber with that identity; None: nobody."""
    found: int | None = connection.execute(SUBSCRIBER, {"hmac": hmac}).scalar_one_or_none()
    return found
