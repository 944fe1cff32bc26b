"""The last gate of a personalized send: its words were asked for in time, or it waits one lead."""

from __future__ import annotations

from schedules.definition import SendStep
from tasks.sequence.planned import Postpone, Rest, Words
from tasks.sequence.walk import Walk

BY = "words"
"""The `by` of the rule of whoever waits for words; the pool that makes them wakes them by it."""


def worded(walk: Walk, step: SendStep) -> str | Rest | None:
    """Move a mail whose words could not be asked for ahead: once, by its lead at most.

    It is due then, or as soon as the words are there, so it is not late by having waited. A mail
    whose words were asked for goes on time, with them or without.
    """
    if step.personalize is None or step.id in walk.facts.words or _waited(walk):
        return None
    until = walk.facts.now + step.personalize.lead
    walk.say("postponed", step.id, BY, until=until.isoformat(), prompt=step.personalize.prompt)
    rule = {"kind": "postponed", "by": BY, "due_at": until.isoformat()}
    return Postpone(step.id, until, rule)


def words_of(walk: Walk, step: SendStep) -> Words | None:
    """The words that a mail takes along, or why it has the template's own; None: it asks for none."""
    if step.personalize is None:
        return None
    words = walk.facts.words.get(step.id) or Words(None, "not_asked")
    if words.slots is not None and any(
        _arm(walk, experiment) not in (arm, None) for experiment, arm in words.arms.items()
    ):
        # Weights or a ruling moved since: what was written for another arm would blur the two.
        words = Words(None, "other_arm")
    source = f"the prompt {step.personalize.prompt}"
    said = f"its words come from {source}"
    if words.slots is None:
        said = f"the template's own words, since those of {source} are missing"
    # `because` ends the line in brackets.
    because = {} if words.slots is not None else {"because": words.reason.replace("_", " ")}
    walk.say("worded", step.id, words.reason, said=said, **because)
    return words


def _arm(walk: Walk, experiment: str) -> str | None:
    """The arm that they came into on this walk, else that on record; None: neither."""
    for decision in walk.decisions:
        if decision.kind == "assigned" and decision.step_id == experiment:
            return str(decision.detail["arm"])
    standing = walk.facts.trials.get(experiment)
    return standing.arm if standing is not None else None


def _waited(walk: Walk) -> bool:
    rule = walk.position.rule
    return rule is not None and rule.get("by") == BY and walk.position.started_at is None
