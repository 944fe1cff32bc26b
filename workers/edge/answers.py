"""A request that comes twice with one `Idempotency-Key` is worked on once, and answered the same.

The answer is kept for a month. One that was never written (its process died) is worked on again after
a minute: whatever `/v1` takes does nothing when it comes twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from sqlalchemy import text

from models.session import Database
from workers.edge.problem import Problem

LONGEST: Final = 200
ABANDONED: Final = 60.0
"""Seconds after which a request that was not answered may be worked on again."""
KEPT_DAYS: Final = 30

BEGIN = text("""
INSERT INTO api_answer AS a (api_key, idempotency_key, request_sha256) VALUES (:caller, :key, :request)
ON CONFLICT (api_key, idempotency_key) DO UPDATE SET at = clock_timestamp()
WHERE a.status IS NULL AND a.request_sha256 = excluded.request_sha256
  AND a.at < clock_timestamp() - make_interval(secs => :abandoned)
RETURNING 1
""")
KNOWN = text("""
SELECT request_sha256, status, answer FROM api_answer
WHERE api_key = :caller AND idempotency_key = :key
""")
FINISH = text("""
UPDATE api_answer SET status = :status, answer = CAST(:answer AS jsonb)
WHERE api_key = :caller AND idempotency_key = :key
""")
RELEASE = text("""
DELETE FROM api_answer WHERE api_key = :caller AND idempotency_key = :key AND status IS NULL
""")
FORGET = text("""
DELETE FROM api_answer WHERE at < clock_timestamp() - make_interval(days => :days)
""")


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said, and whether it was said before."""

    content: dict[str, Any]
    again: bool = False


def once(
    database: Database,
    caller: str,
    key: str | None,
    request: str,
    work: Callable[[], dict[str, Any]],
) -> Answer:
    """Do the work of a request, unless it was done.

    Args:
        database: where answers are kept.
        caller: id of the API key.
        key: of the request; None: it is worked on each time it comes.
        request: all that it asks, to tell another one under the same key.
        work: returns what is answered; what it raises is answered each time anew.

    Raises:
        Problem: 409 while the first is being worked on, 422 if the key was another request's.
    """
    if key is None:
        return Answer(work())
    if not 0 < len(key) <= LONGEST or not key.isprintable():
        raise Problem(400, f"Idempotency-Key: expected 1 to {LONGEST} printable characters")
    digest = sha256(request.encode("utf-8", "surrogatepass")).digest()
    values = {"caller": caller, "key": key, "request": digest, "abandoned": ABANDONED}
    with database.transaction() as connection:
        if connection.execute(BEGIN, values).one_or_none() is None:
            before = connection.execute(KNOWN, values).one_or_none()
            if before is not None and bytes(before.request_sha256) != digest:
                raise Problem(422, "this Idempotency-Key was another request's; give each its own")
            if before is None or before.status is None:
                raise Problem(
                    409,
                    "a request with this Idempotency-Key is being worked on; send it again later",
                    {"Retry-After": "5"},
                )
            return Answer(before.answer, again=True)
    try:
        content = work()
    except BaseException:
        with database.transaction() as connection:
            connection.execute(RELEASE, values)
        raise
    with database.transaction() as connection:
        connection.execute(FINISH, {**values, "status": 200, "answer": json.dumps(content)})
    return Answer(content)


def forget(database: Database) -> int:
    """Drop answers of more than a month ago; returns how many."""
    with database.transaction() as connection:
        return connection.execute(FORGET, {"days": KEPT_DAYS}).rowcount
