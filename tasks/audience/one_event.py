"""One event in, as a person at the keyboard or a script tells it: what a file's row would say."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from tasks.audience.candidate import TYPES, Attribute
from tasks.audience.staging import encode
from tasks.errors import Permanent

# As of a file's row: whoever puts the key in records the event.
RECORD = text("""
WITH fresh AS (
    INSERT INTO event_source (source, source_id)
    SELECT :source, :source_id WHERE CAST(:source_id AS text) IS NOT NULL
    ON CONFLICT DO NOTHING
    RETURNING source_id)
INSERT INTO event (subscriber_id, name, occurred_at, properties)
SELECT :subscriber_id, :name, coalesce(CAST(:at AS timestamptz), clock_timestamp()),
    CAST(:properties AS jsonb)
WHERE CAST(:source_id AS text) IS NULL OR EXISTS (SELECT 1 FROM fresh)
RETURNING id, occurred_at
""")
FORESEE = text("""
SELECT NULL::bigint AS id, coalesce(CAST(:at AS timestamptz), clock_timestamp()) AS occurred_at
WHERE CAST(:source_id AS text) IS NULL OR NOT EXISTS (
    SELECT 1 FROM event_source e WHERE e.source = :source AND e.source_id = :source_id)
""")


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of an event; `id` None: it was there already, or `dry_run`."""

    new: bool
    id: int | None
    occurred_at: dt.datetime | None


def properties_of(written: Sequence[str]) -> dict[str, Attribute]:
    """Read `key=value`, or `orders:int=3`, `spent:number=9.5`, `vip:bool=yes`.

    Raises:
        ValueError: one has no `=`, no key, a key twice, or a value that is not of its type.
    """
    found: dict[str, Attribute] = {}
    for each in written:
        column, equals, value = each.partition("=")
        name, colon, kind = column.rpartition(":")
        typed = bool(colon and name) and kind in TYPES
        key = name if typed else column
        if not equals or not key:
            raise ValueError(f"{each[:60]!r} is no property: expected KEY=VALUE or KEY:int=VALUE")
        if key in found:
            raise ValueError(f"the property {key!r} is given twice")
        if "\x00" in each or any("\ud800" <= character <= "\udfff" for character in each):
            raise ValueError(f"the property {key!r} holds something that is not text")
        if not typed:
            found[key] = value
            continue
        convert, expected = TYPES[kind]
        try:
            found[key] = convert(value)
        except (ValueError, KeyError):
            raise ValueError(f"the property {key!r} is not {expected}: {value[:60]!r}") from None
    return found


def record_event(
    connection: Connection,
    subscriber_id: int,
    name: str,
    *,
    at: dt.datetime | None = None,
    properties: dict[str, Attribute] | None = None,
    source: str = "cli",
    source_id: str | None = None,
    dry_run: bool = False,
) -> Recorded:
    """Record one event of a subscriber.

    Args:
        connection: inside a transaction.
        subscriber_id: whose.
        name: of the event.
        at: when it happened, aware; None: now, by Postgres's clock.
        properties: what else is known of it.
        source: who gave the `source_id` out.
        source_id: known by (source, source_id), an event is recorded once, as by `events import`;
            None: each call records another.
        dry_run: say what would happen, write nothing.

    Raises:
        Permanent: the name is empty, or name, source or source_id are no text.
    """
    for what, word in (("name", name), ("source", source), ("source_id", source_id)):
        if word is not None and (not word.strip() or "\x00" in word):
            raise Permanent(f"the {what} of the event is empty or holds a NUL; give it a word")
    row = connection.execute(
        FORESEE if dry_run else RECORD,
        {
            "subscriber_id": subscriber_id,
            "name": name.strip(),
            "at": at,
            "properties": encode(properties or {}),
            "source": source.strip(),
            "source_id": source_id and source_id.strip(),
        },
    ).one_or_none()
    return Recorded(False, None, None) if row is None else Recorded(True, row.id, row.occurred_at)
