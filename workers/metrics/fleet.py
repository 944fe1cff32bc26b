"""The whole fleet as Prometheus sees it: what Postgres and Redis say, looked at every 5 s at most.

However often it is scraped, and by however many, the servers are asked once in that time. A server
that does not answer is a metric too; the others keep theirs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import structlog
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from models.session import Database
from tasks.names import POOLS, QUEUE_OF
from tasks.personalize import report as words
from tasks.personalize.overview import overview as words_overview
from tasks.personalize.pace import yielding
from tasks.upkeep import returned
from tasks.upkeep.checks import held_doubts
from tasks.upkeep.overview import Overview, overview
from tasks.upkeep.tally import doubts_of_the_last_hour, outcomes_by_step, schedule_lags
from workers.metrics import arrivals, edge, webhooks
from workers.metrics.process import gauge

log = structlog.get_logger()

KEPT = 5.0

Labelled = dict[tuple[str, ...], float]


def queue_depths(url: str | None, queues: Sequence[str] = POOLS) -> dict[str, int]:
    """How many doorbells wait in each of these queues.

    Raises:
        redis.RedisError: it does not answer.
        ValueError: the URL is one of sentinels, which are not asked.
    """
    import redis

    if not url or not url.startswith(("redis:", "rediss:", "unix:")):
        raise ValueError("depths are not read through sentinels")
    with redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as client:
        # A list a queue, of its name: what kombu makes of queues without priorities.
        every = (*queues, *QUEUE_OF.values())
        return {queue: int(client.llen(queue)) for queue in every}


class FleetCollector(Collector):
    """The metrics of `families.FLEET`.

    Args:
        database: read in one snapshot.
        redis_url: asked for the length of each queue.
        kept: seconds for which a look is good.
        clock: for that.
    """

    def __init__(
        self,
        database: Database,
        redis_url: str | None,
        *,
        kept: float = KEPT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._redis_url = redis_url
        self._kept = kept
        self._clock = clock
        self._lock = threading.Lock()
        self._families: list[Metric] = []
        self._good_until = float("-inf")
        self._queues: tuple[str, ...] = POOLS

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering it must not look."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """See `Collector`; who comes while somebody looks, waits for that look."""
        with self._lock:
            if self._clock() >= self._good_until:
                self._families = list(self._look())
                self._good_until = self._clock() + self._kept
            families = self._families
        return iter(families)

    def _look(self) -> Iterator[Metric]:
        began = time.monotonic()
        try:
            with self._database.snapshot() as connection:
                now = overview(connection)
                found = list(_of_postgres(connection, now))
            self._queues = now.queues
        except SQLAlchemyError as error:
            log.warning("fleet_not_seen", kind=type(error).__name__)
            yield gauge("dripfleet_fleet_postgres_up", 0)
        else:
            yield gauge("dripfleet_fleet_postgres_up", 1)
            yield from found
        yield from self._redis()
        yield from edge.ready()
        yield gauge("dripfleet_fleet_look_seconds", time.monotonic() - began)

    def _redis(self) -> Iterator[Metric]:
        import redis

        try:
            depths = queue_depths(self._redis_url, self._queues)
        except ValueError:
            return
        except redis.RedisError as error:
            log.warning("queues_not_seen", kind=type(error).__name__)
            yield gauge("dripfleet_fleet_redis_up", 0)
            return
        yield gauge("dripfleet_fleet_redis_up", 1)
        yield gauge("dripfleet_fleet_queue_depth", {(q,): n for q, n in depths.items()})


def _of_postgres(connection: Connection, now: Overview) -> Iterator[Metric]:
    streams, sequences = now.streams, now.sequences
    doubts = doubts_of_the_last_hour(connection)
    yield gauge("dripfleet_fleet_exact", now.exact and now.people_exact)
    yield gauge("dripfleet_fleet_messages", _live(now))
    yield gauge(
        "dripfleet_fleet_oldest_due_seconds", {(s.key,): s.oldest_due or 0.0 for s in streams}
    )
    yield gauge(
        "dripfleet_fleet_doubts_last_hour", {(s.key,): doubts.get(s.key, 0) for s in streams}
    )
    waiting = held_doubts(connection)
    yield gauge("dripfleet_fleet_doubts_held", {(s.key,): waiting.get(s.key, 0) for s in streams})
    ends = outcomes_by_step(connection)
    yield gauge("dripfleet_fleet_outcomes", {(*names,): n for names, n in ends.items()})
    people: Labelled = {}
    for q in sequences:
        people[q.key, "active"] = q.active
        people[q.key, "waiting"] = q.waiting
        people[q.key, "held"] = q.held
    yield gauge("dripfleet_fleet_enrollments", people)
    yield gauge("dripfleet_fleet_to_plan", now.to_plan)
    yield gauge("dripfleet_fleet_to_plan_oldest_seconds", now.to_plan_oldest or 0.0)
    # A pool that never answered is silent as well, and says 0.
    workers: Labelled = {(queue,): 0 for queue in now.queues}
    yield gauge("dripfleet_fleet_workers", workers | {(p.pool,): p.workers for p in now.pools})
    yield gauge("dripfleet_fleet_canary_seconds", {(p.pool,): p.seen_ago for p in now.pools})
    lags = schedule_lags(connection)
    yield gauge("dripfleet_fleet_schedule_lag_seconds", {(key,): lag for key, lag in lags.items()})
    yield gauge("dripfleet_fleet_tick_seconds", {(t.name,): t.ago for t in now.ticks})
    yield gauge(
        "dripfleet_fleet_stream_paused", {(s.key,): s.paused_at is not None for s in streams}
    )
    yield gauge("dripfleet_fleet_words", {(*key,): n for key, n in words.ends(connection).items()})
    reserved, settled = words.spent_today(connection).get("all", (0.0, 0.0))
    making = words_overview(connection)
    yield gauge("dripfleet_fleet_texts_wanted", {(why,): n for why, n in making.wanted.items()})
    yield gauge("dripfleet_fleet_model_closed_seconds", {(m,): s for m, s in making.closed.items()})
    since = yielding(connection)
    yield gauge("dripfleet_fleet_words_yield_seconds", since.total_seconds() if since else 0.0)
    yield gauge("dripfleet_fleet_word_batches", {(s,): n for s, n in making.batches.items()})
    yield gauge("dripfleet_fleet_model_saved", making.saved)
    yield gauge("dripfleet_fleet_model_spend", {("reserved",): reserved, ("settled",): settled})
    yield gauge(
        "dripfleet_fleet_sequence_paused", {(q.key,): q.paused_at is not None for q in sequences}
    )
    yield from arrivals.look(connection, now)
    yield from webhooks.look(connection)
    told: Labelled = {}
    for s in streams:
        told[s.key, "complained", ""] = told[s.key, "bounced", "hard"] = 0
    yield gauge("dripfleet_fleet_came_back", told | dict(returned.of_the_last_day(connection)))


def _live(now: Overview) -> Labelled:
    counts: Labelled = {}
    for s in now.streams:
        counts[s.key, "due"] = s.due
        counts[s.key, "later"] = s.later
        counts[s.key, "working"] = s.working
        counts[s.key, "armed"] = s.armed
        counts[s.key, "in_doubt"] = s.in_doubt
    return counts
