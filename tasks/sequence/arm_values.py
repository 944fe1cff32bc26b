"""Value per person of the arms of an experiment, beside its control: counted in Postgres."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from tasks.experiment.holm import holm
from tasks.experiment.values import CONVERSIONS, TOP, Worth, gap

# Values of both arms together have one bound on each side, so that it favors none.
SUMS = """
WITH person AS (
    SELECT e.id, e.shares, a.arm, c.value
    FROM experiment_epoch e JOIN experiment_assignment a ON a.epoch_id = e.id
    LEFT JOIN conversion c ON c.enrollment_id = a.enrollment_id
    WHERE e.experiment_key = :key AND {before} IS NOT TRUE),
bound AS (
    SELECT percentile_cont(:top) WITHIN GROUP (ORDER BY abs(value)) AS most FROM person),
held AS (
    SELECT p.id, p.shares, p.arm, p.value,
        CAST(greatest(least(p.value, b.most), -b.most) AS float8) AS worth
    FROM person p CROSS JOIN bound b)
SELECT h.id, h.shares, h.arm, count(*) AS people, count(h.value) AS valued,
    coalesce(sum(h.worth), 0) AS total, coalesce(sum(h.worth * h.worth), 0) AS squares,
    (SELECT CAST(most AS float8) FROM bound) AS most
FROM held h GROUP BY h.id, h.shares, h.arm ORDER BY h.id
"""


@dataclass(frozen=True, slots=True)
class ArmValue:
    """Value per person of one arm beside the control's.

    Attributes:
        people, people_of_control: in epochs in which the two had the ratio that they have last.
        mean, mean_of_control: value per person, of values that count ``most`` at most.
        difference: and its interval over all looks together; None where values carry none.
        p, adjusted: at this moment, and by Holm for all arms.
        said: why there is no difference; None: there is one.
    """

    arm: str
    against: str
    people: int
    people_of_control: int
    mean: float
    mean_of_control: float
    most: float
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    adjusted: float | None
    said: str | None


def arm_values(
    connection: Connection, key: str, control: str, alpha: float, effect: float, before: str
) -> tuple[ArmValue, ...]:
    """Compare the value of each arm with that of the control; empty where nobody has a value.

    Args:
        connection: inside `Database.snapshot()`.
        key: of an experiment whose weights the fleet does not move.
        control: its first arm.
        alpha: of the intervals, over all looks.
        effect: relative difference that the test is quickest for.
        before: SQL that tells who had reached the goal before they came into their arm.
    """
    query = text(SUMS.format(before=before))
    rows = connection.execute(query, {"key": key, "top": TOP}).all()
    if not any(row.valued for row in rows):
        return ()
    most = float(rows[0].most)
    arms = dict.fromkeys(row.arm for row in rows if row.arm != control)
    sides = {arm: _sides(rows, control, arm) for arm in sorted(arms)}
    gaps = {arm: gap(ours, theirs, alpha, effect) for arm, (ours, theirs) in sides.items()}
    adjusted = holm({arm: found.p for arm, found in gaps.items() if found is not None})
    return tuple(_told(control, arm, sides[arm], gaps[arm], adjusted, most) for arm in sides)


def _told(
    control: str,
    arm: str,
    sides: tuple[Worth, Worth],
    found: Any,
    adjusted: Mapping[str, float],
    most: float,
) -> ArmValue:
    ours, theirs = sides
    said = None
    if found is None:
        said = (
            f"{theirs.valued} of {arm} and {ours.valued} of {control} have a value: it takes"
            f" {CONVERSIONS} of each, that are not all alike"
        )
    return ArmValue(
        arm, control, theirs.people, ours.people, theirs.mean, ours.mean, most,
        found and found.difference, found and found.low, found and found.high, found and found.p,
        adjusted.get(arm), said,
    )  # fmt: skip


def _sides(rows: Any, control: str, arm: str) -> tuple[Worth, Worth]:
    """Both arms over the epochs in which the two had the ratio that they have last."""
    both = [row for row in rows if row.shares.get(control) and row.shares.get(arm)]
    nobody = Worth(0, 0, 0.0, 0.0)
    ours = theirs = nobody
    for row in _alike(both, control, arm):
        worth = Worth(row.people, row.valued, row.total, row.squares)
        if row.arm == control:
            ours += worth
        elif row.arm == arm:
            theirs += worth
    return ours, theirs


def _alike(rows: list[Any], control: str, arm: str) -> Iterator[Any]:
    for row in rows:
        last = rows[-1].shares
        if row.shares[arm] * last[control] == row.shares[control] * last[arm]:
            yield row
