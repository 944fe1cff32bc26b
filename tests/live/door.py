"""A sequence with a door, and what happens to people before it."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

from pydantic import SecretStr
from sqlalchemy import text

from models.session import Database
from tasks.moves.settings import IdentitySettings
from tasks.sequence.news import Acted, Doorkeeper
from tasks.sequence.store import Planner
from tests.live import seeds

SECRET = SecretStr("a secret of the tests")
BODY = """
key: {key}
title: A door
class: marketing
topic: news
timezone: {{source: subscriber, fallback: UTC}}
entry: {{{entry}}}
{more}
steps:
  - {{id: mail, send: {{template: test/mail}}}}
  - {{id: wait, wait: {{delay: 1d}}}}
  - {{id: last, send: {{template: test/mail}}}}
"""
PAUSED = "trigger: {event: paused}"


class Door:
    """One database with people, sequences, a doorkeeper and a planner; the clock is Postgres's."""

    def __init__(self, database: Database, people: int = 1) -> None:
        self.database = database
        self.people = seeds.subscribers(database, people)
        self.keeper = Doorkeeper(database)
        self.planner = Planner(
            database, IdentitySettings(secret_message_id=SECRET), dt.timedelta(days=3)
        )

    def sequence(self, entry: str = PAUSED, more: str = "", key: str = "door") -> str:
        """Publish one, and opt everybody in to its topic."""
        seeds.sequence(self.database, BODY.format(key=key, entry=entry, more=more))
        self.run(
            "INSERT INTO consent (subscriber_id, topic, opted_in, source)"
            " SELECT id, 'news', true, 'test' FROM subscriber ON CONFLICT DO NOTHING"
        )
        return key

    def run(self, sql: str, **values: Any) -> list[Any]:
        with self.database.transaction() as connection:
            done = connection.execute(text(sql), values)
            return list(done) if done.returns_rows else []

    def event(
        self, who: int, name: str = "paused", ago: float = 0, late: float = 0, **properties: Any
    ) -> int:
        """An event of `ago` seconds ago that was recorded just now, or `late` seconds ago."""
        rows = self.run(
            "INSERT INTO event (subscriber_id, name, occurred_at, recorded_at, properties)"
            " VALUES (:who, :name, clock_timestamp() - make_interval(secs => :ago),"
            " clock_timestamp() - make_interval(secs => :late), CAST(:properties AS jsonb))"
            " RETURNING id",
            who=who,
            name=name,
            ago=ago,
            late=late,
            properties=json.dumps(properties),
        )
        return int(rows[0].id)

    def act(self) -> Acted:
        """Act until there is nothing to do."""
        told = self.keeper.work(budget=30)
        return Acted(**told)

    def plan(self) -> None:
        while self.planner.scan().enrollments:
            pass

    def entries(self, key: str = "door") -> list[tuple[int, int, bool]]:
        """Who entered: subscriber, number of the entry, whether it goes on."""
        rows = self.run(
            "SELECT subscriber_id, entry_no, active FROM enrollment WHERE sequence_key = :key"
            " ORDER BY subscriber_id, entry_no",
            key=key,
        )
        return [tuple(row) for row in rows]

    def refused(self) -> dict[str, int]:
        return {row.reason: row.n for row in self.run("SELECT reason, n FROM entry_refusal")}

    def waiting(self) -> list[str | None]:
        return [row.why for row in self.run("SELECT why FROM entry_request ORDER BY id")]

    def leave(self, who: int, days_ago: float = 0) -> None:
        """End whoever is in, that long ago."""
        self.run(
            "UPDATE enrollment SET active = false, due_at = NULL, end_reason = 'completed',"
            " ended_at = clock_timestamp() - make_interval(secs => :s)"
            " WHERE subscriber_id = :who AND active",
            who=who,
            s=days_ago * 86400,
        )

    def again(self) -> None:
        """As if what people wait for were to be looked at now."""
        self.run("UPDATE entry_request SET look_at = clock_timestamp()")
