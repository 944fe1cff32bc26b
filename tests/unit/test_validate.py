from __future__ import annotations

from schedules.loader import reads
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


def test_a_sequence_whose_names_all_exist_has_no_findings() -> None:
    loaded = reads(TEXT, "demo.yaml")
    everything = {"template_exists": lambda name: True, "topic_exists": lambda key: True}
    assert validate(loaded.sequence, loaded.located, **everything) == []
