"""What an experiment shows: counted in Postgres, judged by `tasks.experiment`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text

from schedules.definition import ExperimentStep
from schedules.durations import format_duration
from tasks.sequence.arm_values import ArmValue, arm_values
from tasks.sequence.experiments import find
from tasks.sequence.harm import Harm, harm
from tasks.sequence.trials import key_of, rulings
from tasks.sequence.unseen import uplift_in_words

if TYPE_CHECKING:
    from tasks.experiment.verdict import Count, Verdict

# Who had reached the goal before they came into their arm is no answer to it. A source that knows the
# date alone says midnight of the day: that is after, where word of it came after.
BEFORE = """(c.occurred_at <= a.at
    AND NOT (c.occurred_at = date_trunc('day', a.at, 'UTC') AND c.at > a.at))"""

COUNTS = text(f"""
SELECT e.id, e.shares, e.began_at, a.arm, count(*) AS assigned, min(a.at) AS since,
    count(*) FILTER (WHERE {BEFORE} IS NOT TRUE) AS people,
    count(c.enrollment_id) FILTER (WHERE NOT {BEFORE}) AS converted,
    sum(c.value) FILTER (WHERE NOT {BEFORE}) AS value
FROM experiment_epoch e
JOIN experiment_assignment a ON a.epoch_id = e.id
LEFT JOIN conversion c ON c.enrollment_id = a.enrollment_id
WHERE e.experiment_key = :key GROUP BY e.id, a.arm ORDER BY e.id, a.arm
""")

# A look is due when so many came into the two arms, and counts what was known at that moment: so it
# says the same whenever it is asked for.
LOOKS = text(f"""
WITH pair AS (
    SELECT a.arm, a.at, row_number() OVER (ORDER BY a.at, a.subscriber_id) AS n,
        {BEFORE} IS TRUE AS before, c.at AS converted_at
    FROM experiment_assignment a
    JOIN experiment_epoch e ON e.id = a.epoch_id AND e.shares ?& ARRAY[:control, :arm]
    LEFT JOIN conversion c ON c.enrollment_id = a.enrollment_id
    WHERE a.experiment_key = :key AND a.arm IN (:control, :arm))
SELECT k.number, p.arm, count(*) AS assigned, count(*) FILTER (WHERE NOT p.before) AS people,
    count(*) FILTER (WHERE NOT p.before AND p.converted_at <= l.at) AS converted
FROM generate_series(1, :looks) AS k (number)
JOIN pair l ON l.n = ceil(2.0 * :people * k.number / :looks)
JOIN pair p ON p.n <= l.n
GROUP BY k.number, p.arm ORDER BY k.number
""")
WORDS = text("""
SELECT arm, kind, ruled_by, reason, detail, at, lifted_at FROM experiment_ruling
WHERE experiment_key = :key ORDER BY at, id
""")
DAYS = text(f"""
SELECT x.arm, x.day, sum(x.people)::bigint AS people, sum(x.converted)::bigint AS converted
FROM experiment_assignment a
LEFT JOIN conversion c ON c.enrollment_id = a.enrollment_id
CROSS JOIN LATERAL (VALUES
    (a.arm, CAST(a.at AT TIME ZONE 'UTC' AS date), 1, 0),
    (a.arm, CAST(c.at AT TIME ZONE 'UTC' AS date), 0, 1)) AS x (arm, day, people, converted)
WHERE a.experiment_key = :key AND x.day IS NOT NULL AND {BEFORE} IS NOT TRUE
GROUP BY x.arm, x.day ORDER BY x.day
""")
NOW = text("SELECT clock_timestamp()")


@dataclass(frozen=True, slots=True)
class ArmReport:
    """One arm.

    Attributes:
        share: of those who come now; 0 where nobody comes into it any more.
        assigned: who came into it; ``people`` of them had not reached the goal before.
        rate: of the people, who converted; ``low`` … ``high``: Wilson's interval.
        mails: that went to them in that entry; complaints and unsubscribes within 30 days of the first.
        stopped: why nobody comes into it any more.
    """

    arm: str
    share: float
    assigned: int
    people: int
    converted: int
    rate: float | None
    low: float
    high: float
    value: Decimal | None
    mails: int
    complaints: int
    unsubscribes: int
    stopped: str | None


@dataclass(frozen=True, slots=True)
class Ruling:
    """What was ruled about an arm, by whom, and since when; ``lifted_at``: until."""

    arm: str
    kind: str
    ruled_by: str
    reason: str
    detail: dict[str, Any]
    at: dt.datetime
    lifted_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Day:
    """The end of a day (UTC): by arm who had come, and who of them had converted as far as was known."""

    day: dt.date
    people: dict[str, int]
    converted: dict[str, int]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about one experiment.

    Attributes:
        needed: people an arm by which the test finds a lift of ``effect`` with 80 % power, at the
            rate of the control; None while that is 0 or 1.
        said: the verdict in words, with the next move.
        days: how it came to that.
        values: value per person beside the control's; the verdict does not hang on it. Empty without
            values, and where the fleet moves the weights.
        uplift: whether choosing who gets the other arm is shown to gain; None: it was never learned.
    """

    key: str
    goal: str
    control: str
    test: str
    allocate: str
    alpha: float
    min_per_arm: int
    max_days: int | None
    effect: float
    since: dt.datetime | None
    epochs: int
    arms: tuple[ArmReport, ...]
    verdict: Verdict
    needed: int | None
    said: str
    rulings: tuple[Ruling, ...]
    days: tuple[Day, ...] = ()
    values: tuple[ArmValue, ...] = ()
    uplift: str | None = None


def report(connection: Connection, name: str) -> Report:
    """Count and judge an experiment; use it in `Database.snapshot()`. Needs numpy and scipy.

    Raises:
        Permanent: as `find`.
    """
    from tasks.experiment.intervals import wilson
    from tasks.experiment.power import sequential_per_arm
    from tasks.experiment.verdict import Count, Epoch, Rules, judge

    sequence, step = find(connection, name)
    key, stop = key_of(sequence.key, step.id), step.stop
    rows = connection.execute(COUNTS, {"key": key}).all()
    epochs: dict[int, Epoch] = {}
    totals: dict[str, list[Any]] = {}
    for row in rows:
        epoch = epochs.setdefault(row.id, Epoch(row.shares, {}))
        epochs[row.id] = Epoch(
            epoch.shares, {**epoch.counts, row.arm: Count(row.assigned, row.people, row.converted)}
        )
        totals.setdefault(row.arm, []).append(row)
    since = min((row.since for row in rows), default=None)
    now = connection.execute(NOW).scalar_one()
    over = bool(since and stop.max_days and now - since >= dt.timedelta(days=stop.max_days))
    ruled = rulings(connection, [key]).get(key)
    stopped = ruled.stopped if ruled else frozenset()
    kind = None if stop.test == "sequential" else stop.test
    # An arm that an edit took out is still an arm of what was.
    names = list(dict.fromkeys([*(arm.name for arm in step.arms), *totals]))
    looks = {
        arm: list(_looks(connection, key, step, arm))
        for arm in names
        if kind is not None and arm != step.control.name
    }
    verdict = judge(
        step.control.name,
        names,
        list(epochs.values()),
        Rules(
            stop.alpha,
            stop.min_per_arm,
            stop.effect,
            over,
            kind,
            stop.looks,
            step.allocate == "thompson",
        ),
        looks if kind is not None else None,
        sorted(stopped),
    )
    words = tuple(Ruling(*row) for row in connection.execute(WORDS, {"key": key}))
    moved = ruled.weights if ruled and step.allocate == "thompson" else None
    shares = {ruled.chosen: 1} if ruled and ruled.chosen else step.shares(stopped, moved)
    did = harm(connection, sequence.key, step.id)
    arms = []
    for arm in names:
        mine = totals.get(arm, [])
        people, converted = sum(r.people for r in mine), sum(r.converted for r in mine)
        low, high = wilson(converted, people)
        values = [r.value for r in mine if r.value is not None]
        done = did.get(arm) or Harm(arm, 0, 0, {"complaint_rate": 0, "unsubscribe_rate": 0})
        why = [w for w in words if w.arm == arm and w.kind == "stopped" and w.lifted_at is None]
        arms.append(
            ArmReport(
                arm,
                shares.get(arm, 0) / (sum(shares.values()) or 1),
                sum(r.assigned for r in mine),
                people,
                converted,
                converted / people if people else None,
                low,
                high,
                sum(values, Decimal()) if values else None,
                done.mails,
                done.events["complaint_rate"],
                done.events["unsubscribe_rate"],
                f"{why[-1].ruled_by}: {why[-1].reason}" if why else None,
            )
        )
    base = next((a.rate for a in arms if a.arm == step.control.name), None)
    target = min(base * (1 + stop.effect), 0.9999) if base else 0.0
    needed = None
    if base and 0 < base < target and step.allocate == "fixed":
        needed = sequential_per_arm(
            base, target, alpha=stop.alpha, effect=stop.effect, least=stop.min_per_arm
        )
    goal = sequence.goal
    return Report(
        key,
        f"{goal.event} within {format_duration(goal.window)}" if goal else "none",
        step.control.name,
        stop.test,
        step.allocate,
        stop.alpha,
        stop.min_per_arm,
        stop.max_days,
        stop.effect,
        since,
        len(epochs),
        tuple(arms),
        verdict,
        needed,
        _said(key, verdict, ruled.chosen if ruled else None, needed),
        words,
        tuple(_days(connection, key, names)),
        arm_values(connection, key, step.control.name, stop.alpha, stop.effect, BEFORE)
        if step.allocate == "fixed"
        else (),
        uplift_in_words(connection, key),
    )


def _said(key: str, verdict: Verdict, chosen: str | None, needed: int | None) -> str:
    from tasks.experiment.verdict import SAID

    said = SAID[verdict.answer]
    if chosen is not None:
        return f"{said}; everybody comes into {chosen!r} since that was chosen"
    if verdict.answer == "winner":
        return f"{said}: {verdict.arm}; `dripfleet experiment promote {key} {verdict.arm}` gives it to all"
    if verdict.answer in ("control", "no_winner"):
        return f"{said}; `dripfleet experiment stop {key}` gives the control to all"
    if verdict.answer == "sample_ratio":
        return (
            f"{said} (p = {verdict.sample_ratio:.1g}): look for what keeps people of one arm from"
            " being written down, before you look at any rate"
        )
    if verdict.answer in ("undecided", "too_early") and needed is not None:
        return f"{said}; the lift that is looked for is found by {needed:,} people an arm, 4 times of 5".replace(
            ",", " "
        )
    return said


def _looks(
    connection: Connection, key: str, step: ExperimentStep, arm: str
) -> Iterator[tuple[Count, Count]]:
    from tasks.experiment.verdict import Count

    values = {
        "key": key, "control": step.control.name, "arm": arm, "looks": step.stop.looks,
        "people": step.stop.people,
    }  # fmt: skip
    by_look: dict[int, dict[str, Count]] = {}
    for row in connection.execute(LOOKS, values):
        counted = Count(row.assigned, row.people, row.converted)
        by_look.setdefault(row.number, {})[row.arm] = counted
    nobody = Count(0, 0, 0)
    for each in by_look.values():
        yield each.get(step.control.name, nobody), each.get(arm, nobody)


def _days(connection: Connection, key: str, arms: list[str]) -> Iterator[Day]:
    people, converted = dict.fromkeys(arms, 0), dict.fromkeys(arms, 0)
    by_day: dict[dt.date, list[Any]] = {}
    for row in connection.execute(DAYS, {"key": key}):
        by_day.setdefault(row.day, []).append(row)
    for day, rows in by_day.items():
        for row in rows:
            people[row.arm] += row.people
            converted[row.arm] += row.converted
        yield Day(day, dict(people), dict(converted))
