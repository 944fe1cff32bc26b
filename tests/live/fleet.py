"""A planner and a send worker of one test, without Celery between them."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import text

from models.session import Database
from tasks.moves.settings import IdentitySettings
from tasks.send.render import Bundle
from tasks.send.service import Service
from tasks.send.settings import SendSettings
from tasks.sequence.store import Planner
from tests.live import seeds
from workers.embedded.sink import Sink

SECRET = SecretStr("a secret of the tests")


class Fleet:
    """Planner and send worker of one test, without Celery between them."""

    def __init__(self, database: Database, sink: Sink, folder: Path) -> None:
        self.database = database
        self.sink = sink
        self.settings = SendSettings(
            smtp_url=SecretStr(sink.url),
            secret_token=SECRET,
            journal_dir=folder / "journals",
            connections=4,
            drain_wait=10,
        )
        self.planner = Planner(
            database, IdentitySettings(secret_message_id=SECRET), dt.timedelta(days=3)
        )
        self.service = Service(database, self.settings)

    def scan(self) -> None:
        while self.planner.scan().enrollments:
            pass

    def send(self, stream: str = "marketing") -> dict[str, int]:
        """Answer doorbells until nothing is due."""
        counts: dict[str, int] = {}
        while (ticket := self.service.store.answer(stream, 500)) is not None:
            for outcome, n in ticket.wait(15).items():
                counts[outcome] = counts.get(outcome, 0) + n
        return counts

    def enrolled(self, n: int = 1, source: str = "", bundle: Bundle = seeds.MAIL) -> list[int]:
        ids = seeds.subscribers(self.database, n)
        source = source or seeds.ONE_MAIL.format(class_="marketing", template="test/mail")
        key = seeds.sequence(self.database, source, {bundle.name: bundle})
        seeds.enroll(self.database, key, ids)
        self.scan()
        return ids

    def one(self, sql: str, **parameters: Any) -> Any:
        with self.database.transaction() as connection:
            return connection.execute(text(sql), parameters).one()

    def states(self) -> dict[str, int]:
        return seeds.states(self.database)


Make = Callable[..., Fleet]


def eventually(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)
