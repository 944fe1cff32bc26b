"""Subscribers in: a CSV or Parquet file becomes rows of `subscriber`, a chunk at a time.

A chunk is one transaction: COPY into a temporary table, then one INSERT and one UPDATE over the
whole of it. So an import that is stopped leaves whole chunks, and running it again is harmless.
While Postgres is busy with a chunk the next one is read: both take about as long.
It changes neither an address nor a stop, takes no subscriber's lock, and holds no row for longer
than a chunk takes.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import psycopg
from psycopg import errors

from models.session import Database
from tasks.audience.candidate import BadRow, Candidate, Interpreter
from tasks.audience.confirming import record_pending
from tasks.audience.consent import foresee_consents, record_consents
from tasks.audience.csvfile import CsvFile
from tasks.audience.parquetfile import ParquetFile, is_parquet
from tasks.audience.rejects import Rejects
from tasks.audience.seen import Seen
from tasks.audience.staging import BY_INDEX, encode
from tasks.audience.store import check_secret
from tasks.errors import Transient

CHUNK = 50_000
TRIES = 5

STAGE = """
    CREATE TEMPORARY TABLE staged (
        line bigint, address text, address_hmac bytea, external_id text, first_name text,
        locale text, zone text, attributes jsonb, again boolean
    ) ON COMMIT DROP
"""
COPY = "COPY staged FROM STDIN"

# An external id that somebody else has would break the whole chunk: those rows go out before.
DROP_TAKEN = """
    DELETE FROM staged USING subscriber s
    WHERE s.external_id = staged.external_id AND s.address_hmac <> staged.address_hmac
    RETURNING staged.line
"""
TAKEN = "the external_id belongs to another subscriber"

ADD = """
    WITH added AS (
        INSERT INTO subscriber
            (external_id, address, address_hmac, first_name, locale, zone, attributes)
        SELECT external_id, address, address_hmac, first_name, locale, zone, attributes
        FROM staged
        WHERE NOT EXISTS (SELECT FROM subscriber s WHERE s.address_hmac = staged.address_hmac)
        ORDER BY line
        ON CONFLICT (address_hmac) DO NOTHING
        RETURNING address_hmac
    )
    SELECT count(*) FROM added
"""

# What the file leaves empty stays; a row that says nothing new is neither locked nor written.
DIFFERS = """
    (staged.external_id IS NOT NULL AND staged.external_id IS DISTINCT FROM s.external_id
     OR staged.first_name IS NOT NULL AND staged.first_name IS DISTINCT FROM s.first_name
     OR staged.locale IS NOT NULL AND staged.locale IS DISTINCT FROM s.locale
     OR staged.zone IS NOT NULL AND staged.zone IS DISTINCT FROM s.zone
     OR NOT s.attributes @> staged.attributes)
"""
# Rows are locked in id order, as everywhere.
CHANGE = f"""
    WITH differing AS (
        SELECT s.id, staged.*
        FROM staged JOIN subscriber s USING (address_hmac)
        WHERE {DIFFERS}
        ORDER BY s.id FOR NO KEY UPDATE OF s
    ), changed AS (
        UPDATE subscriber s SET
            external_id = coalesce(d.external_id, s.external_id),
            first_name = coalesce(d.first_name, s.first_name),
            locale = coalesce(d.locale, s.locale),
            zone = coalesce(d.zone, s.zone),
            attributes = s.attributes || d.attributes,
            updated_at = clock_timestamp()
        FROM differing d
        WHERE s.id = d.id
        RETURNING d.again
    )
    SELECT count(*) FILTER (WHERE NOT again) FROM changed
"""

# The same answers without the writes: how many are new, and how many would change.
FORESEE = f"""
    SELECT count(*) FILTER (WHERE s.id IS NULL AND NOT again),
           count(*) FILTER (WHERE s.id IS NOT NULL AND NOT again AND {DIFFERS})
    FROM staged LEFT JOIN subscriber s USING (address_hmac)
"""


@dataclass
class Tally:
    """What became of the rows so far: every row is in one of the first five counts.

    `reasons` and `first` (line, reason) tell about refused rows; `unknown_…` count values that were
    left out of rows that were taken. `pending`: sign-ups that a mail asks to confirm.
    """

    new: int = 0
    updated: int = 0
    unchanged: int = 0
    duplicates: int = 0
    rejected: int = 0
    unknown_zones: int = 0
    unknown_locales: int = 0
    consents: int = 0
    pending: int = 0
    seconds: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)
    first: list[tuple[int, str]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows read and settled."""
        return self.new + self.updated + self.unchanged + self.duplicates + self.rejected


def import_subscribers(
    database: Database,
    source: BinaryIO,
    *,
    name: str,
    secret: bytes,
    rejects: Rejects,
    dry_run: bool = False,
    chunk: int = CHUNK,
    on_chunk: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """Read subscribers from CSV or Parquet and bring the database up to it.

    Where an address comes twice, the later row wins, field by field. Memory is bounded by two
    chunks, but for 16 to 32 octets an address to know duplicates by.

    Args:
        database: where to.
        source: the bytes of the file; by their beginning one sees that it is Parquet.
        name: what messages call the file.
        secret: key of the identities.
        rejects: takes the rows that are left out.
        dry_run: count what would happen and write nothing.
        chunk: rows a transaction.
        on_chunk: called with the tally so far after each chunk; rows of the next one that were refused
            or came twice are in it.

    Raises:
        Permanent: the file has no usable header.
        Misconfigured: the secret is not the one the database was filled with, or Parquet cannot be
            read here.
        Transient: a chunk met other writers five times over.
    """
    started = time.monotonic()
    tally = Tally()
    with database.transaction() as connection:
        check_secret(connection, secret)
    kind = ParquetFile if is_parquet(source) else CsvFile
    file = kind(source, name, required=("email",))
    try:
        interpreter = Interpreter(file.columns, secret)
        with _no_collector(), database.raw() as raw, ThreadPoolExecutor(1) as beside:

            def bring(candidates: list[Candidate]) -> _Brought:
                brought = _bring(raw, candidates, dry_run) if candidates else _NOTHING
                if interpreter.topics:
                    pending = 0
                    if dry_run:
                        consents = foresee_consents(raw, candidates, brought.taken)
                    else:
                        consents = record_consents(raw, candidates, source=name)
                        pending = record_pending(raw, candidates, source=name)
                    brought = replace(brought, consents=consents, pending=pending)
                return brought

            def settle(under_way: Future[_Brought], candidates: list[Candidate]) -> None:
                brought = under_way.result()
                _count(brought, candidates, rejects, tally)
                tally.consents += brought.consents
                tally.pending += brought.pending
                tally.rejected = rejects.count
                tally.unknown_zones = interpreter.unknown_zones
                tally.unknown_locales = interpreter.unknown_locales
                tally.reasons, tally.first = dict(rejects.reasons), rejects.first
                tally.seconds = time.monotonic() - started
                on_chunk(tally)

            waiting: tuple[Future[_Brought], list[Candidate]] | None = None
            for candidates in _chunks(file, interpreter, rejects, tally, chunk):
                if waiting is not None:
                    settle(*waiting)
                waiting = beside.submit(bring, candidates), candidates
            if waiting is not None:
                settle(*waiting)
    finally:
        file.detach()
    return tally


def bring_in(database: Database, candidates: list[Candidate]) -> tuple[Tally, set[int]]:
    """Bring candidates in that come from no file, each address once.

    Returns:
        The tally, and the lines of those whose external id is somebody else's.

    Raises:
        Transient: it met other writers five times over.
    """
    tally = Tally()
    with database.raw() as connection:
        brought = _bring(connection, candidates, dry_run=False)
    _count(brought, candidates, Rejects(None), tally)
    return tally, brought.taken


@contextmanager
def _no_collector() -> Iterator[None]:
    """Spare the cycle collector: a chunk is many small objects and no cycle (a third faster)."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _chunks(
    file: CsvFile | ParquetFile, interpreter: Interpreter, rejects: Rejects, tally: Tally, size: int
) -> Iterator[list[Candidate]]:
    """Candidates with one row an address and an external id, `size` rows of the file at a time."""
    seen = Seen()
    held: dict[bytes, Candidate] = {}
    owners: dict[str, bytes] = {}
    read = 0
    for row in file:
        read += 1
        try:
            found = interpreter.read(row)
            if found.external_id is not None:
                owner = owners.setdefault(found.external_id, found.address_hmac)
                if owner != found.address_hmac:
                    raise BadRow(TAKEN)
        except BadRow as error:
            rejects.add(row.line, str(error), row.raw)
        else:
            earlier = held.get(found.address_hmac)
            if earlier is not None:
                earlier.absorb(found)
                tally.duplicates += 1
            else:
                found.again = seen.add(found.address_hmac)
                tally.duplicates += found.again
                held[found.address_hmac] = found
        if read >= size:
            yield list(held.values())
            held, owners, read = {}, {}, 0
    yield list(held.values())


@dataclass(frozen=True, slots=True)
class _Brought:
    """What a chunk came to; `taken`: lines whose external id is somebody else's."""

    taken: set[int]
    new: int
    updated: int
    consents: int = 0
    pending: int = 0


_NOTHING = _Brought(set(), 0, 0)


def _bring(
    connection: psycopg.Connection[tuple[object, ...]],
    candidates: list[Candidate],
    dry_run: bool,
) -> _Brought:
    """Bring one chunk in."""
    for _ in range(TRIES):
        try:
            with connection.transaction(force_rollback=dry_run):
                return _Brought(*_write(connection, candidates, dry_run))
        except (errors.UniqueViolation, errors.DeadlockDetected, errors.SerializationFailure):
            continue
    raise Transient(
        "another import changes the same subscribers at the same time; what is done is"
        " done, run this one again when the other has ended"
    )


def _count(brought: _Brought, candidates: list[Candidate], rejects: Rejects, tally: Tally) -> None:
    """Put what became of a chunk into the tally."""
    for candidate in candidates:
        if candidate.line in brought.taken:
            rejects.add(candidate.line, TAKEN, candidate.raw)
            tally.duplicates -= candidate.again
    fresh = sum(not c.again and c.line not in brought.taken for c in candidates)
    tally.new += brought.new
    tally.updated += brought.updated
    tally.unchanged += fresh - brought.new - brought.updated


def _write(
    connection: psycopg.Connection[tuple[object, ...]],
    candidates: Iterable[Candidate],
    dry_run: bool,
) -> tuple[set[int], int, int]:
    """One chunk: lines whose external id is taken, rows added, rows changed."""
    cursor: psycopg.Cursor[tuple[int, ...]] = connection.cursor()  # type: ignore[assignment]
    cursor.execute(STAGE)
    cursor.execute(BY_INDEX)
    with cursor.copy(COPY) as copy:
        for c in candidates:
            copy.write_row(
                (
                    c.line, c.address, c.address_hmac, c.external_id, c.first_name, c.locale,
                    c.zone, encode(c.attributes) if c.attributes else "{}", c.again,
                )
            )  # fmt: skip
    staged = cursor.rowcount
    taken = {line for (line,) in cursor.execute(DROP_TAKEN)}
    if dry_run:
        new, updated = cursor.execute(FORESEE).fetchall()[0]
        return taken, new, updated
    (new,) = cursor.execute(ADD).fetchall()[0]
    updated = 0
    if new < staged - len(taken):
        (updated,) = cursor.execute(CHANGE).fetchall()[0]
    return taken, new, updated
