"""Counts beside the overview, for metrics and the screen: each of a bounded number of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from tasks.upkeep.overview import MOST

NEWEST: Final = 2_000
"""How many of the newest messages are looked through for what went wrong."""

OUTCOMES = text("""
SELECT sequence_key, step_id, outcome::text AS outcome, sum(n)::bigint AS n
FROM counter GROUP BY 1, 2, 3
""")
# Over the partial index of attempts that stayed in doubt, which are few.
DOUBTS = text("""
SELECT m.stream, count(*) AS n
FROM (SELECT message_id, ended_at FROM attempt WHERE outcome = 'in_doubt' LIMIT :most) a
JOIN message m ON m.id = a.message_id
WHERE a.ended_at > clock_timestamp() - interval '1 hour' GROUP BY 1
""")
# A line that is due and was not looked at, or a fire of it that is not at its end.
LAGS = text("""
SELECT s.key, greatest(0, extract(epoch FROM clock_timestamp() - least(s.next_fire_at, (
    SELECT min(f.fire_at) FROM schedule_fire f
    WHERE f.state = 'claimed' AND f.schedule_key = s.key))))::float8 AS lag
FROM schedule s ORDER BY 1
""")
# Backwards over the primary key: messages are made shortly before they are sent, so the newest are
# those that just went wrong. What was put off and is due again has its reason too.
TROUBLES = text("""
SELECT state::text AS state, coalesce(reason, '') AS reason, count(*) AS n, max(id) AS latest,
    extract(epoch FROM clock_timestamp() - max(terminal_at))::float8 AS ago
FROM (SELECT id, state, reason, terminal_at FROM message ORDER BY id DESC LIMIT :newest) x
WHERE state IN ('failed', 'in_doubt') OR (state = 'scheduled' AND reason IS NOT NULL)
GROUP BY 1, 2 ORDER BY max(id) DESC
""")


@dataclass(frozen=True, slots=True)
class Trouble:
    """What went wrong with `n` of the newest messages, `latest` the id of one of them.

    `ago`: seconds since the last of them ended; None where they have not.
    """

    state: str
    reason: str
    n: int
    latest: int
    ago: float | None


def outcomes_by_step(connection: Connection) -> dict[tuple[str, str, str], int]:
    """(sequence, step, outcome) → messages that ended so."""
    return {(r.sequence_key, r.step_id, r.outcome): r.n for r in connection.execute(OUTCOMES)}


def doubts_of_the_last_hour(connection: Connection) -> dict[str, int]:
    """Stream → attempts of the last hour whose reply never came; streams without one are absent."""
    return {row.stream: row.n for row in connection.execute(DOUBTS, {"most": MOST})}


def schedule_lags(connection: Connection) -> dict[str, float]:
    """Cron line → seconds that its oldest fire which is due, or not done yet, waits; 0.0: none does."""
    return {row.key: row.lag for row in connection.execute(LAGS)}


def troubles(connection: Connection, newest: int = NEWEST) -> tuple[Trouble, ...]:
    """What went wrong with the newest messages, the latest first."""
    return tuple(Trouble(*row) for row in connection.execute(TROUBLES, {"newest": newest}))
