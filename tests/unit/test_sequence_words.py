"""From where words are asked for, and what the last gate does with a mail that has none."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from schedules.definition import ExperimentStep, Sequence
from schedules.loader import loads
from tasks.sequence import word_arms
from tasks.sequence.decisions import sentence
from tasks.sequence.engine import plan
from tasks.sequence.planned import Facts, HandOff, Position, Postpone, Standing, Words
from tasks.sequence.word_places import places

NOW = datetime.fromisoformat("2026-03-27T18:00:00Z")
LEAD = timedelta(minutes=30)
SOURCE = """
key: demo
title: A demo
class: marketing
topic: news
entry: {manual: true}
steps:
  - {id: first, send: {template: a/b, personalize: {prompt: a/b}}}
  - {id: pause, wait: {delay: 2d}}
  - id: split
    branch: [{if: "sub.orders > 1", next: second}, {else: third}]
  - {id: second, send: {template: a/b, personalize: {prompt: a/b, lead: 10m}}, next: plain}
  - {id: third, send: {template: a/b, personalize: {prompt: a/c}}}
  - {id: plain, send: {template: a/b}}
"""
SEQUENCE = loads(SOURCE, "demo.yaml")
FRESH = Position(
    enrollment_id=1, subscriber_id=7, entry_no=1, step_id=None, started_at=None, due_at=NOW
)


def test_words_are_asked_for_wherever_no_other_wait_stands_before_the_mail() -> None:
    assert {(p.at, p.started, p.send.id) for p in places(SEQUENCE)} == {
        (None, False, "first"),
        ("first", False, "first"),
        ("pause", True, "second"),
        ("pause", True, "third"),
        ("second", False, "second"),
        ("third", False, "third"),
    }


def test_the_definition_comes_back_from_the_database_as_it_was() -> None:
    assert Sequence.from_json(SEQUENCE.to_json()) == SEQUENCE
    (first, *_) = SEQUENCE.to_json()["steps"]
    assert first["send"]["personalize"] == {"lead": "30m", "prompt": "a/b"}


def test_whoever_comes_in_now_waits_one_lead_at_most_and_is_not_late_by_it() -> None:
    made = plan(SEQUENCE, FRESH, Facts(NOW))
    assert isinstance(made.rest, Postpone) and made.rest.until == NOW + LEAD
    later = NOW + LEAD
    waited = replace(FRESH, step_id="first", due_at=later, rule=made.rest.rule)
    made = plan(SEQUENCE, waited, Facts(later))
    assert isinstance(made.rest, HandOff)
    assert made.rest.words == Words(None, "not_asked"), "never a second time"
    assert made.rest.due_at == later


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (Words({"subject": "Hi"}), "first: its words come from the prompt a/b"),
        (
            Words(None, "model_down"),
            "first: the template's own words, since those of the prompt a/b are missing (model down)",
        ),
    ],
)
def test_at_the_hand_off_there_are_words_or_a_reason_and_nobody_waits(
    words: Words, said: str
) -> None:
    made = plan(SEQUENCE, replace(FRESH, step_id="first"), Facts(NOW, words={"first": words}))
    assert isinstance(made.rest, HandOff) and made.rest.words == words
    (line,) = (each for each in made.decisions if each.kind == "worded")
    assert sentence(line.kind, line.step_id, line.reason, line.detail) == said


DIVIDED = loads(
    """
key: demo
title: A demo
class: marketing
topic: news
goal: {event: purchase, window: 14d}
entry: {manual: true}
steps:
  - id: split
    experiment: {arms: {plain: 50, offer: 50}}
    paths: {plain: mail, offer: offered}
  - {id: offered, update: {set: {offered: true}}}
  - {id: mail, send: {template: a/b, personalize: {prompt: a/b, per: segment, segment: value}}}
  - {id: pause, wait: {delay: 2d}}
  - {id: again, send: {template: a/b, personalize: {prompt: a/b, per: segment, segment: value}}}
""",
    "demo.yaml",
)


def test_a_text_per_segment_is_for_the_arm_that_somebody_is_in_or_will_come_into() -> None:
    found = {(place.at, place.send.id): place.leading for place in places(DIVIDED)}
    ahead, behind = found[None, "mail"], found["pause", "again"]

    def arms(leading: word_arms.Leading, **standing: str | None) -> dict[str, str]:
        return word_arms.arms_of("demo", leading, 7, {"split": Standing(**standing)})  # type: ignore[arg-type]

    (step, is_ahead), (_, still) = ahead[0], behind[0]
    assert is_ahead and not still
    drawn = step.draw("demo", 7, step.shares())
    assert arms(ahead) == {"split": drawn}, "the one that the experiment will give them"
    other = next(arm.name for arm in step.arms if arm.name != drawn)
    assert arms(ahead, arm=other) == arms(behind, arm=other) == {"split": other}
    assert arms(behind) == {}, "who was never divided came another way"
    assert arms(ahead, chosen=other) == {"split": other}
    told = {"segment": "high", **word_arms.told({"split": "offer"})}
    assert told == {"segment": "high", "arm of split": "offer"}
    assert word_arms.read(told) == {"split": "offer"}
    assert all(not place.leading for place in places(SEQUENCE))


def test_words_that_were_written_for_another_arm_are_not_sent() -> None:
    step = DIVIDED.steps[0]
    assert isinstance(step, ExperimentStep)
    plain = next(n for n in range(50) if step.draw("demo", n, step.shares()) == "plain")
    here = replace(FRESH, subscriber_id=plain)
    for arm, reason in (("plain", "model"), ("offer", "other_arm")):
        words = Words({"subject": "Hi"}, arms={"split": arm})
        made = plan(DIVIDED, here, Facts(NOW, words={"mail": words}))
        assert isinstance(made.rest, HandOff) and made.rest.words is not None
        assert made.rest.words.reason == reason
        assert (made.rest.words.slots is None) == (reason == "other_arm")
