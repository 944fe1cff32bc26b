"""How people come into a sequence by hand: set-based, in batches, as often as one likes.

A subscriber has one entry in a sequence; who is in it, or was, is counted and left alone. Where the
`entry` of a sequence has rules of its own, they ask to come in, and are judged in the same
transaction (`admission`): who has no place yet waits for one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, text

from models.session import Database
from schedules.entry import entry_from_json
from tasks.errors import Permanent
from tasks.sequence.admission import admit_asked
from tasks.sequence.versions import Versions

BATCH = 5000

# FOR SHARE: a pause that is being written is waited for, so no batch commits behind it.
TARGET = """
SELECT q.version, q.paused_at, q.pause_reason, q.draining_since, t.class AS stream_class,
    v.definition -> 'entry' AS entry
FROM sequence q JOIN stream t ON t.key = q.stream
JOIN sequence_version v ON v.sequence_key = q.key AND v.version = q.version WHERE q.key = :key
"""
TARGET_HELD = text(TARGET + " FOR SHARE OF q")
TARGET_SEEN = text(TARGET)

# LATERAL with a limit, not EXISTS: a generic plan would hash the whole of enrollment each batch.
_CANDIDATES = """
WITH chosen AS MATERIALIZED ({chosen}),
candidate AS MATERIALIZED (
    SELECT c.id,
        CASE WHEN c.id IS NULL THEN 'unknown'
             WHEN c.stopped_at IS NOT NULL THEN 'stopped'
             WHEN p.held OR o.held THEN 'suppressed'
             WHEN e.held THEN 'already_enrolled'
             ELSE 'enrolled' END AS verdict, c.n
    FROM chosen c
    LEFT JOIN LATERAL (
        SELECT true AS held FROM suppression x
        WHERE x.address_hmac = c.address_hmac AND x.scope IN ('all', :stream_class) LIMIT 1) p ON true
    LEFT JOIN LATERAL (
        SELECT true AS held FROM consent x JOIN sequence q ON q.topic = x.topic
        WHERE q.key = :key AND x.subscriber_id = c.id AND NOT x.opted_in
          AND :stream_class = 'marketing' LIMIT 1) o ON true
    LEFT JOIN LATERAL (
        SELECT true AS held FROM enrollment x
        WHERE x.sequence_key = :key AND x.subscriber_id = c.id LIMIT 1) e ON true)
"""
_TOLD = """
SELECT max(c.id) AS last_id, count(*) AS looked_at,
    count(*) FILTER (WHERE c.verdict = 'stopped') AS stopped,
    count(*) FILTER (WHERE c.verdict = 'suppressed') AS suppressed,
    count(*) FILTER (WHERE c.verdict = 'already_enrolled') AS already_enrolled,
    count(*) FILTER (WHERE c.verdict = 'enrolled') AS eligible,
    array_agg(c.n - 1 ORDER BY c.n) FILTER (WHERE c.verdict = 'unknown') AS unknown,
    {enrolled} AS enrolled
FROM candidate c
"""
# Whoever comes in at the same moment by another hand is already enrolled then.
_INSERT = """,
new AS (
    INSERT INTO enrollment (sequence_key, sequence_version, subscriber_id, due_at)
    SELECT :key, :version, c.id, clock_timestamp() FROM candidate c
    WHERE c.verdict = 'enrolled' ORDER BY c.id
    ON CONFLICT (sequence_key, subscriber_id, entry_no) DO NOTHING
    RETURNING id)
"""
# Whether somebody is in it already is one rule of several then.
_ASK = """,
new AS (
    INSERT INTO entry_request (sequence_key, subscriber_id, cause)
    SELECT :key, c.id, :cause FROM candidate c WHERE c.verdict = 'enrolled' ORDER BY c.id
    RETURNING id)
"""
_HELD = "             WHEN e.held THEN 'already_enrolled'\n"
_BY_ID = f"""
    SELECT s.id, s.address_hmac, s.stopped_at, 0::bigint AS n FROM subscriber s
    WHERE s.id > :after ORDER BY s.id LIMIT {BATCH}"""
# The walk goes on behind everybody who was looked at, not behind the last who was meant.
_WALKED = f"""
    SELECT s.* FROM subscriber s WHERE s.id > :after ORDER BY s.id LIMIT {BATCH}"""
_BY_SEGMENT = """
    SELECT s.id, s.address_hmac, s.stopped_at, 0::bigint AS n FROM walked s WHERE ({where})"""
_BY_IDENTITY = """
    SELECT s.id, s.address_hmac, s.stopped_at, r.n
    FROM unnest(CAST(:identities AS bytea[])) WITH ORDINALITY AS r (identity, n)
    LEFT JOIN subscriber s ON s.address_hmac = r.identity"""


def _statement(chosen: str, *, write: bool) -> Any:
    head = _CANDIDATES.replace("{chosen}", chosen)
    enrolled = "(SELECT count(*) FROM new)" if write else "NULL"
    return text(head + (_INSERT if write else "") + _TOLD.replace("{enrolled}", enrolled))


ALL = {write: _statement(_BY_ID, write=write) for write in (True, False)}
SOME = {write: _statement(_BY_IDENTITY, write=write) for write in (True, False)}


def selecting(where: str, *, write: bool) -> Any:
    """As `ALL`, of those of whom a predicate over the row `s` of `subscriber` holds."""
    head = _CANDIDATES.replace("{chosen}", _BY_SEGMENT.replace("{where}", where))
    head = head.replace("WITH chosen", f"WITH walked AS MATERIALIZED ({_WALKED}),\nchosen", 1)
    enrolled = "(SELECT count(*) FROM new)" if write else "NULL"
    told = _TOLD.replace("max(c.id) AS last_id", "(SELECT max(w.id) FROM walked w) AS last_id")
    told = told.replace("{enrolled} AS enrolled", f"{enrolled} AS enrolled")
    return text(head + (_INSERT if write else "") + told)


def asking(chosen: str, *, write: bool, walked: bool = False) -> Any:
    """As `ALL` and its like, where entry has rules: they ask, and `asked` has the ids of requests."""
    head = _CANDIDATES.replace("{chosen}", chosen).replace(_HELD, "")
    told = _TOLD
    if walked:
        head = head.replace("WITH chosen", f"WITH walked AS MATERIALIZED ({_WALKED}),\nchosen", 1)
        told = told.replace("max(c.id) AS last_id", "(SELECT max(w.id) FROM walked w) AS last_id")
    asked = "(SELECT array_agg(id ORDER BY id) FROM new) AS asked" if write else "NULL AS asked"
    return text(head + (_ASK if write else "") + told.replace("{enrolled} AS enrolled", asked))


ALL_ASK = {write: asking(_BY_ID, write=write) for write in (True, False)}
SOME_ASK = {write: asking(_BY_IDENTITY, write=write) for write in (True, False)}


def selecting_to_ask(where: str, *, write: bool) -> Any:
    """As `selecting`, where entry has rules."""
    return asking(_BY_SEGMENT.replace("{where}", where), write=write, walked=True)


Statements = tuple[dict[bool, Any], dict[bool, Any]]
"""By whether they write: those that enroll, and those by which people ask where entry has rules."""

LAST_ID = text("SELECT coalesce(max(id), 0) FROM subscriber")


@dataclass(frozen=True, slots=True)
class Tally:
    """How many came in, and how many did not and why; each person counts once, at the first reason.

    Attributes:
        enrolled: came in (or would: `dry_run`).
        stopped: want or may get nothing more.
        suppressed: their address is, for every mail or for mail of this sequence's class; or they
            opted out of its topic.
        already_enrolled: are in it, or were.
        unknown: identities that no subscriber has.
        refused: the rules of its `entry` do not let them in; `explain` says why of each.
        waiting: are let in when there is a place, or what they wait for is there; of a `dry_run`,
            those whom these rules would judge.
        unknown_at: which of the identities these were, counted from 0 over all that were given.
    """

    enrolled: int = 0
    already_enrolled: int = 0
    stopped: int = 0
    suppressed: int = 0
    unknown: int = 0
    refused: int = 0
    waiting: int = 0
    unknown_at: tuple[int, ...] = field(default=(), repr=False)

    @property
    def looked_at(self) -> int:
        """All of them together."""
        return (
            self.enrolled + self.already_enrolled + self.stopped + self.suppressed + self.unknown
            + self.refused + self.waiting
        )  # fmt: skip

    def plus(self, other: Tally) -> Tally:
        """Both counts; `unknown_at` of the later one is not added: it is told a batch."""
        return Tally(
            self.enrolled + other.enrolled,
            self.already_enrolled + other.already_enrolled,
            self.stopped + other.stopped,
            self.suppressed + other.suppressed,
            self.unknown + other.unknown,
            self.refused + other.refused,
            self.waiting + other.waiting,
        )


def enroll_all(
    database: Database,
    key: str,
    *,
    dry_run: bool = False,
    on_batch: Callable[[Tally, int, int], None] | None = None,
) -> Tally:
    """Enroll every subscriber, in id order, a transaction every 5 000.

    Stopped in the middle, whole batches stand, and the next run goes on behind them.

    Args:
        database: where they are.
        key: of the sequence.
        dry_run: count only; nothing is written.
        on_batch: told the tally so far, the last id looked at and the highest there is.

    Raises:
        Permanent: there is no such sequence, or it is paused: nobody comes in then.
    """
    return _walk(database, (ALL, ALL_ASK), key, {}, dry_run, on_batch)


def enroll_selected(
    database: Database,
    key: str,
    where_sql: str,
    parameters: Mapping[str, Any],
    *,
    dry_run: bool = False,
    on_batch: Callable[[Tally, int, int], None] | None = None,
) -> Tally:
    """Enroll those subscribers of whom a predicate holds; else as `enroll_all`.

    Args:
        database: where they are.
        key: of the sequence.
        where_sql: a predicate over the row `s` of `subscriber`, made by our own code, never text
            that somebody typed; asked of 5 000 subscribers at a time.
        parameters: of the predicate; no name of the statement's own (`key`, `version`, `after`,
            `stream_class`).
        dry_run: count only; nothing is written.
        on_batch: told the tally so far, the last id looked at and the highest there is.

    Raises:
        Permanent: as `enroll_all`.
        ValueError: a parameter has a name of the statement's own.
    """
    if taken := {"key", "version", "after", "stream_class"} & parameters.keys():
        raise ValueError(f"{sorted(taken)[0]!r} is a parameter of the statement: name it otherwise")
    statements = (
        {write: selecting(where_sql, write=write) for write in (True, False)},
        {write: selecting_to_ask(where_sql, write=write) for write in (True, False)},
    )
    return _walk(database, statements, key, dict(parameters), dry_run, on_batch)


def _walk(
    database: Database,
    statements: Statements,
    key: str,
    parameters: dict[str, Any],
    dry_run: bool,
    on_batch: Callable[[Tally, int, int], None] | None,
) -> Tally:
    """Enroll by id, batch by batch, until nobody is left to look at."""
    tally, after = Tally(), 0
    with database.snapshot() as connection:
        last = int(connection.execute(LAST_ID).scalar_one())
    while True:
        row, told = _batch(database, statements, key, parameters | {"after": after}, dry_run)
        if row.last_id is None:
            return tally
        tally, after = tally.plus(told), row.last_id
        if on_batch is not None:
            on_batch(tally, after, max(last, after))
        if after >= last:
            return tally


def enroll_identities(
    database: Database, key: str, identities: Sequence[bytes], *, dry_run: bool = False
) -> Tally:
    """Enroll those whose address HMACs are given, at most 5 000, in one transaction.

    Args:
        database: where they are.
        key: of the sequence.
        identities: 32 octets each; nobody twice.
        dry_run: count only; nothing is written.

    Returns:
        The tally; `unknown_at` are the positions in `identities` of those that nobody has.

    Raises:
        Permanent: as `enroll_all`.
        ValueError: more than 5 000.
    """
    if len(identities) > BATCH:
        raise ValueError(f"{len(identities)} identities at once: expected at most {BATCH}")
    values = {"identities": list(identities)}
    return _batch(database, (SOME, SOME_ASK), key, values, dry_run)[1]


def require_open(connection: Connection, key: str, *, hold: bool = False) -> Any:
    """The row of a sequence that people may enter.

    Args:
        connection: inside a transaction.
        key: of the sequence.
        hold: keep it from being paused or published until the transaction ends.

    Raises:
        Permanent: there is no such sequence, it is paused, or lets nobody in by hand.
    """
    row = connection.execute(TARGET_HELD if hold else TARGET_SEEN, {"key": key}).one_or_none()
    if row is None:
        raise Permanent(
            f"no sequence {key!r} is published; `dripfleet sequence list` names those there are,"
            " `dripfleet sequence apply FILE` publishes one"
        )
    if row.paused_at is not None:
        raise Permanent(
            f"sequence {key!r} is paused since {row.paused_at:%Y-%m-%d %H:%M %Z}"
            f" ({row.pause_reason}), and nobody enters a paused one; run `dripfleet sequence resume"
            f" {key}` first"
        )
    if row.entry.get("manual") is False:
        raise Permanent(
            f"sequence {key!r} takes people by its trigger alone; set 'manual: true' in its 'entry'"
            " to enroll by hand too, or record what triggers it"
        )
    return row


def _batch(
    database: Database,
    statements: Statements,
    key: str,
    parameters: dict[str, Any],
    dry_run: bool,
) -> tuple[Any, Tally]:
    opened = database.snapshot() if dry_run else database.transaction()
    with opened as connection:
        target = require_open(connection, key, hold=not dry_run)
        draining = target.draining_since is not None
        # Who comes in where nobody new does is judged too, so that each has a reason.
        ruled = entry_from_json(target.entry).ruled or (draining and not dry_run)
        values = {"key": key, "stream_class": target.stream_class, **parameters}
        if not dry_run:
            values |= {"cause": "hand"} if ruled else {"version": target.version}
        row = connection.execute(statements[ruled][not dry_run], values).one()
        if dry_run and draining:
            already = row.already_enrolled
            return row, replace(_refused(row), already_enrolled=already, refused=row.eligible)
        if not ruled:
            return row, _told(row, dry_run)
        if dry_run or not row.asked:
            return row, replace(_refused(row), waiting=row.eligible)
        entered, already, refused = admit_asked(connection, key, Versions(database), row.asked)
        waiting = row.eligible - entered - already - refused
        return row, replace(
            _refused(row),
            enrolled=entered,
            already_enrolled=already,
            refused=refused,
            waiting=waiting,
        )


def _told(row: Any, dry_run: bool) -> Tally:
    enrolled = row.eligible if dry_run else row.enrolled
    already = row.already_enrolled + row.eligible - enrolled
    return replace(_refused(row), enrolled=enrolled, already_enrolled=already)


def _refused(row: Any) -> Tally:
    """Those of whom one knows without asking for rules."""
    unknown = tuple(row.unknown or ())
    return Tally(
        stopped=row.stopped, suppressed=row.suppressed, unknown=len(unknown), unknown_at=unknown
    )
