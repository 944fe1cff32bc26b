"""Pages of what there is, newest first: people, mails, ways through sequences, and what people did.

A page goes on behind the last row of the one before, by its id, so that what is inserted meanwhile
moves nothing: no row comes twice, and none that stood at the first page is left out. (One whose
transaction began before that page and was committed after it may be: who has to hear of everything
listens to webhooks.) A cursor is signed with what it lists: of another list, or made up, it is none.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from sqlalchemy import Connection, text

from tasks.errors import Permanent

MOST: Final = 500
"""Rows of a page."""
PATIENCE: Final = "5s"
_TAG: Final = (
    13  # octets of a signature; with the id a multiple of three, which base64 spells one way
)

Filters = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _List:
    """One list: its rows without WHERE, the condition of each filter, and what holds of all."""

    rows: str
    filters: Mapping[str, str]
    always: str = "true"


# `id` is what the pages go by. A condition stands in the query only if it is asked for: Postgres plans
# for what there is, and not for what may be NULL.
_LISTS: Final[dict[str, _List]] = {
    "subscribers": _List(
        """
SELECT r.id, r.external_id, r.address, r.first_name, r.locale, r.zone, r.attributes,
    CASE WHEN r.stopped_at IS NULL THEN 'subscribed' ELSE 'stopped' END AS status,
    r.stopped_at, r.stopped_reason, r.created_at, r.updated_at
FROM subscriber r""",
        {
            "external_id": "r.external_id = :external_id",
            "status": "(r.stopped_at IS NULL) = (:status = 'subscribed')",
        },
        "r.erased_at IS NULL",
    ),
    "messages": _List(
        """
SELECT r.id, r.subscriber_id AS subscriber, r.stream, r.sequence_key AS sequence,
    r.sequence_version AS version, r.step_id AS step, r.entry_no AS entry, r.template,
    r.state::text AS state, r.reason, r.attempts, r.last_code AS code, r.run_at AS due_at, r.created_at,
    r.terminal_at
FROM message r""",
        {
            "subscriber": "r.subscriber_id = :subscriber",
            "sequence": "r.sequence_key = :sequence",
            "state": "r.state::text = :state",
        },
    ),
    "enrollments": _List(
        """
SELECT r.id, r.subscriber_id AS subscriber, r.sequence_key AS sequence, r.sequence_version AS version,
    r.entry_no AS entry, r.step_id AS step, r.active, NULLIF(r.due_at, 'infinity') AS due_at,
    r.entered_at, r.ended_at, r.end_reason
FROM enrollment r""",
        {
            "subscriber": "r.subscriber_id = :subscriber",
            "sequence": "r.sequence_key = :sequence",
            "active": "r.active = :active",
        },
    ),
    "events": _List(
        """
SELECT r.id, r.subscriber_id AS subscriber, r.name, r.occurred_at, r.recorded_at, r.properties
FROM event r""",
        {"subscriber": "r.subscriber_id = :subscriber", "name": "r.name = :name"},
    ),
}
LISTS: Final = (*_LISTS,)


class BadCursor(Permanent):
    """A cursor that is none of this list."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows; `next` is the cursor of those behind them, None at the end."""

    data: list[dict[str, Any]]
    next: str | None


def page(
    connection: Connection,
    what: str,
    filters: Filters,
    *,
    key: bytes,
    cursor: str | None = None,
    limit: int = 100,
) -> Page:
    """One page.

    Args:
        connection: inside a transaction.
        what: one of `LISTS`.
        filters: names of that list, and what is asked for; None asks for nothing.
        key: signs cursors.
        cursor: of the page before.
        limit: rows, `MOST` at most.

    Raises:
        BadCursor: the cursor is none of this list and these filters.
    """
    asked = {name: value for name, value in filters.items() if value is not None}
    list_ = _LISTS[what]
    conditions = [list_.always, *(list_.filters[name] for name in asked)]
    values = {**asked, "limit": limit + 1}
    if cursor is not None:
        conditions.append("r.id < :before")
        values["before"] = _read(cursor, what, asked, key)
    connection.execute(text(f"SET LOCAL statement_timeout = '{PATIENCE}'"))
    query = f"{list_.rows} WHERE {' AND '.join(conditions)} ORDER BY r.id DESC LIMIT :limit"
    rows = [dict(row) for row in connection.execute(text(query), values).mappings()]
    more = len(rows) > limit
    last = rows[limit - 1]["id"] if more else None
    return Page(rows[:limit], None if last is None else _signed(last, what, asked, key))


def _signed(last: int, what: str, asked: Filters, key: bytes) -> str:
    raw = last.to_bytes(8, "big")
    return urlsafe_b64encode(raw + _tag(raw, what, asked, key)).decode().rstrip("=")


def _read(cursor: str, what: str, asked: Filters, key: bytes) -> int:
    try:
        raw = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
    except ValueError:
        raw = b""
    if not hmac.compare_digest(raw[8:], _tag(raw[:8], what, asked, key)):
        raise BadCursor(
            "the cursor is none of this list with these filters; take `next` of the page before, or begin"
            " without one"
        )
    return int.from_bytes(raw[:8], "big")


def _tag(raw: bytes, what: str, asked: Filters, key: bytes) -> bytes:
    said = repr((what, sorted(asked.items()))).encode("utf-8", "surrogatepass")
    return hmac.digest(key, b"dripfleet cursor 1\x00" + raw + said, sha256)[:_TAG]
