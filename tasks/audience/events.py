"""Events in: what subscribers did, from CSV, Parquet or NDJSON, each event of a source once.

A chunk is one transaction. An event is known by (source, source_id); a row whose subscriber is not
there is refused and stays unknown, so that it can come again once the subscriber has been imported.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import psycopg

from models.session import Database
from tasks.audience.csvfile import CsvFile
from tasks.audience.event_row import REQUIRED, BadEvent, Found, moment, read_event
from tasks.audience.ndjsonfile import NdjsonFile, is_ndjson
from tasks.audience.parquetfile import ParquetFile, is_parquet
from tasks.audience.rejects import Rejects
from tasks.audience.shift import fix_shift, shift_to_yesterday, stored_shift
from tasks.audience.staging import BY_HASH, BY_INDEX, encode
from tasks.audience.store import check_secret
from tasks.errors import Permanent

CHUNK = 50_000

STAGE = """
    CREATE TEMPORARY TABLE staged (
        line bigint, address_hmac bytea, external_id text, name text, occurred_at timestamptz,
        source_id text, properties jsonb, subscriber_id bigint
    ) ON COMMIT DROP
"""
COPY = """
    COPY staged (line, address_hmac, external_id, name, occurred_at, source_id, properties)
    FROM STDIN
"""
FIND_BY_ADDRESS = """
    UPDATE staged SET subscriber_id = s.id FROM subscriber s
    WHERE s.address_hmac = staged.address_hmac
"""
FIND_BY_EXTERNAL_ID = """
    UPDATE staged SET subscriber_id = s.id FROM subscriber s
    WHERE s.external_id = staged.external_id AND staged.address_hmac IS NULL
"""
DROP_UNKNOWN = "DELETE FROM staged WHERE subscriber_id IS NULL RETURNING line"
UNKNOWN = "no subscriber has this email or external_id; import the subscribers first"

# The key goes in first: whoever put it there records the event. Sorted, so that two imports of one
# source meet in the same order.
RECORD = """
    WITH fresh AS (
        INSERT INTO event_source (source, source_id)
        SELECT %s, source_id FROM staged ORDER BY source_id
        ON CONFLICT DO NOTHING
        RETURNING source_id
    ), recorded AS (
        INSERT INTO event (subscriber_id, name, occurred_at, properties)
        SELECT subscriber_id, name, occurred_at, properties
        FROM staged JOIN fresh USING (source_id)
        RETURNING 1
    )
    SELECT count(*) FROM recorded
"""
FORESEE = """
    SELECT count(*) FROM staged
    WHERE NOT EXISTS (
        SELECT FROM event_source e WHERE e.source = %s AND e.source_id = staged.source_id)
"""


@dataclass
class EventTally:
    """What became of the rows: every row is in one of the first three counts.

    `shift` is what was added to every date; `shift_fixed_before`: by an earlier import.
    """

    new: int = 0
    known: int = 0
    rejected: int = 0
    shift: dt.timedelta = dt.timedelta()
    shift_fixed_before: bool = False
    seconds: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)
    first: list[tuple[int, str]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows read and settled."""
        return self.new + self.known + self.rejected


def import_events(
    database: Database,
    source_file: BinaryIO,
    *,
    name: str,
    source: str,
    secret: bytes,
    rejects: Rejects,
    shift_to_today: bool = False,
    dry_run: bool = False,
    chunk: int = CHUNK,
    on_chunk: Callable[[EventTally], None] = lambda tally: None,
) -> EventTally:
    """Read events from CSV, Parquet or NDJSON and record those that are not there yet.

    Columns: `email` or `external_id`, `name`, `occurred_at` (ISO 8601; UTC where it has no offset),
    `source_id`; every other column becomes a property: text, or as `amount:number`, `items:int` and
    `paid:bool` say, or as its type in Parquet. A line of NDJSON is an object of the same names.

    Args:
        database: where to.
        source_file: the bytes, seekable if `shift_to_today`, and for Parquet.
        name: what messages call the file.
        source: who gave the `source_id`s out.
        secret: key of the identities.
        rejects: takes the rows that are left out.
        shift_to_today: at the first import of this source, move its dates by whole days so that
            the last one is yesterday; a source keeps for good what its first import decided.
        dry_run: count what would happen and write nothing.
        chunk: rows a transaction.
        on_chunk: called with the tally so far after each chunk.

    Raises:
        Permanent: the file has no usable header, or no date to shift by.
        Misconfigured: the secret is not the one the database was filled with.
    """
    started = time.monotonic()
    tally = EventTally()
    with database.transaction() as connection:
        check_secret(connection, secret)
        stored = stored_shift(connection, source)
    tally.shift_fixed_before = stored is not None
    last = None
    if stored is None and shift_to_today:
        begin = source_file.tell()
        last = _last(source_file, name)
        source_file.seek(begin)
    file = _open(source_file, name)
    try:
        with database.transaction() as connection:
            if stored is not None:
                tally.shift = stored
            elif not dry_run:
                tally.shift = fix_shift(connection, source, last)
            elif last is not None:
                tally.shift = shift_to_yesterday(connection, last)
        with database.raw() as raw:
            for found in _chunks(file, secret, rejects, tally, chunk):
                with raw.transaction(force_rollback=dry_run):
                    unknown, new = _write(raw, found, source, dry_run)
                for event in found:
                    if event.line in unknown:
                        rejects.add(event.line, UNKNOWN, event.raw)
                tally.new += new
                tally.known += len(found) - len(unknown) - new
                tally.rejected = rejects.count
                tally.reasons, tally.first = dict(rejects.reasons), rejects.first
                tally.seconds = time.monotonic() - started
                on_chunk(tally)
    finally:
        file.detach()
    return tally


def _open(source_file: BinaryIO, name: str) -> CsvFile | ParquetFile | NdjsonFile:
    file: CsvFile | ParquetFile | NdjsonFile
    if is_parquet(source_file):
        file = ParquetFile(source_file, name, required=REQUIRED)
    elif is_ndjson(source_file):
        file = NdjsonFile(source_file, name)
    else:
        file = CsvFile(source_file, name, required=REQUIRED)
    if not {"email", "external_id"} & set(file.columns):
        raise Permanent(f"{name} has neither a column email nor a column external_id; add one")
    return file


def _last(source_file: BinaryIO, name: str) -> dt.datetime:
    """The latest date of the file; rows without a readable one are refused later, not here."""
    file = _open(source_file, name)
    at = file.columns.index("occurred_at")
    last = None
    try:
        for row in file:
            if row.fault is None:
                try:
                    date = moment(row.fields[at])
                except BadEvent:
                    continue
                last = date if last is None or date > last else last
    finally:
        file.detach()
    if last is None:
        raise Permanent(f"{name} holds no row with a date in occurred_at: nothing to shift by")
    return last


def _chunks(
    file: CsvFile | ParquetFile | NdjsonFile,
    secret: bytes,
    rejects: Rejects,
    tally: EventTally,
    size: int,
) -> Iterator[list[Found]]:
    """Events with one row a source_id, `size` rows of the file at a time; the first row counts."""
    at = {column: index for index, column in enumerate(file.columns)}
    held: dict[str, Found] = {}
    read = 0
    for row in file:
        read += 1
        try:
            found = read_event(row, at, secret, tally.shift)
        except BadEvent as error:
            rejects.add(row.line, str(error), row.raw)
        else:
            tally.known += held.setdefault(found.source_id, found) is not found
        if read >= size:
            yield list(held.values())
            held, read = {}, 0
    yield list(held.values())


def _write(
    connection: psycopg.Connection[tuple[object, ...]],
    found: list[Found],
    source: str,
    dry_run: bool,
) -> tuple[set[int], int]:
    """One chunk: lines whose subscriber is unknown, and events that are new."""
    cursor: psycopg.Cursor[tuple[int, ...]] = connection.cursor()  # type: ignore[assignment]
    cursor.execute(STAGE)
    cursor.execute(BY_INDEX)
    with cursor.copy(COPY) as copy:
        for e in found:
            copy.write_row(
                (
                    e.line, e.address_hmac, e.external_id, e.name, e.occurred_at,
                    e.source_id, encode(e.properties) if e.properties else "{}",
                )
            )  # fmt: skip
    cursor.execute(FIND_BY_ADDRESS)
    cursor.execute(FIND_BY_EXTERNAL_ID)
    unknown = {line for (line,) in cursor.execute(DROP_UNKNOWN)}
    if dry_run:
        ((new,),) = cursor.execute(FORESEE, (source,)).fetchall()
        return unknown, new
    cursor.execute(BY_HASH)
    ((new,),) = cursor.execute(RECORD, (source,)).fetchall()
    return unknown, new
