"""An `experiment` step: how a file says it, who comes into which arm, and what a simulation shows."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import replace

import pytest

from schedules.arms import Arm, ExperimentStep, Stop
from schedules.definition import Sequence
from schedules.findings import DefinitionError
from schedules.loader import loads
from tasks.experiment.ratio import sample_ratio
from tasks.sequence.behavior import made_up
from tasks.sequence.catalog import in_words
from tasks.sequence.edit import Edit
from tasks.sequence.engine import Facts, HandOff, Plan, Position, plan
from tasks.sequence.planned import Assigned, Standing
from tasks.sequence.simulate import simulate

NOW = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)
FILE = """
key: trial
title: A trial
class: marketing
topic: news
entry: {manual: true}
goal: {event: purchase, window: 14d}
steps:
  - id: split
    experiment:
      arms: {plain: 50, offer: 50}
      metric: goal
      stop: {test: sequential, alpha: 0.05, min_per_arm: 500, max_days: 30, guardrail: {complaint_rate: 0.001}}
    paths: {plain: plain-mail, offer: offer-mail}
  - {id: plain-mail, send: {template: test/plain}, next: end}
  - {id: offer-mail, send: {template: test/offer}}
  - {id: end, exit: {reason: completed}}
"""
HELD = FILE.replace("goal:", "holdout: {percent: 50, salt: half}\ngoal:")


def split(sequence: Sequence) -> ExperimentStep:
    step = sequence.step("split")
    assert isinstance(step, ExperimentStep)
    return step


def faults(text: str) -> str:
    with pytest.raises(DefinitionError) as caught:
        loads(text, "trial.yaml")
    return "\n".join(map(str, caught.value.findings))


def walked(who: int, standing: Standing | None = None, text: str = FILE) -> Plan:
    facts = Facts(NOW, trials={"split": standing} if standing else {})
    return plan(loads(text, "trial.yaml"), Position(1, who, 1, None, None, NOW), facts)


def test_a_file_says_it_and_the_stored_form_says_the_same() -> None:
    sequence = loads(FILE, "trial.yaml")
    assert split(sequence) == ExperimentStep(
        "split",
        (Arm("plain", 50, "plain-mail"), Arm("offer", 50, "offer-mail")),
        stop=Stop(min_per_arm=500, max_days=30, guardrail=(("complaint_rate", 0.001),)),
    )
    assert Sequence.from_json(sequence.to_json()) == sequence
    planned = FILE.replace("test: sequential", "test: obrien_fleming, looks: 5, people: 15172")
    again = loads(planned.replace("metric: goal", "salt: mine"), "trial.yaml")
    assert Sequence.from_json(again.to_json()) == again and split(again).salt == "mine"
    assert (
        in_words(split(sequence))
        == "experiment: plain (50) to plain-mail, offer (50) to offer-mail"
    )


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ("{plain: 50, offer: 50}", "{plain: 50}", "has 1 arm: expected 2 to 20"),
        ("{plain: 50, offer: 50}", "{plain: 0, offer: 0}", "no arm that anybody comes into"),
        ("{plain: 50, offer: 50}", "{plain: 50, offer: half}", "expected a whole number from 0"),
        ("offer: offer-mail}", "ofer: offer-mail}", "did you mean 'offer'?"),
        (", offer: offer-mail}", "}", "expected the id of the step where that arm begins"),
        ("offer: offer-mail}", "offer: nowhere}", "leads to 'nowhere', which is no step"),
        ("goal: {event: purchase, window: 14d}\n", "", "expected a 'goal' in the file"),
        ("metric: goal", "metric: clicks", "expected goal"),
        ("alpha: 0.05", "alpha: 5", "expected a share above 0 and at most 0.5"),
        ("complaint_rate: 0.001", "complaints: 0.001", "did you mean 'complaint_rate'?"),
        ("test: sequential", "test: pocock", "has no 'looks': expected the looks that are planned"),
        ("metric: goal\n      stop: {test: sequential", "allocate: thompson\n      stop: {test: pocock, looks: 2,"
         " people: 9", "weights that move leave no plan"),
        ("max_days: 30", "looks: 5", "a sequential test may be looked at always"),
        ("test: sequential", "test: t", "expected sequential or pocock or obrien_fleming"),
        ("    paths: {plain: plain-mail, offer: offer-mail}\n", "", "has no 'paths'"),
        ("    paths: {", "    next: end\n    paths: {", "unknown key 'next'"),
    ],
)  # fmt: skip
def test_a_fault_is_one_sentence_with_the_next_move(was: str, now: str, said: str) -> None:
    assert was in FILE
    assert said in faults(FILE.replace(was, now))


def test_people_are_divided_by_the_weights_and_always_alike() -> None:
    step = split(loads(FILE, "trial.yaml"))
    shares = {"plain": 3, "offer": 1, "other": 2}
    drawn = [step.draw("trial", who, shares) for who in range(1, 12_001)]
    counts = Counter(drawn)
    assert sample_ratio([([counts[name] for name in shares], list(shares.values()))]) > 0.001
    assert drawn == [step.draw("trial", who, shares) for who in range(1, 12_001)]
    # Another experiment, or another salt, divides them anew.
    assert drawn != [step.draw("other", who, shares) for who in range(1, 12_001)]
    salted = replace(step, salt="x")
    assert drawn != [salted.draw("trial", who, shares) for who in range(1, 12_001)]


def test_changed_weights_move_only_those_who_must() -> None:
    step = split(loads(FILE, "trial.yaml"))
    people = range(1, 12_001)
    before = [step.draw("trial", who, {"a": 1, "b": 1}) for who in people]
    after = [step.draw("trial", who, {"a": 3, "b": 2}) for who in people]
    moved = Counter(pair for pair in zip(before, after, strict=True) if pair[0] != pair[1])
    assert set(moved) == {("b", "a")} and 0.085 < moved["b", "a"] / 12_000 < 0.115
    gone = [step.draw("trial", who, {"a": 1, "c": 1}) for who in people]
    three = [step.draw("trial", who, {"a": 1, "b": 1, "c": 1}) for who in people]
    assert all(now == was for was, now in zip(three, gone, strict=True) if was != "b")


def test_somebody_new_is_assigned_and_what_they_got_is_to_be_written() -> None:
    made = walked(1)
    [new] = made.assigned
    assert new == Assigned("split", new.arm, 0.5, {"plain": 1, "offer": 1})
    assert isinstance(made.rest, HandOff) and made.rest.step_id == f"{new.arm}-mail"
    said = next(line for line in made.decisions if line.kind == "assigned")
    assert (said.reason, said.detail["arm"]) == ("drawn", new.arm)


def test_what_is_on_record_comes_before_the_draw() -> None:
    [drawn] = walked(1).assigned
    other = {"plain": "offer", "offer": "plain"}[drawn.arm]

    def led(standing: Standing) -> tuple[str | None, str, int]:
        made = walked(1, standing)
        reason = next(line.reason for line in made.decisions if line.kind == "assigned")
        return made.rest.step_id, reason, len(made.assigned)

    assert led(Standing(arm=other)) == (f"{other}-mail", "kept", 0)
    assert led(Standing(chosen=other)) == (f"{other}-mail", "chosen", 0)
    assert led(Standing(stopped=frozenset({drawn.arm}))) == (f"{other}-mail", "drawn", 1)
    # Who was in an arm that is stopped gets another, and is not counted in it.
    stopped = Standing(arm=drawn.arm, stopped=frozenset({drawn.arm}))
    assert led(stopped) == (f"{other}-mail", "moved", 0)
    assert led(Standing(arm="deleted")) == (f"{drawn.arm}-mail", "moved", 0)
    assert led(Standing(stopped=frozenset({"plain", "offer"}))) == ("plain-mail", "no_arm", 0)


def test_who_is_held_out_goes_some_way_and_is_not_counted() -> None:
    holdout = loads(HELD, "trial.yaml").holdout
    assert holdout is not None
    for who in range(1, 20):
        assert len(walked(who, text=HELD).assigned) == (0 if holdout.holds(who) else 1)


def test_an_edit_takes_the_way_of_the_control_and_runs_the_step_again() -> None:
    sequence = loads(FILE, "trial.yaml")
    edit = Edit({1: sequence}, loads(FILE.replace("split", "divide"), "trial.yaml"))
    assert edit.survivor(1, "split") == "plain-mail"
    made = plan(
        sequence, Position(1, 1, 1, "split", None, NOW, passed=frozenset({"split"})), Facts(NOW)
    )
    assert made.assigned


def test_a_simulation_divides_people_as_the_planner_does() -> None:
    sequence = loads(FILE, "trial.yaml")
    story = simulate(sequence, made_up(400, 1), start=NOW, days=3, seed=1)
    arms = Counter(
        split(sequence).draw("trial", who, {"plain": 1, "offer": 1}) for who in range(1, 401)
    )
    assert story.steps[0].arms == arms and story.steps[0].begun == 400
    assert Counter(mail.step_id for mail in story.sent) == {
        f"{arm}-mail": n for arm, n in arms.items()
    }
