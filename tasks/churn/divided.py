"""Who was divided by chance into those with a mail and those without, and what came of it.

By a holdout, or by an experiment that has ended. Everybody counts in the arm that they were given,
whether a mail reached them or not, once the time for their goal is over; what is known of them is what
was known when they came in.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, text

from schedules.definition import ExperimentStep, Sequence
from schedules.durations import format_duration
from tasks.churn.uplift_name import Asked
from tasks.errors import Permanent

VERSIONS = text("""
SELECT v.version, v.created_at, v.definition, v.version <= q.version AS published
FROM sequence_version v JOIN sequence q ON q.key = v.sequence_key
WHERE q.key = :key ORDER BY v.version DESC
""")

# The first entry of each person since the holdout is as it is, where the time for its goal is over.
HELD = text("""
SELECT e.subscriber_id, e.entered_at AS at, c.enrollment_id IS NOT NULL AS converted
FROM (
    SELECT DISTINCT ON (n.subscriber_id) n.id, n.subscriber_id, n.entered_at FROM enrollment n
    WHERE n.sequence_key = :key AND n.entered_at >= :since
    ORDER BY n.subscriber_id, n.entered_at, n.id) e
LEFT JOIN conversion c ON c.enrollment_id = e.id
WHERE e.entered_at <= clock_timestamp() - CAST(:window AS interval)
ORDER BY e.subscriber_id
""")

# Who had reached the goal before they came into their arm is no answer to it. A source that knows the
# date alone says midnight of the day: that is after, where word of it came after.
ARMS = text("""
SELECT a.subscriber_id, a.at, a.arm, e.shares, c.enrollment_id IS NOT NULL AS converted
FROM experiment_assignment a
JOIN experiment_epoch e ON e.id = a.epoch_id AND e.shares ?& ARRAY[:control, :arm]
JOIN enrollment n ON n.id = a.enrollment_id
LEFT JOIN conversion c ON c.enrollment_id = a.enrollment_id
WHERE a.experiment_key = :key AND a.arm IN (:control, :arm)
  AND n.entered_at <= clock_timestamp() - CAST(:window AS interval)
  AND (c.occurred_at <= a.at
       AND NOT (c.occurred_at = date_trunc('day', a.at, 'UTC') AND c.at > a.at)) IS NOT TRUE
ORDER BY a.subscriber_id
""")
RULED = text("""
SELECT r.arm, r.kind FROM experiment_ruling r
WHERE r.experiment_key = :key AND r.lifted_at IS NULL
""")
BEGAN = text("""
SELECT min(a.at) <= clock_timestamp() - make_interval(days => :days)
FROM experiment_assignment a WHERE a.experiment_key = :key
""")


@dataclass(frozen=True, slots=True)
class Divided:
    """People of two arms, by id.

    Attributes:
        ids: (n,) of subscribers, rising.
        epochs: (n,) when each came in, in seconds since 1970.
        treated: (n,) whether they were in the arm that is asked about.
        converted: (n,) whether they reached the goal in time.
        weights: (n,) 1 / the chance of their own arm of the two, then.
        said: the two arms, in words.
        window: the time for the goal.
    """

    ids: NDArray[np.int64]
    epochs: NDArray[np.float64]
    treated: NDArray[np.bool_]
    converted: NDArray[np.bool_]
    weights: NDArray[np.float64]
    said: str
    window: dt.timedelta


def divided(connection: Connection, asked: Asked) -> Divided:
    """Read who was divided.

    Raises:
        Permanent: there is no such sequence, experiment or arm; it has no goal, or no holdout; or the
            experiment has not ended.
    """
    rows = connection.execute(VERSIONS, {"key": asked.sequence}).all()
    read = [(row, _read(row.definition)) for row in rows]
    known = [(row, sequence) for row, sequence in read if sequence is not None]
    if not known:
        raise Permanent(
            f"no sequence {asked.sequence!r} is published; `dripfleet sequence list` names those"
            " there are"
        )
    if asked.step is None:
        return _held_out(connection, [(row, each) for row, each in known if row.published])
    return _arms(connection, asked, [sequence for _, sequence in known])


def _held_out(connection: Connection, versions: Rows[tuple[Any, Sequence]]) -> Divided:
    row, sequence = versions[0]
    goal, holdout = sequence.goal, sequence.holdout
    if goal is None or holdout is None:
        raise Permanent(
            f"sequence {sequence.key!r} has no {'goal' if goal is None else 'holdout'}: what its"
            " mails add is learned from those who were held out and reached the goal all the same;"
            " give it both, or name an experiment of it"
        )
    since = row.created_at
    for older, each in versions[1:]:
        if each.holdout != holdout or each.goal != goal:
            break
        since = older.created_at
    found = connection.execute(
        HELD, {"key": sequence.key, "since": since, "window": goal.window}
    ).all()
    treated = np.array([not holdout.holds(each.subscriber_id) for each in found], dtype=bool)
    share = float(holdout.percent) / 100
    weights = np.where(treated, 1 / max(1 - share, 1e-9), 1 / max(share, 1e-9))
    said = f"mailed by {sequence.key}, beside {holdout.percent:f} % held out"
    return _made(found, treated, weights, said, goal.window)


def _arms(connection: Connection, asked: Asked, versions: Rows[Sequence]) -> Divided:
    key = f"{asked.sequence}/{asked.step}"
    found = [
        (sequence, step)
        for sequence in versions
        for step in sequence.steps
        if isinstance(step, ExperimentStep) and step.id == asked.step
    ]
    if not found:
        raise Permanent(
            f"there is no experiment {key!r}; `dripfleet experiment list` names those there are"
        )
    sequence, step = found[0]
    others = [arm.name for arm in step.arms if arm.name != step.control.name]
    arm = asked.arm or (others[0] if len(others) == 1 else None)
    if arm not in others:
        told = f"{asked.arm!r} is none of them" if asked.arm else "it has several"
        raise Permanent(
            f"uplift of experiment {key}: expected one of its arms {', '.join(others)} behind it,"
            f" and {told}; write uplift:{key}/{others[0]}"
        )
    if sequence.goal is None:
        raise Permanent(f"sequence {sequence.key!r} has no goal: nothing can be learned from it")
    _require_ended(connection, key, arm, step)
    rows = connection.execute(
        ARMS,
        {"key": key, "control": step.control.name, "arm": arm, "window": sequence.goal.window},
    ).all()
    treated = np.array([row.arm == arm for row in rows], dtype=bool)
    chances = [
        row.shares[row.arm] / (row.shares[arm] + row.shares[step.control.name]) for row in rows
    ]
    said = f"arm {arm} of {key}, beside arm {step.control.name}"
    return _made(
        rows, treated, 1 / np.array(chances or [1.0])[: len(rows)], said, sequence.goal.window
    )


def _require_ended(connection: Connection, key: str, arm: str, step: ExperimentStep) -> None:
    ruled = connection.execute(RULED, {"key": key}).all()
    if any(row.kind == "chosen" or row.arm == arm for row in ruled):
        return
    days = step.stop.max_days
    if days is not None and connection.execute(BEGAN, {"key": key, "days": days}).scalar_one():
        return
    end = f" or after {days} days (max_days)" if days is not None else ""
    raise Permanent(
        f"experiment {key} is not over: an uplift is learned from one that has ended, by"
        f" `dripfleet experiment promote`, `experiment stop`{end}"
    )


def _made(
    rows: Rows[Any],
    treated: NDArray[np.bool_],
    weights: NDArray[np.float64],
    said: str,
    window: dt.timedelta,
) -> Divided:
    return Divided(
        np.array([row.subscriber_id for row in rows], dtype=np.int64),
        np.array([row.at.timestamp() for row in rows], dtype=np.float64),
        treated,
        np.array([row.converted for row in rows], dtype=bool),
        weights,
        f"{said}; the goal may take {format_duration(window)}",
        window,
    )


def _read(definition: Any) -> Sequence | None:
    try:
        return Sequence.from_json(definition)
    except ValueError:
        return None  # of another release
