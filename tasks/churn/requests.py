"""Single scores asked for, as rows: asked, then answered by a score or by a word on why there is none."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from models.session import Database

ASK = text("""
INSERT INTO score_request (name, subscriber_id) VALUES (:name, :id)
ON CONFLICT (name, subscriber_id) DO UPDATE SET asked_at = clock_timestamp(), said = NULL
""")
ANSWER = text("""
SELECT q.said, q.name IS NOT NULL AND q.said IS NULL AS waiting, s.value, s.artifact, s.scored_at
FROM (SELECT 1) one LEFT JOIN score_request q ON q.name = :name AND q.subscriber_id = :id
LEFT JOIN score s ON s.name = :name AND s.subscriber_id = :id
""")


def ask(database: Database, name: str, subscriber: int) -> None:
    """Ask for one score; ring `churn.one` after it."""
    with database.transaction() as connection:
        connection.execute(ASK, {"name": name, "id": subscriber})


def answered(database: Database, name: str, subscriber: int) -> Any:
    """How a request stands: said, waiting, value, artifact, scored_at."""
    with database.transaction() as connection:
        return connection.execute(ANSWER, {"name": name, "id": subscriber}).one()
