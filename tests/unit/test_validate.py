from __future__ import annotations

from typing import Any

from schedules.loader import reads
from tasks.sequence.catalog import in_words
from tasks.sequence.validate import validate

TEXT = """key: demo
title: A demo
class: marketing
topic: product-news
entry: {manual: true}
steps:
  - {id: a, send: {template: demo/a}}
  - id: b
    send:
      template: demo/b
"""


def test_missing_templates_and_topics_are_found_at_their_place() -> None:
    loaded = reads(TEXT, "demo.yaml")
    found = validate(
        loaded.sequence,
        loaded.located,
        template_exists=lambda name: name == "demo/a",
        topic_exists=lambda key: False,
    )
    assert [str(finding).split(": expected")[0] for finding in found] == [
        "demo.yaml:4:8: topic 'product-news' does not exist",
        "demo.yaml:10:17: template 'demo/b' of step 'b' does not exist",
    ]


def test_a_misspelled_template_or_topic_is_suggested() -> None:
    loaded = reads(TEXT, "demo.yaml")
    found = validate(
        loaded.sequence,
        loaded.located,
        template_exists=lambda name: name == "demo/a",
        topic_exists=lambda key: False,
        templates=["demo/bb", "other/x"],
        topics=["product-newz"],
    )
    assert [finding.message.rpartition("; ")[2] for finding in found] == [
        "did you mean 'product-newz'?",
        "did you mean 'demo/bb'?",
    ]


def test_a_sequence_whose_names_all_exist_has_no_findings() -> None:
    loaded = reads(TEXT, "demo.yaml")
    everything: dict[str, Any] = {
        "template_exists": lambda name: True,
        "topic_exists": lambda key: True,
    }
    assert validate(loaded.sequence, loaded.located, **everything) == []


def test_every_topic_that_a_step_or_rule_names_is_looked_for() -> None:
    text = TEXT.replace(
        "steps:\n",
        "exit: [{when: topic('rule'), reason: x}]\n"
        "steps:\n"
        "  - {id: u, update: {topics: {in: true}, set: {a: {expression: topic('value')}}}}\n"
        "  - {id: f, branch: [{if: topic('case'), next: a}, {else: a}]}\n",
    )
    loaded = reads(text, "demo.yaml")
    found = validate(
        loaded.sequence,
        loaded.located,
        template_exists=lambda name: True,
        topic_exists=lambda key: key == "product-news",
    )
    assert [str(finding).split(" does")[0] for finding in found] == [
        "demo.yaml:6:15: topic 'rule'",
        "demo.yaml:8:35: topic 'in'",
        "demo.yaml:8:64: topic 'value'",
        "demo.yaml:9:27: topic 'case'",
    ]


def test_every_kind_of_step_can_be_said_in_words() -> None:
    text = """key: demo
title: A demo
class: transactional
timezone: {source: subscriber, fallback: UTC}
entry: {manual: true}
steps:
  - {id: t, wait: {until_date: {attribute: trial, offset: -1w, at: "09:00", missing: skip}}}
  - {id: b, branch: [{if: "score('s', max_age='1h') > 0", next: u}, {else: e}], on_stale: e}
  - {id: u, update: {set: {plan: pro}, topics: {news: true, offers: false}}}
  - {id: e, exit: {reason: done}}
"""
    assert [in_words(step) for step in reads(text, "demo.yaml").sequence.steps] == [
        "wait until trial -7d, 09:00",
        "u if score('s', max_age='1h') > 0; e if a score is stale; else e",
        "update plan, news in, offers out",
        "exit: done",
    ]
