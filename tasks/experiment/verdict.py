"""What an experiment shows: counts in, a verdict out, and "no winner" is one.

Asked in this order: did the arms get their shares; was anybody in them long enough; is an arm better
or worse than the control beyond chance, over all looks and arms together; is the time over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from tasks.experiment.bounds import Kind, spending
from tasks.experiment.holm import holm
from tasks.experiment.intervals import newcombe
from tasks.experiment.posterior import chance_of_more
from tasks.experiment.ratio import MISMATCH, sample_ratio
from tasks.experiment.sequential import always_valid_interval, always_valid_p, information

Answer: TypeAlias = Literal[
    "nobody", "sample_ratio", "winner", "control", "no_winner", "too_early", "undecided"
]
SAID: Final[Mapping[Answer, str]] = {
    "nobody": "nobody has come into it yet",
    "sample_ratio": "the arms did not get the shares that they were to get, so nothing can be concluded",
    "winner": "an arm is better than the control beyond chance",
    "control": "every other arm is worse than the control beyond chance",
    "no_winner": "no winner: the time is over, and no difference is beyond chance",
    "too_early": "too early: an arm has fewer people than min_per_arm",
    "undecided": "undecided: no difference is beyond chance so far",
}


@dataclass(frozen=True, slots=True)
class Count:
    """Of one arm: who came into it, who of them could still convert then, and who did."""

    assigned: int
    people: int
    converted: int


@dataclass(frozen=True, slots=True)
class Epoch:
    """A span in which the shares stood still: arm → weight, arm → counts."""

    shares: Mapping[str, int]
    counts: Mapping[str, Count]


@dataclass(frozen=True, slots=True)
class Rules:
    """As the file has them; `kind` None is the test that may be looked at always; ``over``: in time."""

    alpha: float = 0.05
    least: int = 1000
    effect: float = 0.1
    over: bool = False
    kind: Kind | None = None
    looks: int | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """A planned look that is due: z of the difference, and the bound of |z|."""

    number: int
    people: int
    z: float
    bound: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One arm beside the control.

    Attributes:
        people: of the arm, and of the control, in the epochs that are compared: those in which the
            weights of the two had the same ratio as in the last one.
        left_out: epochs that are not.
        difference: of the rates; ``low`` … ``high`` holds at all looks together with a sequential
            test, else at this one alone (Newcombe).
        lift: relative to the control's rate; None where that is 0.
        p: at this moment; None of a test that has its looks.
        adjusted: by Holm, for all arms.
        chance: P(better), of the Beta posterior.
        enough: both have ``least`` people.
        finding: beyond chance.
    """

    arm: str
    against: str
    people: int
    people_of_control: int
    rate: float | None
    rate_of_control: float | None
    left_out: int
    difference: float
    low: float
    high: float
    lift: float | None
    p: float | None
    adjusted: float | None
    chance: float
    enough: bool
    finding: Literal["better", "worse"] | None
    looks: tuple[Look, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer, the arm that it names, the p-value of the shares, and each comparison."""

    answer: Answer
    arm: str | None
    sample_ratio: float
    comparisons: tuple[Comparison, ...] = ()


def judge(
    control: str,
    arms: Sequence[str],
    epochs: Sequence[Epoch],
    rules: Rules,
    looks: Mapping[str, Sequence[tuple[Count, Count]]] | None = None,
    stopped: Sequence[str] = (),
) -> Verdict:
    """Say what an experiment shows.

    Args:
        control: the arm that the others are compared with.
        arms: all of them.
        epochs: oldest first.
        rules: when it may be concluded.
        looks: of a group-sequential test: arm → counts of the control and of it at each look that
            is due.
        stopped: arms that were stopped; they are no winners, whatever their rate.
    """
    ratio = sample_ratio(
        ([_of(e, arm).assigned for arm in arms], [e.shares.get(arm, 0) for arm in arms])
        for e in epochs
        if any(e.shares.get(arm) for arm in arms)
    )
    if not any(_of(e, arm).assigned for e in epochs for arm in arms):
        return Verdict("nobody", None, ratio)
    if ratio < MISMATCH:
        return Verdict("sample_ratio", None, ratio)
    compared = {arm: _pool(control, arm, epochs) for arm in arms if arm != control}
    family = {
        arm: float(always_valid_p(c.converted, c.people, t.converted, t.people, rules.effect))
        for arm, (c, t, _) in compared.items()
    }
    adjusted = holm(family)
    found = []
    for arm, (ours, theirs, left_out) in compared.items():
        done = () if looks is None else _looks(looks.get(arm, ()), rules, len(compared))
        found.append(
            _compare(arm, control, ours, theirs, left_out, rules, family[arm], adjusted[arm], done)
        )
    better = [each for each in found if each.finding == "better" and each.arm not in stopped]
    worse = [each for each in found if each.finding == "worse"]
    answer: Answer = "undecided"
    arm_named: str | None = None
    if better:
        answer, arm_named = "winner", max(better, key=lambda each: each.difference).arm
    elif found and len(worse) == len(found):
        answer, arm_named = "control", control
    elif rules.over:
        answer = "no_winner"
    elif not all(each.enough for each in found if each.arm not in stopped):
        answer = "too_early"
    elif rules.kind is not None and any(len(each.looks) == rules.looks for each in found):
        answer = "no_winner"  # the last look that was planned is over
    return Verdict(answer, arm_named, ratio, tuple(found))


def _of(epoch: Epoch, arm: str) -> Count:
    return epoch.counts.get(arm, Count(0, 0, 0))


def _pool(control: str, arm: str, epochs: Sequence[Epoch]) -> tuple[Count, Count, int]:
    """Counts of both over epochs whose ratio is that of the last; others would mix times of year in."""
    side_by_side = [e for e in epochs if e.shares.get(control) and e.shares.get(arm)]
    taken = [
        e
        for e in side_by_side
        if e.shares[arm] * side_by_side[-1].shares[control]
        == e.shares[control] * side_by_side[-1].shares[arm]
    ]

    def total(name: str) -> Count:
        counts = [_of(e, name) for e in taken]
        return Count(
            sum(c.assigned for c in counts),
            sum(c.people for c in counts),
            sum(c.converted for c in counts),
        )

    return total(control), total(arm), len(side_by_side) - len(taken)


def _looks(counts: Sequence[tuple[Count, Count]], rules: Rules, family: int) -> tuple[Look, ...]:
    """The looks that are due; several arms share α evenly."""
    if rules.kind is None or rules.looks is None or not counts:
        return ()
    fractions = [k / rules.looks for k in range(1, len(counts) + 1)]
    bounds = spending(rules.kind, fractions, rules.alpha / family)
    made = []
    for number, ((ours, theirs), bound) in enumerate(zip(counts, bounds, strict=True), 1):
        z = _z(ours, theirs)
        made.append(Look(number, min(ours.people, theirs.people), z, bound))
    return tuple(made)


def _z(ours: Count, theirs: Count) -> float:
    known = float(information(ours.converted, ours.people, theirs.converted, theirs.people))
    if not known:
        return 0.0
    rate = (ours.converted + theirs.converted) / (ours.people + theirs.people)
    apart = theirs.converted / theirs.people - ours.converted / ours.people
    return float(apart / rate * known**0.5)


def _compare(
    arm: str,
    control: str,
    ours: Count,
    theirs: Count,
    left_out: int,
    rules: Rules,
    p: float,
    adjusted: float,
    looks: tuple[Look, ...],
) -> Comparison:
    counts = ours.converted, ours.people, theirs.converted, theirs.people
    enough = min(ours.people, theirs.people) >= rules.least
    base = ours.converted / ours.people if ours.people else None
    rate = theirs.converted / theirs.people if theirs.people else None
    difference = (rate or 0.0) - (base or 0.0)
    crossed = next((look for look in looks if abs(look.z) >= look.bound), None)
    if rules.kind is None:
        low, high = always_valid_interval(*counts, rules.alpha, rules.effect)
        beyond, sign = enough and adjusted <= rules.alpha, difference
    else:
        low, high = newcombe(*counts, 1 - rules.alpha)
        beyond, sign = enough and crossed is not None, crossed.z if crossed else 0.0
    finding: Literal["better", "worse"] | None = None
    if beyond:
        finding = "better" if sign > 0 else "worse"
    sequential = rules.kind is None
    return Comparison(
        arm, control, theirs.people, ours.people, rate, base, left_out, difference, low, high,
        difference / base if base else None,
        p if sequential else None, adjusted if sequential else None,
        chance_of_more(*counts), enough, finding, looks,
    )  # fmt: skip
