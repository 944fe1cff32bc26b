"""Keys by which other systems write and read through the edge: made once, kept as a hash, turned, revoked.

A key is `df_ID_SECRET`. The secret is 256 random bits, so its plain SHA-256 tells nothing that could be
tried; who reads the table can use none of them.
"""

from __future__ import annotations

import datetime as dt
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from sqlalchemy import Connection, text

from tasks.errors import Permanent

WRITE: Final = ("events", "subscribers", "enrollments", "messages")
READ: Final = tuple(f"{each}:read" for each in WRITE)
SCOPES: Final = (*WRITE, *READ)
"""What a key may do; who may write may not read, since rows of people are told then."""
LONGEST_NAME: Final = 100
_KEY: Final = re.compile(r"df_([a-z0-9]{8})_([\w-]{43})", re.ASCII)

CREATE = text("""
INSERT INTO api_key (id, name, sha256, scopes, expires_at)
VALUES (:id, :name, :sha256, :scopes, clock_timestamp() + CAST(:life AS interval))
""")
FIND = text("""
SELECT id, name, sha256, scopes FROM api_key
WHERE id = :id AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
""")
LIST = text("""
SELECT id, name, scopes, created_at, expires_at, revoked_at,
    CASE WHEN revoked_at IS NOT NULL THEN 'revoked'
         WHEN expires_at <= clock_timestamp() THEN 'expired' ELSE 'good' END AS stands
FROM api_key ORDER BY created_at, id
""")
REVOKE = text("""
UPDATE api_key SET revoked_at = clock_timestamp() WHERE id = :id AND revoked_at IS NULL
""")
HOLD = text("SELECT name, scopes, revoked_at FROM api_key WHERE id = :id FOR UPDATE")
END = text("""
UPDATE api_key
SET expires_at = least(expires_at, clock_timestamp() + CAST(:overlap AS interval)) WHERE id = :id
""")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """Who calls, and what they may do."""

    id: str
    name: str
    scopes: frozenset[str]


def create(
    connection: Connection, name: str, scopes: Sequence[str], life: dt.timedelta | None = None
) -> str:
    """Make a key; the text that is returned is kept nowhere.

    Args:
        connection: inside a transaction.
        name: of the system that will use it.
        scopes: of `SCOPES`, what it may do.
        life: it is good for so long; None: until it is revoked.

    Raises:
        Permanent: no name, or a scope that there is none of.
    """
    name = name.strip()
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise Permanent(
            f"a key's name is 1 to {LONGEST_NAME} characters on one line: name who will use it"
        )
    if not scopes or (odd := sorted({*scopes} - {*SCOPES})):
        said = f"there is no scope {odd[0]!r}" if scopes else "a key without a scope can do nothing"
        raise Permanent(f"{said}; expected one or more of {', '.join(SCOPES)}")
    key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    connection.execute(
        CREATE,
        {
            "id": key_id,
            "name": name,
            "sha256": _hash(secret),
            "scopes": sorted({*scopes}),
            "life": life,
        },
    )
    return f"df_{key_id}_{secret}"


def find(connection: Connection, given: str) -> ApiKey | None:
    """Whose key this is, if it is good; None for anything else."""
    parts = _KEY.fullmatch(given)
    if parts is None:
        return None
    row = connection.execute(FIND, {"id": parts[1]}).one_or_none()
    if row is None or not hmac.compare_digest(bytes(row.sha256), _hash(parts[2])):
        return None
    return ApiKey(row.id, row.name, frozenset(row.scopes))


def listed(connection: Connection) -> list[dict[str, Any]]:
    """Every key: what it is, never the key itself."""
    return [dict(row) for row in connection.execute(LIST).mappings()]


def revoke(connection: Connection, key_id: str) -> bool:
    """End a key now; False: it was revoked before.

    Raises:
        Permanent: there is none of that id.
    """
    _require(connection, key_id)
    return connection.execute(REVOKE, {"id": key_id}).rowcount > 0


def rotate(connection: Connection, key_id: str, overlap: dt.timedelta) -> str:
    """Make a new key for the same use, and let the old one end after `overlap`.

    Raises:
        Permanent: there is none of that id, or it is revoked.
    """
    row = _require(connection, key_id)
    if row.revoked_at is not None:
        raise Permanent(f"key {key_id} is revoked; make a new one with `dripfleet key create`")
    made = create(connection, row.name, row.scopes)
    connection.execute(END, {"id": key_id, "overlap": overlap})
    return made


def _require(connection: Connection, key_id: str) -> Any:
    row = connection.execute(HOLD, {"id": key_id}).one_or_none()
    if row is None:
        raise Permanent(f"there is no key {key_id!r}; `dripfleet key list` shows their ids")
    return row


def _hash(secret: str) -> bytes:
    return sha256(secret.encode()).digest()
