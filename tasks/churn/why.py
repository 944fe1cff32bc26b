"""Why a subscriber has a score: the stored one with its age, and what moves it now."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import text

from models.session import Database
from tasks.churn import scoring, store
from tasks.churn.artifact import answer
from tasks.churn.explain import contributions, in_words
from tasks.churn.features import BY_NAME
from tasks.churn.kinds import CLV, named, shown
from tasks.errors import Permanent


def explain(database: Database, name: str, subscriber: int, most: int) -> dict[str, Any]:
    """What there is to say about one score of one subscriber.

    Returns:
        name, artifact, value (as stored; None: there is none), scored_at, now (what the champion
        says now), contributions, and all of it as `lines` in plain words.

    Raises:
        Permanent: there is no such score, or it has no champion.
        Refused: the champion is not sound.
    """
    kind = named(name)
    with database.transaction() as connection:
        artifact = store.champion(connection, name)
        stored = {row["name"]: row for row in store.scores(connection, subscriber)}.get(name)
        now = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    if artifact is None:
        raise Permanent(f"score {name!r} has no champion; `dripfleet churn train` makes one")
    model, manifest = scoring.model_of(database, artifact)
    with database.raw() as raw:
        rows = scoring.rows_of(raw, kind, manifest, now, subscriber, subscriber + 1)
    lines = [_stored(name, stored, now)]
    found: dict[str, Any] = {
        "name": name,
        "artifact": stored["artifact"] if stored else None,
        "value": stored["value"] if stored else None,
        "scored_at": stored["scored_at"] if stored else None,
        "now": None,
        "contributions": [],
        "lines": lines,
    }
    if not len(rows.ids):
        why = "they never bought" if kind.bought else "nothing is known of them"
        lines.append(f"no score can be made: {why}")
        return found
    found["now"] = float(answer(model, rows.table)[0])
    lines.append(f"now {artifact} says {shown(found['now'])}: {kind.foretells}")
    if kind.name == CLV:
        row = rows.table.iloc[0]
        lines.append(
            f"{row['x']:.0f} days with a repeat purchase, the last one {row['T'] - row['t_x']:.0f} days"
            f" ago, {shown(row['mean'])} each"
        )
        return found
    moved = contributions(model, rows.table[manifest["columns"]], manifest["typical"])[:most]
    found["contributions"] = moved
    lines += [in_words(each, BY_NAME[each.feature].meaning) for each in moved]
    return found


def _stored(name: str, stored: dict[str, Any] | None, now: dt.datetime) -> str:
    if stored is None:
        return f"no {name} score is stored; `dripfleet churn score` makes one"
    hours = (now - stored["scored_at"]).total_seconds() / 3600
    return (
        f"{name} score {shown(stored['value'])}, {hours:.1f} h old, by {stored['artifact']};"
        f" score('{name}', max_age='24h') takes it: {'no' if stored['old'] else 'yes'}"
    )
