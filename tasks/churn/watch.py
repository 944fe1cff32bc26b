"""Drift of the book: the subscribers of now against those that a champion was tested on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
import structlog
from sqlalchemy import text

from models.session import Database
from tasks.audience import rfm
from tasks.churn import scoring, store
from tasks.churn.artifact import answer
from tasks.churn.book import RANGE, hashed, reading
from tasks.churn.drift import Drift, drifts
from tasks.churn.kinds import named
from tasks.churn.uplift_name import is_uplift
from tasks.errors import Permanent

log = structlog.get_logger()

SAMPLE: Final = 20_000  # subscribers looked at


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found: the artifact, subscribers looked at, each feature and the score itself."""

    name: str
    artifact: str
    rows: int
    features: list[Drift]


def look(database: Database, name: str) -> Looked:
    """Look for drift in what the champion of a score reads and says, and write it down.

    Raises:
        Permanent: the score has no champion, or there are no subscribers to look at.
        Refused: the champion is not sound.
    """
    kind = named(name)
    if is_uplift(name):
        raise Permanent(
            f"{name} was learned from who came in, who are not the book: its drift says nothing;"
            f" `dripfleet churn train {name}` learns it anew"
        )
    with database.transaction() as connection:
        artifact = store.champion(connection, name)
        now = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        people = connection.execute(text("SELECT count(*) FROM subscriber")).scalar_one()
        ranges = list(rfm.id_ranges(connection, RANGE))
    if artifact is None:
        raise Permanent(f"score {name!r} has no champion; `dripfleet churn train` makes one")
    model, manifest = scoring.model_of(database, artifact)
    tables = []
    for first, end in ranges:
        with reading(database) as raw:
            rows = scoring.rows_of(raw, kind, manifest, now, first, end)
        mine = hashed(rows.ids, salt=2) < SAMPLE / max(people, 1)
        tables.append(rows.table[mine][manifest["columns"]])
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if not len(table):
        raise Permanent(f"nobody can have score {name!r} yet: there is nobody to look at")
    found = drifts(manifest["reference"], table)
    if "scores" in manifest:
        said = pd.DataFrame({"score": answer(model, table)})
        found = [*drifts(manifest["scores"], said), *found]
    report: dict[str, Any] = {
        "rows": len(table),
        "features": [{"feature": d.feature, "psi": d.psi, "bound": d.bound} for d in found],
    }
    over = [d for d in found if d.drifted]
    with database.transaction() as connection:
        store.note_drift(connection, name, artifact, len(over), report)
    if over:
        log.warning(
            "drift", score=name, artifact=artifact, features=[d.feature for d in over[:5]],
            next="dripfleet churn drift, then dripfleet churn train",
        )  # fmt: skip
    return Looked(name, artifact, len(table), found)
