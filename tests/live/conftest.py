"""The fleet of a test: real Postgres, real SMTP, durations a hundred times shorter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from models.session import Database
from tasks.moves.settings import DeliverySettings
from tests.live.fleet import Fleet, Make
from workers.embedded.faults import Faults
from workers.embedded.sink import in_thread


@pytest.fixture
def short_durations(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in DeliverySettings().shortened(100).environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DRIPFLEET_BACKOFF_FIRST", "0.3")


@pytest.fixture
def fleet_with(database: Database, tmp_path: Path, short_durations: None) -> Iterator[Make]:
    """A fleet whose sink has faults, by `Faults.parse`."""
    started: list[Any] = []

    def make(*faults: str) -> Fleet:
        plan = Faults.parse(faults, bounce_addresses=True)
        context = in_thread(tmp_path / "mail", faults=plan)
        sink = context.__enter__()
        fleet = Fleet(database, sink, tmp_path)
        with database.transaction() as connection:
            connection.execute(text("UPDATE stream SET doubt_hold = interval '0.2 s'"))
        started.append((context, fleet))
        return fleet

    yield make
    for context, fleet in started:
        fleet.service.loop.join(10)
        context.__exit__(None, None, None)


@pytest.fixture
def fleet(fleet_with: Make) -> Fleet:
    return fleet_with()
