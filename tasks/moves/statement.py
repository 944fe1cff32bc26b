"""The shape that moves of messages share: find, lock in order, move, hand back, count.

Every move from a live state into a terminal one hands its enrollment back in the same transaction
and counts the outcome; a correction of a terminal state corrects the count. Writing that once is
what keeps the invariants I4 and I12.
"""

from __future__ import annotations

from models.states import LIVE, TERMINAL


def quoted(states: tuple[str, ...]) -> str:
    """States as the inside of an SQL IN list."""
    return ", ".join(f"'{state}'" for state in states)


LIVE_SQL = quoted(LIVE)
TERMINAL_SQL = quoted(TERMINAL)

HELD = "EXISTS (SELECT 1 FROM target t WHERE t.id = m.id AND t.epoch = m.epoch)"
SAME = "JOIN target t ON t.id = lm.id AND t.epoch = lm.epoch"

# From a CTE `moved(id, enrollment_id, sequence_key, step_id, was, now)`. A counter's shard is the
# backend, so that two transactions never wait for each other's counters.
AFTERMATH = f"""
handed AS (
    UPDATE enrollment e SET due_at = clock_timestamp() FROM moved v
    WHERE e.id = v.enrollment_id AND e.active
      AND v.was IN ({LIVE_SQL}) AND v.now IN ({TERMINAL_SQL})),
counted AS (
    INSERT INTO counter AS c (sequence_key, step_id, shard, outcome, n)
    SELECT coalesce(x.sequence_key, ''), coalesce(x.step_id, ''), pg_backend_pid(), x.outcome,
           sum(x.change)
    FROM (SELECT sequence_key, step_id, now AS outcome, 1 AS change FROM moved
          WHERE now IN ({TERMINAL_SQL}) AND was IS DISTINCT FROM now
          UNION ALL
          SELECT sequence_key, step_id, was, -1 FROM moved
          WHERE was IN ({TERMINAL_SQL}) AND was IS DISTINCT FROM now) x
    GROUP BY 1, 2, 4 ORDER BY 1, 2, 4
    ON CONFLICT (sequence_key, step_id, shard, outcome) DO UPDATE SET n = c.n + excluded.n)"""


def move(
    target: str,
    guard: str,
    assign: str,
    *,
    result: str = "SELECT count(*) FROM moved",
    source: str = "",
    returning: str = "",
    extra: str = "",
    wait: bool = True,
) -> str:
    """Write the statement of a move.

    Args:
        target: a query for (id, enrollment_id, …) that takes no lock; seen as CTE `target`. Where it
            has an epoch, guard with `HELD` and join on `SAME`: an id may stand in it twice.
        guard: what must hold of `m` once its lock is held (a row that fails it is left alone).
        assign: the SET list; may use `m`, `lm` (id, was) and whatever `source` joins.
        result: the final SELECT, over CTE `moved`.
        source: further FROM items with their WHERE, e.g. `JOIN target t ON t.id = lm.id`.
        returning: further columns of `moved`, with a leading comma.
        extra: further CTEs after `moved`, with a leading comma.
        wait: wait for locked rows; otherwise leave them for the next time (background work).
    """
    skip = "" if wait else " SKIP LOCKED"
    return f"""
WITH target AS MATERIALIZED ({target}),
le AS MATERIALIZED (
    SELECT e.id FROM enrollment e
    WHERE e.id = ANY(ARRAY(SELECT t.enrollment_id FROM target t))
    ORDER BY e.id FOR NO KEY UPDATE{skip}),
lm AS MATERIALIZED (
    SELECT m.id, m.epoch, m.state AS was FROM message m
    WHERE m.id = ANY(ARRAY(SELECT t.id FROM target t))
      AND (SELECT count(*) FROM le) >= 0
      AND (m.enrollment_id IS NULL OR m.enrollment_id IN (SELECT le.id FROM le))
      AND ({guard})
    ORDER BY m.id FOR UPDATE OF m{skip}),
moved AS (
    UPDATE message m SET {assign}
    FROM lm {source}
    WHERE m.id = lm.id
    RETURNING m.id, m.enrollment_id, m.sequence_key, m.step_id, lm.was, m.state AS now{returning}),
{AFTERMATH}{extra}
{result}"""
