"""When each tick last did its work: how one sees that beat, or a pool, has stopped."""

from __future__ import annotations

import json

from sqlalchemy import Connection, text

TICKED = text("""
INSERT INTO tick AS t (name, seen_at, detail)
VALUES (:name, clock_timestamp(), CAST(:detail AS jsonb))
ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at, detail = excluded.detail
""")


def ticked(connection: Connection, name: str, **detail: int) -> None:
    """Write that this tick's work was done just now, with counts."""
    connection.execute(TICKED, {"name": name, "detail": json.dumps(detail)})
