"""What a sequence file names that the rest of the house does not have."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from schedules.definition import BranchStep, SendStep, Sequence, UpdateStep
from schedules.entry import asked_at_the_door
from schedules.expression import Expression
from schedules.findings import Finding, Located, Path
from schedules.kinds import needs_of
from schedules.reading import suggest


def validate(
    sequence: Sequence,
    located: Located,
    *,
    template_exists: Callable[[str], bool],
    topic_exists: Callable[[str], bool],
    templates: Collection[str] = (),
    topics: Collection[str] = (),
) -> list[Finding]:
    """Return a finding for each missing template and topic, in the order of the file.

    Args:
        sequence: as the loader read it; its structure is sound already.
        located: its places, from the same read.
        template_exists: whether there is a template of that name, such as ``winback/hello``.
        topic_exists: whether subscribers can opt in to a topic of that key.
        templates: those that there are, for suggestions.
        topics: likewise.
    """
    findings = []
    own: list[tuple[Path, str]] = [] if sequence.topic is None else [(("topic",), sequence.topic)]
    for path, topic in (*own, *_topics(sequence)):
        if not topic_exists(topic):
            move = suggest(topic, topics) or "create it or correct the name"
            findings.append(
                located.finding(
                    path,
                    f"topic {topic!r} does not exist: expected one that subscribers can opt in to;"
                    f" {move}",
                )
            )
    for index, step in enumerate(sequence.steps):
        if isinstance(step, SendStep) and not template_exists(step.template):
            move = suggest(step.template, templates) or "create it or correct the name"
            findings.append(
                located.finding(
                    ("steps", index, "send", "template"),
                    f"template {step.template!r} of step {step.id!r} does not exist: expected the"
                    f" folder templates/{step.template}; {move}",
                )
            )
    return sorted(findings)


def _topics(sequence: Sequence) -> Iterator[tuple[Path, str]]:
    """Yield each topic that a step or rule names, and where; the sequence's own is not among them."""
    for path, rule_ in asked_at_the_door(sequence.entry):
        yield from ((path, topic) for topic in sorted(rule_.needs.topics))
    for index, rule in enumerate(sequence.exits):
        yield from ((("exit", index, "when"), topic) for topic in sorted(needs_of(rule).topics))
    for index, step in enumerate(sequence.steps):
        at: Path = ("steps", index)
        if isinstance(step, UpdateStep):
            for topic, _ in step.topics:
                yield (*at, "update", "topics", topic), topic
            for name, value in step.attributes:
                if isinstance(value, Expression):
                    place = (*at, "update", "set", name, "expression")
                    yield from ((place, topic) for topic in sorted(value.needs.topics))
        elif isinstance(step, BranchStep):
            for number, case in enumerate(step.cases):
                place = (*at, "branch", number, "if")
                yield from ((place, topic) for topic in sorted(case.condition.needs.topics))
