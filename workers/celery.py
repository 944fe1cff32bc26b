"""The Celery app. Every setting here answers a fault that was seen.

It is built by a function, after the pool is chosen: what a pool imports is part of its app. For
`celery -A workers.celery` and other tools that want a module, `app` is built at first sight from
the environment (DRIPFLEET_POOL, DRIPFLEET_REDIS_URL).
"""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Any

from celery import Celery

from tasks import names
from tasks.base import PUBLISH_RETRY
from workers import queues
from workers.beat import ticks
from workers.pools import pool_named, visibility_timeout
from workers.settings import FleetSettings, RedisSettings, panel

if TYPE_CHECKING:
    app: Celery


def build(
    pool: str | None,
    redis: RedisSettings,
    fleet: FleetSettings | None = None,
    *,
    region: str | None = None,
) -> Celery:
    """The app of one process.

    Args:
        pool: whose entry points it loads when a worker starts; None for beat, Flower and the
            command line, which send by name and load none.
        redis: the broker.
        fleet: the periods of the ticks, for beat.
        region: whose queue of the pool a worker answers.

    Raises:
        Misconfigured: there is no such pool.
    """
    chosen = pool_named(pool) if pool is not None else None
    regional = [names.queue_of(chosen.name, region)] if chosen and region else []
    made = Celery("dripfleet", set_as_current=True)
    url = redis.redis_url.get_secret_value()
    made.conf.update(
        broker_url=url,
        broker_transport_options=_transport(redis),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # a worker outlives any outage of the broker
        # JSON alone: pickle in a queue would be code from whoever can write there.
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        event_serializer="json",
        # The rows in Postgres are the result.
        result_backend=None,
        result_expires=None,  # else beat adds a cleanup tick of its own
        task_ignore_result=True,
        # A killed child gives its message back instead of losing it.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_track_started=False,
        worker_prefetch_multiplier=1,
        worker_detect_quorum_queues=False,
        task_queues=queues.queues(*regional),
        task_default_queue=queues.DEFAULT_QUEUE,
        task_create_missing_queues=False,
        task_routes=(queues.route,),
        task_publish_retry=True,
        task_publish_retry_policy=PUBLISH_RETRY,
        worker_send_task_events=True,  # for Flower
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        enable_utc=True,
        timezone="UTC",
        imports=chosen.imports if chosen else (),
        beat_schedule=ticks(fleet) if fleet is not None else {},
    )
    if url.startswith("rediss://") and "ssl_cert_reqs" not in url:
        made.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    if chosen is not None:
        made.conf.worker_pool = chosen.kind
        made.conf.worker_concurrency = chosen.concurrency
    if chosen is not None and chosen.kind == "prefork":
        # The threads pool enforces no limit, and its soft shutdown fails: SIGTERM only.
        made.conf.task_soft_time_limit = chosen.soft_limit
        made.conf.task_time_limit = chosen.hard_limit
        made.conf.worker_soft_shutdown_timeout = 10.0
        # Else a lost connection leaves the task running beside its own redelivery.
        made.conf.worker_cancel_long_running_tasks_on_connection_loss = True
    return made


def _transport(redis: RedisSettings) -> dict[str, Any]:
    # retry_on_timeout is absent on purpose: with health checks it leaves a worker deaf, without a
    # log line, after a killed connection.
    options: dict[str, Any] = {
        "visibility_timeout": visibility_timeout(),
        "unacked_restore_throttle": 1,  # what a killed worker held is looked for every 10 s
        "socket_timeout": 30,
        "socket_connect_timeout": 4,
        "socket_keepalive": True,
        "health_check_interval": 25,
        **PUBLISH_RETRY,  # else a publish waits for the broker without end
    }
    if redis.redis_sentinel_master:
        options["master_name"] = redis.redis_sentinel_master
    return options


def __getattr__(name: str) -> Celery:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    read = panel(RedisSettings, FleetSettings)
    built = build(os.environ.get("DRIPFLEET_POOL"), read[RedisSettings], read[FleetSettings])
    globals()["app"] = built
    return built
