"""One arm beside the control: by rates where weights stood still, else by the chances of the arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.experiment.bounds import Kind, spending
from tasks.experiment.holm import holm
from tasks.experiment.intervals import newcombe
from tasks.experiment.posterior import chance_of_more
from tasks.experiment.sequential import always_valid_interval, always_valid_p, information
from tasks.experiment.weighted import EFFECTIVE, Spans, difference, weighted


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
    """As the file has them.

    Attributes:
        over: the time is.
        kind: of bounds; None: the test that may be looked at always.
        moved: the weights moved with what was seen, so each counts by 1 / their chance.
    """

    alpha: float = 0.05
    least: int = 1000
    effect: float = 0.1
    over: bool = False
    kind: Kind | None = None
    looks: int | None = None
    moved: bool = False


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


def at_shares(
    control: str,
    arms: Sequence[str],
    epochs: Sequence[Epoch],
    rules: Rules,
    looks: Mapping[str, Sequence[tuple[Count, Count]]] | None,
) -> list[Comparison]:
    """Compare each arm with the control, where the weights of the two stood still."""
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
    return found


def by_chance(
    control: str, arms: Sequence[str], epochs: Sequence[Epoch], rules: Rules
) -> tuple[list[Comparison], dict[str, float]]:
    """Comparisons by the chance of each arm, and those for which too few people stand."""
    refused: dict[str, float] = {}
    made: dict[str, tuple[Spans, Spans, tuple[float, float, float, float]]] = {}
    for arm in arms:
        both = [e for e in epochs if e.shares.get(control) and e.shares.get(arm)]
        if arm == control:
            continue
        sides = [_spans(name, both) for name in (control, arm)]
        known = [weighted(spans) for spans in sides]
        effective = min(0.0 if each is None else each.effective for each in known)
        if effective < EFFECTIVE:
            refused[arm] = effective
            continue
        people = sum(count.people for e in both for count in e.counts.values())
        told = difference(sides[0], sides[1], people, rules.effect, rules.alpha)
        made[arm] = sides[0], sides[1], told
    adjusted = holm({arm: told[3] for arm, (_, _, told) in made.items()})
    found = []
    for arm, (ours, theirs, (apart, low, high, p)) in made.items():
        a, b = weighted(ours), weighted(theirs)
        assert a is not None and b is not None
        enough = min(a.effective, b.effective) >= rules.least
        finding: Literal["better", "worse"] | None = None
        if enough and adjusted[arm] <= rules.alpha:
            finding = "better" if apart > 0 else "worse"
        chance = chance_of_more(
            round(a.rate * a.effective),
            round(a.effective),
            round(b.rate * b.effective),
            round(b.effective),
        )
        found.append(
            Comparison(
                arm,
                control,
                sum(n for _, n, _ in theirs),
                sum(n for _, n, _ in ours),
                b.rate,
                a.rate,
                0,
                apart,
                low,
                high,
                apart / a.rate if a.rate else None,
                p,
                adjusted[arm],
                chance,
                enough,
                finding,
            )
        )
    return found, refused


def _spans(arm: str, epochs: Sequence[Epoch]) -> Spans:
    return [
        (
            e.shares[arm] / sum(e.shares.values()),
            count_of(e, arm).people,
            count_of(e, arm).converted,
        )
        for e in epochs
    ]


def count_of(epoch: Epoch, arm: str) -> Count:
    """Return the counts of an arm in an epoch, which may be none."""
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
        counts = [count_of(e, name) for e in taken]
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
