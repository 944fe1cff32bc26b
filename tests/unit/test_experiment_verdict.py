"""What is said of an experiment: shares first, nothing too early, and "no winner" is an answer."""

from __future__ import annotations

import pytest

from schedules.arms import Arm, ExperimentStep
from tasks.experiment.verdict import Answer, Count, Epoch, Rules, Verdict, judge

HALVES = {"plain": 1, "offer": 1}


def counts(**arms: tuple[int, int]) -> dict[str, Count]:
    return {arm: Count(people, people, converted) for arm, (people, converted) in arms.items()}


def said(
    rules: Rules | None = None, shares: dict[str, int] = HALVES, **arms: tuple[int, int]
) -> Verdict:
    return judge("plain", list(shares), [Epoch(shares, counts(**arms))], rules or Rules())


@pytest.mark.parametrize(
    ("plain", "offer", "answer", "arm"),
    [
        ((0, 0), (0, 0), "nobody", None),
        ((5000, 500), (5600, 560), "sample_ratio", None),
        ((900, 90), (910, 200), "too_early", None),
        ((5000, 500), (5010, 520), "undecided", None),
        ((5000, 500), (5010, 700), "winner", "offer"),
        ((5000, 500), (5010, 300), "control", "plain"),
    ],
)
def test_the_first_question_that_has_an_answer_is_the_answer(
    plain: tuple[int, int], offer: tuple[int, int], answer: Answer, arm: str | None
) -> None:
    found = said(plain=plain, offer=offer)
    assert (found.answer, found.arm) == (answer, arm)
    if answer == "sample_ratio":
        assert found.comparisons == () and found.sample_ratio < 0.001


def test_no_winner_is_an_answer_when_the_time_is_over() -> None:
    assert said(Rules(over=True), plain=(5000, 500), offer=(5010, 520)).answer == "no_winner"
    assert said(Rules(over=True), plain=(500, 50), offer=(510, 52)).answer == "no_winner"
    # What is beyond chance stays so.
    assert said(Rules(over=True), plain=(5000, 500), offer=(5010, 700)).answer == "winner"


def test_several_arms_are_judged_as_a_family() -> None:
    alone = said(plain=(5000, 500), offer=(5000, 612))
    assert alone.answer == "winner"
    shares = {"plain": 1, "offer": 1, "b": 1, "c": 1, "d": 1}
    others: dict[str, tuple[int, int]] = dict.fromkeys("bcd", (5000, 503))
    family = said(None, shares, plain=(5000, 500), offer=(5000, 612), **others)
    one = family.comparisons[0]
    assert one.p == alone.comparisons[0].p and one.adjusted == pytest.approx(4 * (one.p or 0))
    assert family.answer == "undecided"


def test_an_arm_that_was_stopped_is_no_winner() -> None:
    epochs = [Epoch(HALVES, counts(plain=(5000, 500), offer=(5010, 700)))]
    assert (
        judge("plain", ["plain", "offer"], epochs, Rules(), stopped=["offer"]).answer == "undecided"
    )


def test_epochs_of_another_ratio_are_left_out_since_they_would_mix_times_of_year_in() -> None:
    """Simpson: both arms convert alike in each epoch, and the rate was twice as high in the first."""
    epochs = [
        Epoch({"plain": 9, "offer": 1}, counts(plain=(9000, 1800), offer=(1000, 200))),
        Epoch(HALVES, counts(plain=(5000, 500), offer=(5000, 500))),
    ]
    found = judge("plain", ["plain", "offer"], epochs, Rules())
    [one] = found.comparisons
    assert (one.difference, one.left_out, one.people) == (0, 1, 5000)
    assert found.answer == "undecided" and found.sample_ratio == 1
    # A third arm that was stopped leaves the ratio of the two as it was: nothing is lost.
    epochs = [
        Epoch(
            {"plain": 1, "offer": 1, "c": 2}, counts(plain=(500, 50), offer=(500, 50), c=(1000, 90))
        ),
        Epoch(HALVES, counts(plain=(5000, 500), offer=(5000, 500))),
    ]
    one = judge("plain", ["plain", "offer", "c"], epochs, Rules()).comparisons[0]
    assert (one.left_out, one.people) == (0, 5500)


def test_planned_looks_stop_where_a_bound_is_crossed() -> None:
    rules = Rules(kind="obrien_fleming", looks=3)
    epochs = [Epoch(HALVES, counts(plain=(6000, 600), offer=(6000, 690)))]
    first = (Count(2000, 2000, 200), Count(2000, 2000, 230))
    second = (Count(4000, 4000, 400), Count(4000, 4000, 500))
    third = (Count(6000, 6000, 600), Count(6000, 6000, 620))

    def judged(*looks: tuple[Count, Count]) -> Verdict:
        return judge("plain", ["plain", "offer"], epochs, rules, {"offer": looks})

    assert judged(first).answer == "undecided"
    crossed = judged(first, second)
    assert (crossed.answer, crossed.arm) == ("winner", "offer")
    [one] = crossed.comparisons
    assert [look.bound for look in one.looks] == pytest.approx([3.71, 2.51], abs=0.01)
    # It stays found at the third look; and where none crosses, the last one ends it.
    assert judged(first, second, third).answer == "winner"
    assert (
        judged(first, (Count(4000, 4000, 400), Count(4000, 4000, 420)), third).answer == "no_winner"
    )


def test_real_assignment_and_real_verdicts_find_nothing_where_there_is_nothing() -> None:
    """Sixty experiments without an effect, looked at on thirty days; `tests.bench.equal_arms` has more."""
    from tests.bench.equal_arms import wrongly_found

    assert wrongly_found(runs=60, people=900, rates=(0.3,))[0.3] <= 3


def test_the_arm_is_a_function_of_salt_and_subscriber_alone() -> None:
    step = ExperimentStep("split", (Arm("a", 1, "x"), Arm("b", 1, "x")), "salt")
    # A change here would give everybody under way another arm.
    assert (
        "".join(step.draw("k", who, {"a": 1, "b": 1}) for who in range(1, 21))
        == "aabbabaaaabbbababaab"
    )
