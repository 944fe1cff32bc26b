"""What experiments are there, and what each shows: counted in Postgres, judged by `tasks.experiment`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text

from schedules.definition import ExperimentStep, Sequence
from schedules.durations import format_duration
from schedules.reading import suggest
from tasks.errors import Permanent
from tasks.sequence.harm import Harm, harm
from tasks.sequence.trials import key_of, rulings

if TYPE_CHECKING:
    from tasks.experiment.verdict import Count, Verdict

WITH_EXPERIMENTS = text("""
SELECT v.sequence_key, v.version, v.definition, v.version = q.version AS current
FROM sequence_version v JOIN sequence q ON q.key = v.sequence_key
WHERE v.definition @> '{"steps": [{"experiment": {}}]}'
  AND (CAST(:key AS text) IS NULL OR v.sequence_key = :key)
ORDER BY v.sequence_key, v.version DESC
""")

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
class Report:
    """Everything about one experiment.

    Attributes:
        needed: people an arm by which the test finds a lift of ``effect`` with 80 % power, at the
            rate of the control; None while that is 0 or 1.
        said: the verdict in words, with the next move.
    """

    key: str
    goal: str
    control: str
    test: str
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


@dataclass(frozen=True, slots=True)
class Listed:
    """An experiment in one line; ``chosen``: the arm that everybody comes into since it ended."""

    key: str
    arms: str
    people: int
    since: dt.datetime | None
    stopped: str | None
    chosen: str | None
    in_current_version: bool


def find(connection: Connection, name: str) -> tuple[Sequence, ExperimentStep]:
    """Return an experiment by its key, or by that of a sequence which has one only.

    Raises:
        Permanent: there is none of that name, or several.
    """
    sequence_key, _, step_id = name.partition("/")
    found = {step.id: (sequence, step) for sequence, step, _ in _all(connection, sequence_key)}
    if step_id in found:
        return found[step_id]
    if not step_id and len(found) == 1:
        return next(iter(found.values()))
    keys = [key_of(sequence.key, step.id) for sequence, step, _ in _all(connection, None)]
    mine = [key for key in keys if key.startswith(f"{sequence_key}/")]
    if not step_id and mine:
        raise Permanent(f"sequence {name!r} has several experiments: name one of {', '.join(mine)}")
    move = suggest(name, keys) or "`dripfleet experiment list` names those there are"
    raise Permanent(f"there is no experiment {name!r}: expected SEQUENCE/STEP; {move}")


def listed(connection: Connection) -> list[Listed]:
    """Return every experiment of the published sequences, by key."""
    made = []
    for sequence, step, current in _all(connection, None):
        key = key_of(sequence.key, step.id)
        rows = connection.execute(COUNTS, {"key": key}).all()
        ruled = rulings(connection, [key]).get(key)
        made.append(
            Listed(
                key,
                ", ".join(f"{arm.name} {arm.weight}" for arm in step.arms),
                sum(row.assigned for row in rows),
                min((row.since for row in rows), default=None),
                ", ".join(sorted(ruled.stopped)) or None if ruled else None,
                ruled.chosen if ruled else None,
                current,
            )
        )
    return made


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
        Rules(stop.alpha, stop.min_per_arm, stop.effect, over, kind, stop.looks),
        looks if kind is not None else None,
        sorted(stopped),
    )
    words = tuple(Ruling(*row) for row in connection.execute(WORDS, {"key": key}))
    shares = {ruled.chosen: 1} if ruled and ruled.chosen else step.shares(stopped)
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
    if base and 0 < base < target:
        needed = sequential_per_arm(
            base, target, alpha=stop.alpha, effect=stop.effect, least=stop.min_per_arm
        )
    goal = sequence.goal
    return Report(
        key,
        f"{goal.event} within {format_duration(goal.window)}" if goal else "none",
        step.control.name,
        stop.test,
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


def _all(
    connection: Connection, sequence_key: str | None
) -> Iterator[tuple[Sequence, ExperimentStep, bool]]:
    """Each experiment, as the newest version that has it says it; and whether that is the current one."""
    seen: set[tuple[str, str]] = set()
    for row in connection.execute(WITH_EXPERIMENTS, {"key": sequence_key}).all():
        try:
            sequence = Sequence.from_json(row.definition)
        except ValueError:
            continue  # of another release
        for step in sequence.steps:
            if isinstance(step, ExperimentStep) and (sequence.key, step.id) not in seen:
                seen.add((sequence.key, step.id))
                yield sequence, step, row.current
