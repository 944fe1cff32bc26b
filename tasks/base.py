"""What every entry point shares: its database, its log context, its errors, and the doorbell.

::

    @shared_task(base=FleetTask, name=names.DELIVER)
    def deliver(stream: str, n: int) -> dict[str, int]:
        ...                       # `v` is checked and taken off before the function is called

What an entry returns is shown in Flower: counts, never an address. What it raises is not retried
by Celery: its rows are still due, and the next tick or doorbell comes for them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import structlog
from celery import Task, current_app
from celery.exceptions import Reject
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from tasks import metrics, names, trace
from tasks.errors import Misconfigured, Permanent, Snooze, Transient

if TYPE_CHECKING:  # beat and Flower ring and route, and open no database
    from models.session import Database

log = structlog.get_logger(__name__)

# A doorbell that cannot be given within about a second is not worth waiting for: it is rung again.
PUBLISH_RETRY = {"max_retries": 2, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.4}

_database: Database | None = None
_pool = ""


class Failed(Exception):
    """What Celery and Flower see of a failure: its type, never its text, which may hold an address."""


def configure(database: Database, pool: str = "") -> None:
    """Give this process its database; once at its start, and again after a fork."""
    global _database, _pool
    _database, _pool = database, pool


def database() -> Database:
    """The database of this process.

    Raises:
        Misconfigured: `configure` was not called.
    """
    if _database is None:
        raise Misconfigured(
            "This process was given no database: start it with `dripfleet worker POOL`."
        )
    return _database


class FleetTask(Task):  # type: ignore[type-arg]
    """The base of every entry point; see the module's text."""

    abstract = True
    ignore_result = True
    throws = (Failed,)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the entry with its log context; drop a payload of an unknown version."""
        rung = getattr(self.request, "traceparent", None)
        with (
            structlog.contextvars.bound_contextvars(task=self.name, **_where()),
            trace.spans.answering(self.name, rung),
        ):
            version = kwargs.pop("v", None)
            if version != names.VERSION:
                log.warning("payload_dropped", version=version, expected=names.VERSION)
                metrics.meter.task(self.name, "dropped", 0.0)
                return {"dropped": "version"}
            started, end = time.monotonic(), "failed"
            try:
                result = super().__call__(*args, **kwargs)
                end = "done"
            except Snooze as snooze:
                end = "snoozed"
                log.info("task_snoozed", why=str(snooze))
                return {"snoozed": True}
            except Transient as fault:
                # The rows are still due: the next tick is the retry.
                end = "put_off"
                log.warning("task_put_off", why=str(fault))
                return {"put_off": type(fault).__name__}
            except (Permanent, Misconfigured) as fault:
                end = "refused"
                log.error("task_refused", kind=type(fault).__name__, why=str(fault))
                raise Failed(type(fault).__name__) from None
            except Reject:  # the broker keeps what it holds: said by the entry
                end = "put_off"
                raise
            except Exception as fault:
                log.exception("task_failed", kind=type(fault).__name__)
                raise Failed(type(fault).__name__) from None
            finally:
                metrics.meter.task(self.name, end, time.monotonic() - started)
            log.debug("task_done", seconds=round(time.monotonic() - started, 3))
            return result


def ring(name: str, payload: Mapping[str, Any] | names.Payload) -> bool:
    """Ring a doorbell: start the task `name` in its pool. Call it after the commit, not inside.

    Args:
        name: a name of `tasks.names`.
        payload: as `tasks.names` shapes it; it routes a canary.

    Returns:
        Whether the broker took it. A lost doorbell is a log line and no more: its rows stay due,
        and the dispatcher rings again.
    """
    try:
        current_app.send_task(
            name,
            kwargs=cast(dict[str, Any], dict(payload)),
            expires=names.LIFE,
            headers=trace.spans.rung(name),
            retry=True,
            retry_policy=PUBLISH_RETRY,
        )
    except (OperationalError, RedisError, OSError) as fault:
        log.warning("doorbell_lost", doorbell=name, kind=type(fault).__name__)
        metrics.meter.doorbell_lost(name)
        return False
    return True


def _where() -> dict[str, str]:
    return {"pool": _pool} if _pool else {}
