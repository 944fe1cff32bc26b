"""How the fleet stands, in a few cheap counts: for `status`, the demo and metrics.

Nothing here walks a backlog: live messages are counted through the queue and watch indexes, up to a
bound, and outcomes are read from the counters that the moves keep.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text

from tasks import names

MOST: Final = 100_000
"""Where counting of messages stops; a number that has come this far is at least that."""

MOST_PEOPLE: Final = 1_000_000
"""Where counting of enrollments stops; it takes about 0.2 s to come there."""

NOW = text("SELECT clock_timestamp()")

STREAMS = text("""
SELECT t.key, t.class AS class_, t.relay, t.region, t.doubt_policy, t.paused_at, t.pause_reason, (
    SELECT count(*) FROM (
        SELECT 1 FROM message m
        WHERE m.stream = t.key AND m.run_at <= (SELECT clock_timestamp()) LIMIT :most) x) AS due,
    extract(epoch FROM clock_timestamp() - (
        SELECT m.run_at FROM message m
        WHERE m.stream = t.key AND m.run_at <= (SELECT clock_timestamp())
        ORDER BY m.run_at LIMIT 1))::float8 AS oldest_due, (
    SELECT count(*) FROM (
        SELECT 1 FROM message m
        WHERE m.stream = t.key AND m.run_at > (SELECT clock_timestamp()) LIMIT :most) x) AS later
FROM stream t ORDER BY t.key
""")
WATCHED = text("""
SELECT stream, state::text AS state, count(*) AS n FROM (
    SELECT m.stream, m.state FROM message m WHERE m.watch_at IS NOT NULL LIMIT :most) x
GROUP BY 1, 2
""")

# The one walk over rows, of a bounded number of them; beyond it the figures are lower bounds.
ENROLLED = text("""
SELECT sequence_key, count(*) AS n, count(*) FILTER (WHERE active) AS active,
    count(*) FILTER (WHERE due_at > (SELECT clock_timestamp()) AND parked_from IS NULL) AS waiting,
    count(*) FILTER (WHERE parked_from IS NOT NULL) AS held
FROM (SELECT sequence_key, active, due_at, parked_from FROM enrollment LIMIT :most) x
GROUP BY 1
""")
ESTIMATE = text(
    "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'enrollment'::regclass"
)
ASKING = text("""
SELECT sequence_key, count(*) AS n FROM (SELECT sequence_key FROM entry_request LIMIT :most) x GROUP BY 1
""")
PLANNER = text("""
SELECT count(*) AS due, extract(epoch FROM clock_timestamp() - min(due_at))::float8 AS oldest
FROM (SELECT e.due_at FROM enrollment e WHERE e.due_at <= (SELECT clock_timestamp())
      ORDER BY e.due_at LIMIT :most) x
""")
OUTCOMES = text("""
SELECT sequence_key, outcome::text AS outcome, sum(n)::bigint AS n FROM counter GROUP BY 1, 2
""")
SEQUENCES = text("""
SELECT key, version, paused_at, pause_reason, draining_since, drain_reason FROM sequence ORDER BY key
""")
POOLS = text("""
SELECT pool, count(*) FILTER (WHERE seen_at > clock_timestamp() - interval '90 seconds') AS workers,
    extract(epoch FROM clock_timestamp() - max(seen_at))::float8 AS seen_ago
FROM canary GROUP BY 1 ORDER BY 1
""")
TICKS = text("""
SELECT name, extract(epoch FROM clock_timestamp() - seen_at)::float8 AS ago, detail
FROM tick ORDER BY 1
""")


@dataclass(frozen=True, slots=True)
class StreamView:
    """A stream: `oldest_due` seconds behind, `later` with retries and held ones, the rest now."""

    key: str
    class_: str
    relay: str
    region: str | None
    doubt_policy: str
    paused_at: dt.datetime | None
    pause_reason: str | None
    due: int
    oldest_due: float | None
    later: int
    working: int
    armed: int
    in_doubt: int


@dataclass(frozen=True, slots=True)
class SequenceView:
    """A sequence: people in it (`waiting` for a time, `held` by a pause), and its mails' ends.

    `asking`: requests to come in that are not answered yet; `sequence door` says what they wait for.
    `draining_since`: nobody new comes in since then.
    """

    key: str
    version: int
    paused_at: dt.datetime | None
    pause_reason: str | None
    enrolled: int
    active: int
    waiting: int
    held: int
    sent: int
    failed: int
    not_sent: int
    asking: int = 0
    draining_since: dt.datetime | None = None
    drain_reason: str | None = None


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool, or a region of it: workers that answered within 90 s, and seconds since the last answer."""

    pool: str
    workers: int
    seen_ago: float


@dataclass(frozen=True, slots=True)
class TickView:
    """A tick of beat: seconds since its work was last done, and its counts then."""

    name: str
    ago: float
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Overview:
    """The whole fleet at `at`.

    Attributes:
        enrolled: people who entered a sequence, ever; `active` of them are under way.
        planned: messages ever made.
        sent: those that went out, `sent_assumed` among them.
        not_sent: those that were refused: suppressed, late, expired, cancelled.
        due: messages that a send worker may take now, `later` those of another time.
        to_plan: enrollments the planner has to look at, the oldest for `to_plan_oldest` seconds.
        exact: False where a count of messages has met its bound: those are lower bounds then.
        people_exact: the same of enrollments; `enrolled` is an estimate then.
    """

    at: dt.datetime
    enrolled: int
    active: int
    planned: int
    sent: int
    sent_assumed: int
    failed: int
    not_sent: int
    due: int
    later: int
    working: int
    armed: int
    in_doubt: int
    to_plan: int
    to_plan_oldest: float | None
    exact: bool
    people_exact: bool
    streams: tuple[StreamView, ...]
    sequences: tuple[SequenceView, ...]
    pools: tuple[PoolView, ...]
    ticks: tuple[TickView, ...]

    @property
    def queues(self) -> tuple[str, ...]:
        """Every queue: one a pool, and one a region that a stream names."""
        regions = sorted({stream.region for stream in self.streams if stream.region})
        return (*names.POOLS, *(names.queue_of("send", region) for region in regions))

    def sent_per_second(self, before: Overview) -> float:
        """Mails a second since an earlier overview; 0.0 where no time has passed."""
        seconds = (self.at - before.at).total_seconds()
        return (self.sent - before.sent) / seconds if seconds > 0 else 0.0


def overview(connection: Connection, most: int = MOST, most_people: int = MOST_PEOPLE) -> Overview:
    """Count; use it in `Database.snapshot()`, so that the figures agree with each other.

    Args:
        connection: inside a transaction.
        most: where each count of messages stops.
        most_people: where the count of enrollments stops.
    """
    bound = {"most": most}
    at = connection.execute(NOW).scalar_one()
    watched: dict[tuple[str, str], int] = {
        (row.stream, row.state): row.n for row in connection.execute(WATCHED, bound)
    }
    streams = tuple(
        StreamView(
            **row._mapping,
            working=watched.get((row.key, "working"), 0),
            armed=watched.get((row.key, "armed"), 0),
            in_doubt=watched.get((row.key, "in_doubt"), 0),
        )
        for row in connection.execute(STREAMS, bound)
    )
    ends: dict[str, dict[str, int]] = {}
    for row in connection.execute(OUTCOMES):
        ends.setdefault(row.sequence_key, {})[row.outcome] = row.n
    people = {row.sequence_key: row for row in connection.execute(ENROLLED, {"most": most_people})}
    asking: dict[str, int] = {row.sequence_key: row.n for row in connection.execute(ASKING, bound)}
    sequences = tuple(
        _sequence(row, people.get(row.key), ends.get(row.key, {}), asking.get(row.key, 0))
        for row in connection.execute(SEQUENCES)
    )
    planner = connection.execute(PLANNER, bound).one()
    total = _summed(ends)
    enrolled = sum(row.n for row in people.values())
    live = sum(s.due + s.later for s in streams) + sum(watched.values())
    full = enrolled >= most_people
    if full:
        enrolled = max(enrolled, int(connection.execute(ESTIMATE).scalar_one()))
    counts = (
        sum(watched.values()),
        planner.due,
        *(s.due for s in streams),
        *(s.later for s in streams),
    )
    return Overview(
        at=at,
        enrolled=enrolled,
        active=sum(row.active for row in people.values()),
        planned=live + sum(total.values()),
        sent=_sent(total),
        sent_assumed=total.get("sent_assumed", 0),
        failed=total.get("failed", 0),
        not_sent=_not_sent(total),
        due=sum(s.due for s in streams),
        later=sum(s.later for s in streams),
        working=sum(s.working for s in streams),
        armed=sum(s.armed for s in streams),
        in_doubt=sum(s.in_doubt for s in streams),
        to_plan=planner.due,
        to_plan_oldest=planner.oldest,
        exact=all(n < most for n in counts),
        people_exact=not full,
        streams=streams,
        sequences=sequences,
        pools=tuple(PoolView(*row) for row in connection.execute(POOLS)),
        ticks=tuple(TickView(*row) for row in connection.execute(TICKS)),
    )


def _sequence(row: Any, people: Any, ends: dict[str, int], asking: int) -> SequenceView:
    return SequenceView(
        key=row.key,
        version=row.version,
        paused_at=row.paused_at,
        pause_reason=row.pause_reason,
        enrolled=people.n if people else 0,
        active=people.active if people else 0,
        waiting=people.waiting if people else 0,
        held=people.held if people else 0,
        sent=_sent(ends),
        failed=ends.get("failed", 0),
        not_sent=_not_sent(ends),
        asking=asking,
        draining_since=row.draining_since,
        drain_reason=row.drain_reason,
    )


def _summed(ends: dict[str, dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for outcomes in ends.values():
        for outcome, n in outcomes.items():
            total[outcome] = total.get(outcome, 0) + n
    return total


def _sent(ends: dict[str, int]) -> int:
    return ends.get("sent", 0) + ends.get("sent_assumed", 0)


def _not_sent(ends: dict[str, int]) -> int:
    return sum(n for state, n in ends.items() if state not in ("sent", "sent_assumed", "failed"))
