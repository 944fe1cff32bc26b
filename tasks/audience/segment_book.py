"""Named segments as they stand: files become rows; who is in one, and who would be."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, text

from schedules.expression import Expression, ExpressionError, Needs
from schedules.expression import read as read_expression
from schedules.findings import Finding
from schedules.reading import suggest
from schedules.segment import LoadedSegment, SegmentDefinition, in_order
from tasks.audience.segment_refresh import LOCK_SPACE
from tasks.errors import Permanent
from tasks.segment_query import segment_query

# Two who apply wait for each other, so that no circle comes of two halves.
LOCK = text("SELECT pg_advisory_xact_lock(:space, 0)")
TOPICS = text("SELECT key FROM topic")
STANDING = text("""
SELECT g.key, g.title, g.description, g.condition, g.refresh, g.zone FROM segment g ORDER BY g.key
""")

# A new condition is due at once; a new schedule counts from the last evaluation, or at once.
PUT = text("""
INSERT INTO segment AS g (key, title, description, condition, refresh, zone)
VALUES (:key, :title, :description, :condition, :refresh, :zone)
ON CONFLICT (key) DO UPDATE SET title = excluded.title, description = excluded.description,
    condition = excluded.condition, refresh = excluded.refresh, zone = excluded.zone,
    changed = g.changed OR g.condition <> excluded.condition, due_at = clock_timestamp(),
    faults = 0, fault = NULL, applied_at = clock_timestamp()
""")
FORGET_NEEDS = text("DELETE FROM segment_need WHERE segment = :key")
NEED = text("""
INSERT INTO segment_need (kind, name, segment) SELECT :kind, name, :key
FROM unnest(CAST(:names AS text[])) AS r (name)
""")

LISTED = text("""
SELECT g.key, g.title, g.members, g.unknown, g.refresh, g.evaluated_at, g.took, g.due_at, g.fault,
    g.condition
FROM segment g ORDER BY g.key
""")
ONE = text("SELECT * FROM segment WHERE key = :key")
HOLD = text("SELECT key FROM segment WHERE key = :key FOR UPDATE")
EDGES_OF_A_DAY = text("""
SELECT e.edge, e.cause, count(*) AS n FROM segment_edge e
WHERE e.segment = :key AND e.at > clock_timestamp() - interval '1 day' GROUP BY 1, 2 ORDER BY 1, 2
""")
MEMBERS = text("""
SELECT p.subscriber_id, s.external_id, s.address, s.first_name, p.since, p.join_no
FROM segment_present p LEFT JOIN subscriber s ON s.id = p.subscriber_id
WHERE p.segment = :key AND p.subscriber_id > :after ORDER BY p.subscriber_id LIMIT :n
""")

# Who asks for it: other segments, cron lines, and the versions that somebody enters or is in.
ASKING = text("""
SELECT 'segment ' || n.segment AS who, NULL AS said FROM segment_need n
WHERE n.kind = 'segment' AND n.name = :key
UNION ALL
SELECT 'schedule ' || s.key, s.target ->> 'segment' FROM schedule s
WHERE s.target ->> 'segment' LIKE '%in_segment%'
UNION ALL
SELECT DISTINCT 'sequence ' || v.sequence_key, v.definition::text FROM sequence_version v
JOIN sequence q ON q.key = v.sequence_key
WHERE (v.definition::text LIKE '%in_segment%' OR v.definition #>> '{entry}' LIKE '%segment%')
  AND (v.version = q.version OR EXISTS (
    SELECT FROM enrollment e
    WHERE e.sequence_key = v.sequence_key AND e.sequence_version = v.version AND e.active))
ORDER BY 1
""")
LEAVE_ALL = text("""
WITH gone AS (
    DELETE FROM segment_present WHERE segment = :key RETURNING subscriber_id, join_no)
INSERT INTO segment_edge (segment, subscriber_id, join_no, edge, cause)
SELECT :key, subscriber_id, join_no, 'leave', 'definition' FROM gone ORDER BY subscriber_id
""")
REMOVE = text("DELETE FROM segment WHERE key = :key")

PREPARED = text("""
SELECT set_config('plan_cache_mode', 'force_custom_plan', true),
    set_config('enable_nestloop', 'off', true),
    set_config('work_mem', '96MB', true), set_config('statement_timeout', '2min', true)
""")
# The newest of them are shown: what was imported lately is what one wants to see.
PREVIEW = """
WITH found AS MATERIALIZED ({found})
SELECT (SELECT count(*) FROM subscriber) AS subscribers,
    count(*) FILTER (WHERE answer) AS members, count(*) FILTER (WHERE answer IS NULL) AS unknown,
    (SELECT array_agg(x.subscriber_id) FROM (
        SELECT f.subscriber_id FROM found f WHERE f.answer
        ORDER BY f.subscriber_id DESC LIMIT :sample) x) AS ids
FROM found
"""
PEOPLE = text("""
SELECT s.id AS subscriber_id, s.external_id, s.address, s.first_name, s.created_at
FROM subscriber s WHERE s.id = ANY(CAST(:ids AS bigint[])) ORDER BY s.id DESC
""")

_ASKED: Final = r"in_segment\(\s*\\?['\"]{key}\\?['\"]|\"segment\": \"{key}\""


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying did to one segment."""

    key: str
    change: Literal["added", "changed", "unchanged"]


@dataclass(frozen=True, slots=True)
class Preview:
    """Of how many people a condition holds, or cannot be told, and some of the former."""

    subscribers: int
    members: int
    unknown: int
    sample: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Shown:
    """A segment with what asks for it, and its edges of the last day."""

    key: str
    title: str
    description: str | None
    when: str
    refresh: str
    zone: str
    members: int
    unknown: int
    evaluated_at: dt.datetime | None
    took: float | None
    due_at: dt.datetime
    fault: str | None
    asked_by: list[str]
    last_day: dict[str, int]


def findings(connection: Connection, files: Sequence[LoadedSegment]) -> list[Finding]:
    """What is wrong with files that only the fleet knows: topics, other segments, circles."""
    topics = set(connection.execute(TOPICS).scalars())
    asks = _asks(connection)
    asks |= {file.segment.key: file.segment.when.needs.memberships for file in files}
    found, seen = [], set[str]()
    for file in files:
        key, needs = file.segment.key, file.segment.when.needs
        if key in seen:
            message = f"key {key!r} is that of another file too; give one of them another"
            found.append(file.located.finding(("key",), message))
        seen.add(key)
        for why in unknown_names(needs, topics, set(asks)):
            found.append(file.located.finding(("when",), f"'when' of segment {key!r}: {why}"))
    if not found:
        try:
            in_order(asks)
        except ValueError as fault:
            # Named at the first file that stands in it: what stood before was no circle.
            inside = [file for file in files if repr(file.segment.key) in str(fault)] or files[:1]
            found.append(inside[0].located.finding(("when",), str(fault)))
    return sorted(found)


def unknown_names(needs: Needs, topics: set[str], segments: set[str]) -> list[str]:
    """A sentence for each topic and segment that a condition names and that is not there."""
    said = []
    for kind, asked, known in (
        ("topic", needs.topics, topics),
        ("segment", needs.memberships, segments),
    ):
        for name in sorted(asked - known):
            move = suggest(name, known) or (
                "correct the name"
                if kind == "topic"
                else "apply it first with `dripfleet segment apply FILE`"
            )
            said.append(f"{kind} {name!r} does not exist; {move}")
    return said


def apply(connection: Connection, files: Sequence[LoadedSegment]) -> list[Applied]:
    """Make the rows what files say, in the caller's transaction; others stay as they are.

    Args:
        connection: inside a transaction; concurrent ones wait for its end.
        files: without `findings`; what is wrong with them is not looked for again.
    """
    standing = {row.key: row for row in connection.execute(STANDING)}
    done = []
    for file in sorted(files, key=lambda each: each.segment.key):
        segment = file.segment
        row = standing.get(segment.key)
        if row is not None and _values(segment) == dict(row._mapping):
            done.append(Applied(segment.key, "unchanged"))
            continue
        connection.execute(PUT, _values(segment))
        connection.execute(FORGET_NEEDS, {"key": segment.key})
        needs = segment.when.needs
        events = {event for event, _ in needs.counts} | needs.lasts
        for kind, names in (("event", events), ("segment", needs.memberships)):
            values = {"key": segment.key, "kind": kind, "names": sorted(names)}
            connection.execute(NEED, values)
        done.append(Applied(segment.key, "added" if row is None else "changed"))
    return done


def hold(connection: Connection) -> None:
    """Let nobody else apply or remove until the transaction ends."""
    connection.execute(LOCK, {"space": LOCK_SPACE})


def order(connection: Connection) -> list[str]:
    """Every segment, each behind those that it asks for."""
    return in_order(_asks(connection))


def listed(connection: Connection) -> list[dict[str, Any]]:
    """Every segment: how many are in it, and how its last evaluation went."""
    return [dict(row._mapping) for row in connection.execute(LISTED)]


def shown(connection: Connection, key: str) -> Shown:
    """One segment.

    Raises:
        Permanent: there is none of that key.
    """
    row = _require(connection, key)
    last_day = {
        f"{each.edge} by {each.cause}": each.n
        for each in connection.execute(EDGES_OF_A_DAY, {"key": key})
    }
    return Shown(
        row.key, row.title, row.description, row.condition, row.refresh, row.zone, row.members,
        row.unknown, row.evaluated_at, row.took, row.due_at, row.fault, asked_by(connection, key),
        last_day,
    )  # fmt: skip


def members(connection: Connection, key: str, n: int, after: int = 0) -> list[dict[str, Any]]:
    """Up to `n` of those who are in a segment, by id, behind the id `after`; raises as `shown`."""
    _require(connection, key)
    rows = connection.execute(MEMBERS, {"key": key, "n": n, "after": after})
    return [dict(row._mapping) for row in rows]


def asked_by(connection: Connection, key: str) -> list[str]:
    """What asks for a segment: `segment loyal`, `sequence win-back`, `schedule monday-news`."""
    asked = re.compile(_ASKED.format(key=re.escape(key)))
    rows = connection.execute(ASKING, {"key": key})
    return [row.who for row in rows if row.said is None or asked.search(row.said)]


def remove(connection: Connection, key: str) -> int:
    """Take a segment away: everybody leaves it; returns how many that were.

    Raises:
        Permanent: there is none of that key, or something asks for it.
    """
    _require(connection, key)
    if asking := asked_by(connection, key):
        raise Permanent(
            f"segment {key!r} is asked for by {', '.join(asking)}: take it out there first"
        )
    connection.execute(HOLD, {"key": key})
    left = connection.execute(LEAVE_ALL, {"key": key}).rowcount
    connection.execute(REMOVE, {"key": key})
    return left


def preview(connection: Connection, condition: Expression, sample: int) -> Preview:
    """Say of how many subscribers a condition holds now, and show some; nothing is written.

    Args:
        connection: of a snapshot.
        condition: of known topics and segments (`unknown_names`).
        sample: how many to show, the newest of them.
    """
    connection.execute(PREPARED)
    query, parameters = segment_query(condition)
    row = connection.execute(
        text(PREVIEW.format(found=query)), {**parameters, "sample": sample}
    ).one()
    people = connection.execute(PEOPLE, {"ids": row.ids or []})
    shown = [dict(each._mapping) for each in people]
    return Preview(row.subscribers, row.members, row.unknown, shown)


def condition_of(connection: Connection, key: str) -> str:
    """The condition of a segment; raises as `shown`."""
    return str(_require(connection, key).condition)


def topic_keys(connection: Connection) -> set[str]:
    """Every topic that there is."""
    return set(connection.execute(TOPICS).scalars())


def _asks(connection: Connection) -> dict[str, frozenset[str]]:
    """Key → the segments that it asks for; of one that this release cannot read: none."""
    asks = {}
    for row in connection.execute(STANDING):
        try:
            asks[row.key] = read_expression(row.condition).needs.memberships
        except ExpressionError:
            asks[row.key] = frozenset()
    return asks


def _require(connection: Connection, key: str) -> Any:
    row = connection.execute(ONE, {"key": key}).one_or_none()
    if row is None:
        raise Permanent(
            f"there is no segment {key!r}; `dripfleet segment list` names those there are"
        )
    return row


def _values(segment: SegmentDefinition) -> dict[str, Any]:
    return {
        "key": segment.key,
        "title": segment.title,
        "description": segment.description,
        "condition": segment.when.source,
        "refresh": segment.refresh,
        "zone": segment.zone,
    }
