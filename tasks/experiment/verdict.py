"""What an experiment shows: counts in, a verdict out, and "no winner" is one.

Asked in this order: did the arms get their shares; was anybody in them long enough; is an arm better
or worse than the control beyond chance, over all looks and arms together; is the time over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from tasks.experiment.comparison import (
    Comparison,
    Count,
    Epoch,
    Look,
    Rules,
    at_shares,
    by_chance,
    count_of,
)
from tasks.experiment.ratio import MISMATCH, sample_ratio

__all__ = ["SAID", "Answer", "Comparison", "Count", "Epoch", "Look", "Rules", "Verdict", "judge"]

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
class Verdict:
    """The answer, the arm that it names, the p-value of the shares, and each comparison.

    ``refused``: arms that are not compared, and the effective sample size that was too small.
    """

    answer: Answer
    arm: str | None
    sample_ratio: float
    comparisons: tuple[Comparison, ...] = ()
    refused: Mapping[str, float] = field(default_factory=dict)


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
        ([count_of(e, arm).assigned for arm in arms], [e.shares.get(arm, 0) for arm in arms])
        for e in epochs
        if any(e.shares.get(arm) for arm in arms)
    )
    if not any(count_of(e, arm).assigned for e in epochs for arm in arms):
        return Verdict("nobody", None, ratio)
    if ratio < MISMATCH:
        return Verdict("sample_ratio", None, ratio)
    if rules.moved:
        found, refused = by_chance(control, arms, epochs, rules)
        return _answer(control, found, rules, ratio, stopped, refused)
    found = at_shares(control, arms, epochs, rules, looks)
    return _answer(control, found, rules, ratio, stopped, {})


def _answer(
    control: str,
    found: Sequence[Comparison],
    rules: Rules,
    ratio: float,
    stopped: Sequence[str],
    refused: Mapping[str, float],
) -> Verdict:
    better = [each for each in found if each.finding == "better" and each.arm not in stopped]
    worse = [each for each in found if each.finding == "worse"]
    answer: Answer = "undecided"
    arm_named: str | None = None
    if better:
        answer, arm_named = "winner", max(better, key=lambda each: each.difference).arm
    elif found and len(worse) == len(found) and not refused:
        answer, arm_named = "control", control
    elif rules.over:
        answer = "no_winner"
    elif refused or not all(each.enough for each in found if each.arm not in stopped):
        answer = "too_early"
    elif rules.kind is not None and any(len(each.looks) == rules.looks for each in found):
        answer = "no_winner"  # the last look that was planned is over
    return Verdict(answer, arm_named, ratio, tuple(found), refused)
