"""Whatever is misspelled in a sequence file is named at its place, with what was meant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from schedules.findings import DefinitionError, Finding
from schedules.loader import loads, reads
from schedules.schema import SAMPLE
from tasks.sequence.asked_segments import segment_findings
from tasks.sequence.unseen import Seen, unseen

LINES = SAMPLE.splitlines()
HELLO = 1 + next(n for n, line in enumerate(LINES) if "{id: hello" in line)
# What somebody names themselves.
OWN = {"tried", "visits", "news", "plain", "offer"}


def keys_of(node: Any) -> Iterator[ScalarNode]:
    if isinstance(node, MappingNode):
        for key, value in node.value:
            yield key
            yield from keys_of(value)
    elif isinstance(node, SequenceNode):
        for value in node.value:
            yield from keys_of(value)


KEYS = {
    (key.value, key.start_mark.line, key.start_mark.column): key
    for key in keys_of(YAML(typ="safe", pure=True).compose(SAMPLE))
    if key.value not in OWN
}


def misspelled(word: str) -> str:
    """Two letters in the middle change their places; of two letters one is doubled."""
    at = len(word) // 2
    if len(word) < 3 or word[at - 1] == word[at]:
        return word + word[-1]
    return word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :]


def findings(text: str) -> list[Finding]:
    with pytest.raises(DefinitionError) as refused:
        loads(text, "f.yaml")
    return list(refused.value.findings)


@pytest.mark.parametrize("place", KEYS, ids=lambda place: f"{place[0]}-{place[1]}")
def test_a_misspelled_key_is_named_at_its_place_with_the_one_that_was_meant(
    place: tuple[str, int, int],
) -> None:
    word, line, column = place
    lines = list(LINES)
    lines[line] = lines[line][:column] + misspelled(word) + lines[line][column + len(word) :]
    here = [
        each.message
        for each in findings("\n".join(lines))
        if (each.line, each.column) == (line + 1, column + 1)
    ]
    assert any(f"did you mean {word!r}?" in message for message in here), here


@pytest.mark.parametrize(
    ("written", "wrong", "said"),
    [
        ("class: marketing", "class: marketign", "did you mean 'marketing'?"),
        ("on_stale_score: skip", "on_stale_score: skpi", "did you mean 'skip'?"),
        ("policy: after_exit", "policy: after_exti", "did you mean 'after_exit'?"),
        ("while_active: ignore", "while_active: ignor", "did you mean 'ignore'?"),
        ("fires: latest", "fires: lastest", "did you mean 'latest'?"),
        ("on_late: skip, spread", "on_late: skpi, spread", "did you mean 'skip'?"),
        ("clock: run", "clock: rnu", "did you mean 'run'?"),
        ("finished: stay", "finished: sty", "did you mean 'stay'?"),
        ("scope: topic", "scope: topci", "did you mean 'topic'?"),
        ("days: [mon, tue", "days: [mon, teu", "did you mean 'tue'?"),
        ("missing: skip", "missing: skp", "did you mean 'skip'?"),
        ("Europe/Berlin", "Europe/Berlim", "did you mean 'Europe/Berlin'?"),
        ("on_fail: end,", "on_fail: edn,", "did you mean 'end'?"),
        ("of: hello", "of: helo", "did you mean 'hello'?"),
        ("next: note", "next: noet", "did you mean 'note'?"),
        ("delay: 3d", "delay: 3 days", "did you mean '3d'?"),
        ("timeout: 3d}, paths", "timeout: 72hrs}, paths", "did you mean '72h'?"),
        ("max_age: 7d", "max_age: 1week", "did you mean '1w'?"),
        ("rate: 2000/h", "rate: 2000 per hour", "did you mean '2000/h'?"),
        ("rate: 2000/h", "rate: 50/minute", "did you mean '50/m'?"),
        ("score('churn'", "scroe('churn'", "did you mean score()?"),
        ("sub.status", "subs.status", "did you mean 'sub'?"),
        ("event.pause_id", "evnt.pause_id", "did you mean 'event'?"),
        ("{id: pause, wait", "{id: hello, wait", f"step id 'hello' is taken on line {HELLO}"),
        (
            "  - {after: 45d, reason",
            "  - {event: purchase, reason: again}\n  - {after: 45d, reason",
            "exit rule 3 says the same as the one on line 16",
        ),
        (
            "      - {else: split}",
            "      - {if: \"score('churn',  max_age='24h') >= 0.8\", next: end}\n"
            "      - {else: split}",
            "case 2 of step 'ask' asks what case 1 asked",
        ),
        ("title: Everything", "title: Twice\ntitle: Everything", "stands twice in the sequence"),
    ],
)
def test_a_misspelled_word_is_named_at_its_line_with_what_was_meant(
    written: str, wrong: str, said: str
) -> None:
    assert SAMPLE.count(written) >= 1
    text = SAMPLE.replace(written, wrong, 1)
    first = text[: text.index(wrong)].count("\n") + 1
    lines = range(first, first + wrong.count("\n") + 1)
    found = [each for each in findings(text) if each.line in lines and said in each.message]
    assert found and found[0].column > 0


@pytest.mark.parametrize("wrong", [("trigger: {event", "triger: {event"), ("{event: subs", "{evnt: subs"),
                                   ("until_event:", "until_evnt:")])  # fmt: skip
def test_one_misspelling_is_not_reported_as_the_faults_that_follow_from_it(
    wrong: tuple[str, str],
) -> None:
    found = findings(SAMPLE.replace(*wrong, 1))
    assert len(found) == 2, found


NAMED = """
key: named
title: Names
class: transactional
timezone: {source: subscriber, fallback: UTC}
entry: {trigger: {event: purhcase}}
exit:
  - {event: email.clickd, reason: clicked}
steps:
  - {id: w, wait: {until_event: sing_up, timeout: 1d}}
  - id: ask
    branch:
      - {if: "score('chrun', max_age='24h') > 0.5", next: a}
      - {if: "segment('valu', promoted=true) == 'high'", next: a}
      - {if: "in_segment('lapsd') or count('prchase') > 1", next: a}
      - {else: a}
    on_stale: a
  - {id: a, send: {template: a/b}}
"""


def test_a_name_that_nothing_has_is_warned_of_where_it_is_near_one_that_something_has() -> None:
    loaded = reads(NAMED, "n.yaml")
    known = Seen(labels=frozenset({"value"}), events=frozenset({"purchase", "email.clicked"}))
    told = {(each.line, each.message) for each in unseen(loaded.sequence, loaded.located, known)}
    assert told == {
        (6, "no event 'purhcase' was ever seen here; did you mean 'purchase'?"),
        (8, "no event 'email.clickd' was ever seen here; did you mean 'email.clicked'?"),
        (13, "no score 'chrun' was ever seen here; did you mean 'churn'?"),
        (14, "no label of a segment 'valu' was ever seen here; did you mean 'value'?"),
        (15, "no event 'prchase' was ever seen here; did you mean 'purchase'?"),
    }
    [found] = segment_findings(
        loaded.sequence, loaded.located, lambda key: key == "lapsed", {"lapsed"}
    )
    assert found.line == 15 and found.message.endswith("did you mean 'lapsed'?")
