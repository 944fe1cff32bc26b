"""A stream of a region is rung for and claimed there, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from tasks import base, names, regions
from tasks.send.service import Service
from tasks.sequence import entry
from tests.live.fleet import Fleet
from workers.celery import build
from workers.settings import RedisSettings


@pytest.fixture
def abroad(fleet: Fleet, tmp_path: Path) -> Iterator[Service]:
    """A second send worker, of region eu."""
    settings = fleet.settings.model_copy(
        update={"region": "eu", "journal_dir": tmp_path / "journals-eu"}
    )
    service = Service(fleet.database, settings)
    yield service
    service.loop.join(10)


@pytest.fixture
def app(valkey_url: str) -> Iterator[Celery]:
    made = build("sequence", RedisSettings.model_validate({"redis_url": valkey_url}))
    yield made
    made.close()


def move(fleet: Fleet, region: str | None) -> bool:
    with fleet.database.transaction() as connection:
        return regions.move(connection, "marketing", region)


def test_only_the_workers_of_its_region_claim_a_stream(fleet: Fleet, abroad: Service) -> None:
    fleet.enrolled(3)
    assert abroad.store.answer("marketing", 500) is None, "it has no region yet"
    assert move(fleet, "eu") and not move(fleet, "eu")
    assert fleet.send() == {}, "a doorbell that still lies in the old queue finds nothing"
    ticket = abroad.store.answer("marketing", 500)
    assert ticket is not None and ticket.wait(15) == {"claimed": 3, "sent": 3}
    assert fleet.states() == {"sent": 3}


def test_what_is_due_moves_with_its_stream(fleet: Fleet, abroad: Service) -> None:
    fleet.enrolled(2)
    move(fleet, "eu")
    move(fleet, None)
    assert abroad.store.answer("marketing", 500) is None
    assert fleet.send() == {"claimed": 2, "sent": 2}


def test_the_dispatcher_rings_and_asks_for_a_canary_where_the_row_says(
    fleet: Fleet, app: Celery, valkey_url: str
) -> None:
    fleet.enrolled(3)
    move(fleet, "eu")
    base.configure(fleet.database, "sequence")
    done: Any = entry.dispatch.apply(kwargs=dict(names.tick())).result
    assert done["rung"] == {"marketing": 1}
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        depths = {key: client.llen(key) for key in client.scan_iter() if client.type(key) == "list"}
        assert depths == dict.fromkeys(names.POOLS, 1) | {"send@eu": 1}, (
            "a canary each, and one doorbell, which goes before a canary of its queue"
        )
        bell = client.lindex("send@eu", 0)
    assert bell is not None and '"task": "send.deliver"' in bell


def test_a_region_that_no_stream_names_is_forgotten(fleet: Fleet) -> None:
    move(fleet, "eu")
    with fleet.database.transaction() as connection:
        assert regions.queues(connection) == [*names.POOLS, "send@eu"]
        connection.exec_driver_sql("INSERT INTO canary VALUES ('send@eu', 'w', now())")
    move(fleet, "us")
    with fleet.database.transaction() as connection:
        assert regions.queues(connection) == [*names.POOLS, "send@us"]
        assert connection.exec_driver_sql("SELECT count(*) FROM canary").scalar_one() == 0
