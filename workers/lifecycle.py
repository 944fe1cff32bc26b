"""The life of one process of the fleet: what it opens, when, and how it ends.

A worker on threads opens its database before it takes work. One that forks opens nothing in the
parent: each child opens its own. The send pool's delivery loop runs from before the first doorbell
until every dot is answered for.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from tasks import names
from workers import broker, logs, tracing
from workers.heap import one_heap
from workers.metrics import export
from workers.parent import PARENT_FD, watch_parent
from workers.pools import Pool
from workers.queues import own_queues
from workers.settings import FleetSettings, Panel, RedisSettings, clear_blank, named, panel

if TYPE_CHECKING:
    from models.session import Database, DatabaseSettings

log = structlog.get_logger()

CANARY_EVERY = 30.0  # seconds between two words of a worker that takes work


def node_name(queue: str, number: int = 1) -> str:
    """A worker's name among all: pool, region, number, and its host without the domain.

    Such as `send@mx1`, `send-eu@mx1`, `send-eu-2@mx1`.
    """
    which = queue.replace("@", "-") + (f"-{number}" if number > 1 else "")
    return f"{which}@{socket.gethostname().partition('.')[0]}"


def settings_of(pool: Pool) -> Panel:
    """Everything that a worker of `pool` has to know, checked together."""
    from models.session import DatabaseSettings

    clear_blank()
    return panel(
        DatabaseSettings,
        RedisSettings,
        FleetSettings,
        export.MetricsSettings,
        tracing.TraceSettings,
        *map(named, pool.settings),
    )


def run_worker(
    pool: Pool, *, name: str | None = None, number: int = 1, concurrency: int | None = None
) -> int:
    """Be a worker of `pool` until SIGTERM; returns the exit code.

    A send worker answers the queue of DRIPFLEET_REGION, if that is set.

    Args:
        pool: which.
        name: its node name; by default made of its queue, `number` and host.
        number: which one of its queue on this machine.
        concurrency: tasks side by side, if not the pool's own.

    Raises:
        Misconfigured: settings are missing or contradict each other.
    """
    if pool.kind == "prefork":
        # Read by OpenMP when numpy is first imported; with threads in the parent, a fork deadlocks.
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(variable, "1")
    if pool.kind == "threads":
        one_heap()
    os.environ["DRIPFLEET_POOL"] = pool.name
    read = settings_of(pool)
    if pool.kind == "prefork":
        _place_for_kernels(read[FleetSettings].home)
    queue, region = queue_of(pool, read)
    logs.configure(read[FleetSettings].log_level, pool=queue)
    supervised = PARENT_FD in os.environ
    watch_parent(read[FleetSettings].drain_wait + 30)
    exporter = export.start(
        queue,
        read[export.MetricsSettings],
        read[FleetSettings].home,
        supervised=supervised,
    )

    from celery.apps.worker import Worker
    from celery.exceptions import CPendingDeprecationWarning

    from models.session import DatabaseSettings
    from workers.celery import build

    _quieten_celery()
    # Said once a pool whenever the broker goes: what it proposes is for pools that can cancel.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    app = build(pool.name, read[RedisSettings], region=region)
    app.conf.worker_concurrency = concurrency or pool.concurrency
    _connect_signals(pool, queue, read[DatabaseSettings], exporter)
    if pool.lacks_extra():
        log.warning("extra_missing", extra=pool.extra, next=f"pip install dripfleet[{pool.extra}]")
    opened = None if pool.kind == "prefork" else _open(pool, read[DatabaseSettings])
    try:
        if opened is not None and pool.name == "send":
            from tasks.send import service

            service.start(opened, broker.client(read[RedisSettings].redis_url.get_secret_value()))
            if exporter is not None:
                exporter.meter.watch(service.current().loop.gauges)
        worker = Worker(
            app=app,
            hostname=name or node_name(queue, number),
            pool_cls=pool.kind,
            concurrency=concurrency or pool.concurrency,
            queues=[queue, *own_queues(pool.name)],
            loglevel=read[FleetSettings].log_level.upper(),
            task_events=True,
            without_gossip=True,
            without_mingle=True,
            heartbeat_interval=5,
            quiet=True,
        )
        worker.start()
        code = worker.exitcode or 0
    finally:
        if opened is not None:
            _close(pool, opened)
        if exporter is not None:
            exporter.close()
    log.info("worker_ended", code=code)
    return code


def queue_of(pool: Pool, read: Panel) -> tuple[str, str | None]:
    """The queue that a worker of `pool` answers with these settings, and its region."""
    region = None
    if pool.name in names.REGIONAL:
        from tasks.send.settings import SendSettings

        region = read[SendSettings].region or None
    return names.queue_of(pool.name, region), region


def _place_for_kernels(home: Path) -> None:
    """Compiled kernels are kept beside their source, or in our home where that is not ours to write."""
    import tasks

    if not os.access(Path(tasks.__file__).parent, os.W_OK):
        os.environ.setdefault("NUMBA_CACHE_DIR", str(home / "numba"))


def run_beat() -> int:
    """Be beat until SIGTERM."""
    clear_blank()
    read = panel(RedisSettings, FleetSettings)
    logs.configure(read[FleetSettings].log_level, process="beat")
    watch_parent(30)

    from workers import beat
    from workers.celery import build

    keep_logging()
    beat.run(build(None, read[RedisSettings], read[FleetSettings]))
    return 0


def _open(pool: Pool, settings: DatabaseSettings) -> Database:
    from models.session import Database
    from tasks import base

    database = Database(
        settings.database_url.get_secret_value(),
        name=f"dripfleet-{pool.name}",
        size=max(2, pool.concurrency),
    )
    base.configure(database, pool.name)
    tracing.start(tracing.TraceSettings(), pool.name)
    return database


def _close(pool: Pool, database: Database) -> None:
    if pool.name == "send":
        from tasks.send import service

        service.drain()
        if not service.join():
            # Not lost: the next start reads the journal and settles them.
            log.warning("drain_unfinished", next="the next send worker here replays the journal")
    tracing.stop()
    database.close()


def _connect_signals(
    pool: Pool, queue: str, settings: DatabaseSettings, exporter: export.Exporter | None
) -> None:
    """What must happen at a moment that only Celery knows."""
    from celery import signals

    from tasks.base import ring

    keep_logging()

    def answer_once(**_: Any) -> None:
        # Through the queue and back: a row of it says that this worker really takes work.
        ring(names.CANARY, names.canary(queue))

    signals.worker_ready.connect(answer_once, weak=False)
    signals.task_prerun.connect(_TakesWork(queue), weak=False)
    if pool.kind == "prefork":
        if exporter is not None:
            exporter.hear_children()

        def open_in_child(**_: Any) -> None:
            os.nice(pool.nice)
            if exporter is not None:
                exporter.in_child()
            _open(pool, settings)

        signals.worker_process_init.connect(open_in_child, weak=False)
    if pool.name == "send":

        def drain(**_: Any) -> None:
            from tasks.send import service

            service.drain()

        signals.worker_shutting_down.connect(drain, weak=False)


class _TakesWork:
    """Work that was taken is as good as a canary, which may wait long behind it."""

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._next = 0.0
        self._lock = threading.Lock()

    def __call__(self, task: Any = None, **_: Any) -> None:
        """Write that this worker answers, every 30 s at most; Celery calls it before each task."""
        now = time.monotonic()
        with self._lock:
            if now < self._next or task is None or task.name == names.CANARY:
                return
            self._next = now + CANARY_EVERY
        from sqlalchemy.exc import SQLAlchemyError

        from tasks import base
        from tasks.canary import store

        # Without Postgres the task itself will say so.
        with contextlib.suppress(SQLAlchemyError), base.database().transaction() as connection:
            store.seen(connection, self._queue, task.request.hostname or "unknown")


def keep_logging() -> None:
    """Celery leaves logging alone when somebody answers this signal."""
    from celery import signals

    def ours(**_: Any) -> None:
        return None

    signals.setup_logging.connect(ours, weak=False)


def _quieten_celery() -> None:
    """Two warnings that say nothing here."""
    # As root in a container; without pickle nothing in a message is code.
    warnings.filterwarnings("ignore", message=".*superuser privileges.*")
    # A doorbell that runs twice is a no-op, and a thread cannot be cancelled.
    warnings.filterwarnings("ignore", message=".*late acknowledgement enabled.*")
