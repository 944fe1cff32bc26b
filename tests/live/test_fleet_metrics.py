"""What the fleet's metrics say is what the servers say, and asking often costs them nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import Connection, event, text

from models.session import Database
from tasks import metrics, regions
from tasks.sequence import room
from tests.live.fleet import Fleet
from workers.metrics.families import FLEET
from workers.metrics.fleet import FleetCollector
from workers.metrics.process import ProcessMeter

GONE = "postgresql://nobody:secret@127.0.0.1:1/none"


@pytest.fixture
def counted() -> Iterator[CollectorRegistry]:
    """This process counts."""
    registry = CollectorRegistry()
    before = metrics.use(ProcessMeter(registry))
    yield registry
    metrics.use(before)


def registered(collector: FleetCollector) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def by_reason(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    return {
        (sample.labels["outcome"], sample.labels["reason"]): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "dripfleet_messages_total"
    }


ARRIVED = {
    "segment_members": {"segment": "vip", "state": "unknown"},
    "segment_edges": {"segment": "vip", "edge": "join"},
    "segment_took_seconds": {"segment": "vip"},
    "segment_faults": {"segment": "vip"},
    "entries_refused": {"sequence": "one-mail", "reason": "filter"},
    "entries_waiting": {"sequence": "one-mail", "reason": "cooldown"},
    "sequence_draining": {"sequence": "one-mail"},
}


def arrivals(connection: Connection) -> None:
    """A segment that is late, one that is new, and people before the door of a sequence."""
    for statement in (
        "INSERT INTO segment (key, title, condition, refresh, members, unknown, took, faults, fault,"
        " evaluated_at, due_at) VALUES ('vip', 'VIP', 'sub.vip', '1h', 9, 2, 0.25, 3, 'x',"
        " now() - interval '2 h', now() - interval '1 h'),"
        " ('new', 'N', 'sub.vip', '1h', 0, 0, NULL, 0, NULL, NULL, now() + interval '1 h')",
        "INSERT INTO segment_edge (segment, subscriber_id, join_no, edge, cause, at)"
        " SELECT 'vip', id, 1, 'join', 'event', now() - interval '2 h' * (id - 1) FROM"
        " (SELECT row_number() OVER (ORDER BY id) AS id FROM subscriber) s",
        "INSERT INTO entry_request (sequence_key, subscriber_id, cause, why)"
        " SELECT 'one-mail', min(id), 'event', 'cooldown' FROM subscriber",
        "INSERT INTO event_news (event_id, occurred_at, recorded_at, subscriber_id, name)"
        " VALUES (1, now(), now() - interval '1 min', 1, 'x')",
        "UPDATE sequence SET draining_since = now(), drain_reason = 'over'",
        "INSERT INTO webhook_endpoint (name, url, types, salt)"
        " VALUES ('crm', 'https://crm.example', ARRAY['message.*'], 's')",
    ):
        connection.execute(text(statement))
    for n in (1, 1, 3):
        room.refuse(connection, [room.Refusal(n, "one-mail", "filter", {})] * n)


def test_the_fleet_serves_each_metric_of_the_table_and_no_other(
    fleet: Fleet, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIPFLEET_EDGE_URL", "http://127.0.0.1:1")  # nobody is there: not ready
    fleet.enrolled(3)
    fleet.send()
    with fleet.database.transaction() as connection:
        connection.execute(text("INSERT INTO canary VALUES ('send', 'one', clock_timestamp())"))
        connection.execute(
            text(
                "INSERT INTO schedule (key, cron, zone, target, catch_up, max_lateness, next_wall,"
                " next_fire_at, tzdata) VALUES ('news', '0 9 * * 1', 'UTC', '{}', 'latest', '1 h',"
                " now(), now() - interval '5 min', '2026.6'), ('other', '0 9 * * 1', 'UTC', '{}',"
                " 'latest', '1 h', now(), now() + interval '5 min', '2026.6')"
            )
        )
        connection.execute(
            text(
                "INSERT INTO schedule_fire (schedule_key, fire_at, state)"
                " VALUES ('news', now() - interval '1 h', 'claimed')"
            )
        )
        regions.move(connection, "transactional", "eu")
        connection.execute(
            text("INSERT INTO word_count VALUES ('one-mail', 'mail', 1, 'model', 3)")
        )
        connection.execute(
            text(
                "INSERT INTO model_circuit VALUES"
                " ('gpt', clock_timestamp() + interval '60 s', 3, 'answers 429')"
            )
        )
        connection.execute(text("INSERT INTO tick VALUES ('upkeep.reap', clock_timestamp())"))
        arrivals(connection)
    registry = registered(FleetCollector(fleet.database, valkey_url))
    found = {family.name: family for family in registry.collect()}
    assert set(found) == {family.name for family in FLEET}
    for family in FLEET:
        assert found[family.name].type == family.kind
        assert found[family.name].samples, f"{family.name} says nothing"
        for sample in found[family.name].samples:
            assert tuple(sample.labels) == family.labels
    assert {
        name: registry.get_sample_value(f"dripfleet_fleet_{name}", labels)
        for name, labels in ARRIVED.items()
    } == {
        "segment_members": 2, "segment_edges": 1, "segment_took_seconds": 0.25, "segment_faults": 3,
        "entries_refused": 5, "entries_waiting": 1, "sequence_draining": 1,
    }  # fmt: skip
    of_vip = {"segment": "vip"}
    age = "dripfleet_fleet_segment_age_seconds"
    assert registry.get_sample_value(age, of_vip) == pytest.approx(7200, abs=60)
    overdue = "dripfleet_fleet_segment_overdue_seconds"
    assert registry.get_sample_value(overdue, of_vip) == pytest.approx(3600, abs=60)
    assert registry.get_sample_value(overdue, {"segment": "new"}) == 0
    heard = "dripfleet_fleet_event_oldest_seconds"
    assert registry.get_sample_value(heard) == pytest.approx(60, abs=30)
    worded = {"sequence": "one-mail", "outcome": "model"}
    assert registry.get_sample_value("dripfleet_fleet_words", worded) == 3
    closed = registry.get_sample_value("dripfleet_fleet_model_closed_seconds", {"model": "gpt"})
    assert closed is not None and 0 < closed <= 60
    assert registry.get_sample_value("dripfleet_fleet_texts_wanted", {"reason": "budget"}) == 0
    ended = {"sequence": "one-mail", "step": "mail", "outcome": "sent"}
    assert registry.get_sample_value("dripfleet_fleet_outcomes", ended) == 3
    assert registry.get_sample_value("dripfleet_fleet_workers", {"pool": "send"}) == 1
    assert registry.get_sample_value("dripfleet_fleet_workers", {"pool": "churn"}) == 0
    assert registry.get_sample_value("dripfleet_fleet_queue_depth", {"queue": "send"}) == 0
    assert registry.get_sample_value("dripfleet_fleet_queue_depth", {"queue": "send@eu"}) == 0
    assert registry.get_sample_value("dripfleet_fleet_workers", {"pool": "send@eu"}) == 0
    lag = "dripfleet_fleet_schedule_lag_seconds"
    assert registry.get_sample_value(lag, {"schedule": "news"}) == pytest.approx(3600, abs=60)
    assert registry.get_sample_value(lag, {"schedule": "other"}) == 0
    assert b"@example.com" not in generate_latest(registry)


def test_a_storm_of_scrapes_is_one_look(database: Database, valkey_url: str) -> None:
    now = [0.0]
    looks = []

    def count(*_: Any) -> None:
        looks.append(1)

    event.listen(database.engine, "begin", count)
    collector = FleetCollector(database, valkey_url, clock=lambda: now[0])
    scrape: Callable[[int], list[Any]] = lambda _: list(collector.collect())  # noqa: E731
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(scrape, range(100)))
    assert len(looks) == 1
    now[0] = 5.1
    scrape(0)
    assert len(looks) == 2


def test_a_server_that_is_gone_is_a_metric_and_the_other_keeps_its_own(
    database: Database, valkey_url: str
) -> None:
    nowhere = Database(GONE)
    lost = registered(FleetCollector(nowhere, valkey_url))
    assert lost.get_sample_value("dripfleet_fleet_postgres_up") == 0
    nowhere.close()
    half = registered(FleetCollector(database, "redis://127.0.0.1:1/0", kept=60))
    assert half.get_sample_value("dripfleet_fleet_redis_up") == 0
    assert half.get_sample_value("dripfleet_fleet_postgres_up") == 1
    due = {"stream": "marketing", "state": "due"}
    assert half.get_sample_value("dripfleet_fleet_messages", due) == 0


def test_what_a_send_worker_did_is_counted_by_outcome_and_reason(
    fleet: Fleet, counted: CollectorRegistry
) -> None:
    fleet.enrolled(5)
    assert fleet.send() == {"claimed": 5, "sent": 5}
    assert by_reason(counted) == {("sent", "reply"): 5}
    assert counted.get_sample_value("dripfleet_claimed_total", {"stream": "marketing"}) == 5
    reply = {"stage": "dot", "code": "2xx"}
    assert counted.get_sample_value("dripfleet_smtp_replies_total", reply) == 5
    assert counted.get_sample_value("dripfleet_rendered_total") == 5
    gauges = fleet.service.loop.gauges()
    assert (gauges.armed, gauges.held, gauges.window_free) == (0, 0, 2000)
    assert gauges.connections["default"] >= 1 and gauges.journal_bytes > 0


def test_a_reason_is_a_word_of_ours_and_never_what_a_relay_said(
    fleet_with: Callable[..., Fleet], counted: CollectorRegistry
) -> None:
    fleet = fleet_with("rcpt:550")
    fleet.enrolled(3)
    fleet.send()
    ends = by_reason(counted)
    assert sum(ends.values()) == 3 and set(ends) <= {
        ("failed", "hard_bounce"),
        ("failed", "refused"),
    }
    reply = {"stage": "rcpt", "code": "5xx"}
    assert counted.get_sample_value("dripfleet_smtp_replies_total", reply) == 3
