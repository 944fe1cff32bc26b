"""Pools, queues, ticks and the app's settings: each one answers a fault that was seen."""

from __future__ import annotations

import warnings
from itertools import pairwise

import pytest
import structlog
from celery import Celery

from tasks import names
from tasks.errors import Misconfigured
from workers import beat, queues
from workers.celery import build
from workers.lifecycle import node_name
from workers.pools import BY_NAME, CANARY, pool_named, visibility_timeout
from workers.settings import FleetSettings, RedisSettings

REDIS = RedisSettings(redis_url="redis://:hunter2@127.0.0.1:1/0")
PROCESSES = [*names.POOLS, None]


def app(pool: str | None) -> Celery:
    return build(pool, REDIS, FleetSettings())


def test_every_pool_is_declared_once_and_answers_its_canary() -> None:
    assert tuple(BY_NAME) == names.POOLS
    assert all(CANARY in pool.imports for pool in BY_NAME.values())
    with pytest.raises(Misconfigured, match="no pool 'sned': expected one of sequence, send"):
        pool_named("sned")


def test_a_pool_imports_no_entry_but_its_own_and_the_canary() -> None:
    for pool in BY_NAME.values():
        own = {f"tasks.{pool.name}.entry", CANARY}
        if pool.name == "upkeep":  # the audience has no pool of its own, nor have clicks and opens
            own |= {"tasks.audience.entry", "tasks.track.entry", "tasks.webhooks.entry"}
        assert set(pool.imports) <= own
        assert app(pool.name).conf.imports == pool.imports
    assert app(None).conf.imports == ()


def test_only_what_can_be_stopped_has_a_limit_and_redis_waits_longer_than_it() -> None:
    for pool in BY_NAME.values():
        assert (pool.hard_limit is not None) == (pool.kind == "prefork")
        if pool.hard_limit is not None and pool.soft_limit is not None:
            assert pool.soft_limit < pool.hard_limit < visibility_timeout()
    waits = [app(p).conf.broker_transport_options["visibility_timeout"] for p in PROCESSES]
    assert all(a == b for a, b in pairwise(waits)), "the shortest would take the others' work"


def test_retry_on_timeout_is_set_nowhere() -> None:
    """With redis-py's health checks it leaves a worker deaf after a killed connection."""
    for pool in PROCESSES:
        conf = app(pool).conf
        assert "retry_on_timeout" not in conf.broker_transport_options
        assert not conf.redis_retry_on_timeout
        assert "retry_on_timeout" not in conf.broker_url


def test_a_killed_child_gives_its_message_back_and_no_task_is_held_in_advance() -> None:
    for pool in PROCESSES:
        conf = app(pool).conf
        assert conf.task_acks_late and conf.task_reject_on_worker_lost
        assert conf.worker_prefetch_multiplier == 1
        assert conf.task_ignore_result and conf.result_backend is None
        assert conf.accept_content == ["json"] and conf.task_serializer == "json"
        transport = conf.broker_transport_options
        assert transport["unacked_restore_throttle"] == 1
        assert transport["socket_timeout"] == 30 and transport["health_check_interval"] == 25
        soft = conf.worker_soft_shutdown_timeout
        prefork = pool is not None and BY_NAME[pool].kind == "prefork"
        assert (soft > 0) == prefork, "the threads pool fails in a soft shutdown"


def test_no_setting_is_deprecated() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for pool in PROCESSES:
            made = app(pool)
            made.finalize()
            made.conf.maybe_warn_deprecated_settings()


def test_a_task_goes_to_its_pool_and_no_queue_is_made_by_accident() -> None:
    conf = app(None).conf
    own = set(names.QUEUE_OF.values())
    assert {queue.name for queue in conf.task_queues} == {*names.POOLS, *own}
    taken = [queue for pool in names.POOLS for queue in (pool, *queues.own_queues(pool))]
    assert sorted(taken) == sorted({*names.POOLS, *own}), "each queue is one pool's"
    assert queues.route(names.CUT_NOISY)["queue"] == "quantum-noisy"
    assert conf.task_create_missing_queues is False
    assert queues.route(names.DELIVER)["queue"] == "send"
    assert queues.route(names.SCAN)["queue"] == "sequence"
    assert queues.route(names.CHURN_RANGE)["queue"] == "churn"
    assert queues.route(names.CHURN_ONE)["queue"] == "churn.one", "it never stands behind a chunk"
    assert queues.own_queues("churn") == ["churn.one"]
    assert queues.own_queues("send") == []
    for pool in names.POOLS:
        assert queues.route(names.CANARY, kwargs=dict(names.canary(pool)))["queue"] == pool
    for stray in ("send.delivery", names.CANARY):
        with pytest.raises(Misconfigured, match="has no pool"):
            queues.route(stray, kwargs={"v": 1, "pool": "sned"})


def test_a_region_of_the_send_pool_has_a_queue_that_is_named_and_never_made_by_accident() -> None:
    there = build("send", REDIS, region="eu").conf
    everywhere = {*names.POOLS, *names.QUEUE_OF.values()}
    assert {queue.name for queue in there.task_queues} == {*everywhere, "send@eu"}
    assert there.task_create_missing_queues is False
    bell = dict(names.deliver("marketing", 500, "eu"))
    assert queues.route(names.DELIVER, kwargs=bell)["queue"].name == "send@eu"
    canary = dict(names.canary("send@eu"))
    assert queues.route(names.CANARY, kwargs=canary)["queue"].name == "send@eu"
    for odd in (names.deliver("marketing", 1, "EU"), names.deliver("marketing", 1, "e u")):
        with pytest.raises(Misconfigured, match="expected a region's name"):
            queues.route(names.DELIVER, kwargs=dict(odd))
    with pytest.raises(Misconfigured, match="one of send"):
        queues.route(names.CANARY, kwargs=dict(names.canary("churn@eu")))


def test_a_worker_is_called_by_its_region_and_number() -> None:
    host = node_name("send").partition("@")[2]
    assert node_name("send@eu") == f"send-eu@{host}"
    assert node_name("send@eu", 2) == f"send-eu-2@{host}"


def test_beat_holds_five_ticks_that_outlive_a_clock_which_is_an_hour_fast() -> None:
    ticks = beat.ticks(FleetSettings())
    five = {names.SCAN, names.DISPATCH, names.REAP, names.RESOLVE, names.INBOUND}
    assert set(ticks) == five
    for name, tick in ticks.items():
        assert tick["task"] == name and tick["kwargs"] == {"v": names.VERSION}
        assert tick["options"]["expires"] == names.LIFE > 3600


def test_celerys_own_scheduler_takes_these_ticks_and_adds_none() -> None:
    from celery.beat import Scheduler

    made = app(None)
    assert set(Scheduler(made, lazy=False).schedule) == set(beat.ticks(FleetSettings()))


def test_a_broker_that_is_gone_is_said_once_and_once_that_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A logger that another test of this process has used keeps the processors it found then.
    monkeypatch.setattr(beat, "log", structlog.get_logger())
    scheduler = beat.Ticker(app(None), lazy=False)
    entry = next(iter(scheduler.schedule.values()))
    with structlog.testing.capture_logs() as said:
        for _ in range(3):
            scheduler.apply_entry(entry)
        monkeypatch.setattr(scheduler, "apply_async", lambda *_, **__: None)
        for _ in range(3):
            scheduler.apply_entry(entry)
    assert [line["event"] for line in said] == ["ticks_lost", "ticks_again"]
    assert "Redis" in said[0]["next"]
