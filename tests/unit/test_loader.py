from __future__ import annotations

import json
from datetime import time, timedelta
from pathlib import Path

import pytest

from schedules.definition import (
    BranchStep,
    ExitStep,
    SendStep,
    Sequence,
    UntilDate,
    UntilEvent,
    UpdateStep,
    WaitStep,
    WebhookStep,
    successors,
)
from schedules.expression import read as expression
from schedules.loader import DefinitionError, load, loads, read

SEQUENCES = Path(__file__).parents[2] / "schedules" / "sequences"
HEAD = """key: demo
title: A demo
class: marketing
topic: product-news
timezone: {source: subscriber, fallback: Europe/Berlin}
entry: {manual: true}
"""
STEPS = """steps:
  - {id: a, send: {template: demo/a}}
  - {id: b, wait: {delay: 20s}}
"""
BRANCH = """  - {{id: c, branch: [{{if: "{condition}", next: d}}, {{else: d}}]{more}}}
  - {{id: d, exit: {{reason: x}}}}
"""
UNTIL = "  - {{id: c, wait: {{until_date: {{attribute: trial_ends, {}}}}}}}\n"


def findings(text: str) -> list[str]:
    with pytest.raises(DefinitionError) as caught:
        loads(text, "demo.yaml")
    assert list(caught.value.findings) == sorted(caught.value.findings)
    return str(caught.value).split("\n")


def only(text: str) -> str:
    (found,) = findings(text)
    return found


@pytest.mark.parametrize("path", sorted(SEQUENCES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_sequence_loads_and_is_named_as_its_file(path: Path) -> None:
    assert load(path).key == path.stem


def test_the_two_demo_sequences_ship() -> None:
    assert {path.stem for path in SEQUENCES.glob("*.yaml")} >= {"thank-you", "win-back"}


def test_a_step_without_a_next_falls_through_and_the_last_ends() -> None:
    sequence = load(SEQUENCES / "thank-you.yaml")
    assert [sequence.next_of(step.id) for step in sequence.steps] == [
        *(step.id for step in sequence.steps[1:]),
        None,
    ]


def test_all_that_is_supported_can_be_written() -> None:
    sequence = loads(
        HEAD
        + """priority: 80
catch_up: {max_lateness: 6h, on_late: exit, spread: 30m}
steps:
  - {id: a, send: {template: demo/a}, on_fail: z, max_lateness: 12h, on_late: skip, next: c}
  - {id: c, wait: {calendar_days: 2, at: 09:30}}
  - {id: d, wait: {calendar_days: 1}, next: z}
  - {id: z, exit: {reason: completed}}
""",
        "demo.yaml",
    )
    assert sequence.priority == 80
    assert sequence.catch_up.spread == timedelta(minutes=30)
    assert sequence.steps == (
        SendStep("a", "demo/a", "c", "z", timedelta(hours=12), "skip"),
        WaitStep("c", "d", calendar_days=2, at=time(9, 30)),
        WaitStep("d", "z", calendar_days=1),
        ExitStep("z", "completed"),
    )


def test_yaml_is_read_as_1_2_so_words_and_times_stay_text() -> None:
    sequence = loads(HEAD.replace("A demo", "NO").replace("key: demo", "key: on") + STEPS, "x")
    assert (sequence.key, sequence.title) == ("on", "NO")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD + STEPS + "prioriti: 3\n", "demo.yaml:10:1: unknown key 'prioriti' in the sequence"),
        (HEAD + STEPS + "prioriti: 3\n", "did you mean 'priority'?"),
        (HEAD + STEPS + "on: x\n", "unknown key 'on' in the sequence"),
        (HEAD + STEPS + "key: again\n", ":10:1: key 'key' stands twice in the sequence: expected it once"),
        (HEAD + STEPS + "priority: 101\n", ":10:11: 'priority' of the sequence is the number 101"),
        (HEAD + STEPS + "priority: true\n", "expected a whole number from 0 to 100"),
        (HEAD + STEPS + "catch_up: {max_lateness: 6h, on_late: next_window}\n", ":10:39: 'on_late: next_window' has no window to wait for"),
        (HEAD + STEPS + "catch_up: {max_lateness: 6h, on_late: never}\n", "expected send or next_window or skip or exit"),
        (HEAD + STEPS + "catch_up: {on_late: skip}\n", ":10:21: 'on_late' of 'catch_up' has no effect"),
        (HEAD + STEPS + "catch_up: {spread: 90}\n", "is the number 90: expected a duration in text"),
        (HEAD + STEPS + "? [a]\n: b\n", "a key of the sequence is a list"),
        (HEAD.replace("A demo", "2026") + STEPS, ":2:8: 'title' of the sequence is the number 2026: expected one line of text; put text in quotes"),
        (HEAD.replace("A demo", '"a\\nb"') + STEPS, "expected one line of text"),
        (HEAD.replace("A demo", "!!python/object:os.system x") + STEPS, ":2:8: 'title'"),
        (HEAD.replace("A demo", "2026-13-45") + STEPS, "put text in quotes"),
        (HEAD.replace("A demo", "") + STEPS, "'title' of the sequence is empty"),
        (HEAD.replace("topic: product-news\n", "") + STEPS, ":1:1: the sequence has no 'topic'"),
        (HEAD.replace("entry: {manual: true}\n", "") + STEPS, "the sequence has no 'entry'"),
        (HEAD.replace("manual: true", "") + STEPS, ":6:8: 'entry' has no 'trigger'"),
        (HEAD.replace("true", "false") + STEPS, ":6:17: 'manual' of 'entry' is false"),
        (HEAD.replace("manual: true", "segment: lapsed") + STEPS, ":6:9: 'segment' stands in 'entry' itself: expected it in its 'trigger'"),
        (HEAD.replace("Europe/Berlin", "Europe/Berln") + STEPS, ":5:42: 'fallback' of 'timezone': 'Europe/Berln' is no time zone: expected an IANA name; did you mean 'Europe/Berlin'?"),
        (HEAD.replace("marketing", "bulk") + STEPS, "expected marketing or transactional"),
        (HEAD, "the sequence has no 'steps'"),
        (HEAD + "steps: []\n", ":7:8: 'steps' of the sequence is an empty list"),
        (HEAD + "steps: [a]\n", ":7:9: entry 1 of 'steps' is 'a': expected a mapping"),
        (HEAD + STEPS + "  - {id: c, send: x/y}\n", ":10:19: 'send' of step 'c' is 'x/y': expected a mapping"),
        (HEAD + STEPS + "  - {id: c, send: {template: ../etc}}\n", ":10:30: 'template' of 'send' of step 'c' is '../etc'"),
        (HEAD + STEPS + "  - {id: c, send: {template: a/b, personalize: {prompt: x}}}\n", "'prompt' of 'personalize' of 'send' of step 'c' is 'x'"),
        (HEAD + STEPS + "  - {id: c, send: {template: a/b, personalize: {prompt: a/x, per: segment}}}\n", "has no 'segment'"),
        (HEAD + STEPS + "  - {id: c, sent: {template: a/b}}\n", "did you mean 'send'?"),
        (HEAD + STEPS + "  - {id: c, wait: {delay: 2 days}}\n", ":10:27: 'delay' of 'wait' of step 'c': '2 days' is not a duration"),
        (HEAD + STEPS + "  - {id: c, wait: {delay: 20}}\n", "is the number 20: expected a duration in text"),
        (HEAD + STEPS + "  - {id: c, wait: {}}\n", "has no time to wait"),
        (HEAD + STEPS + "  - {id: c, wait: {delay: 2d, calendar_days: 2}}\n", "has both 'delay' and 'calendar_days'"),
        (HEAD + STEPS + '  - {id: c, wait: {delay: 2d, at: "09:30"}}\n', ":10:35: 'at' of 'wait' of step 'c' stands beside 'delay'"),
        (HEAD + STEPS + "  - {id: c, wait: {calendar_days: 0}}\n", "waits for nothing"),
        (HEAD + STEPS + "  - {id: c, wait: {calendar_days: 2, at: 930}}\n", ":10:42: 'at' of 'wait' of step 'c' is the number 930: expected a time of day in text"),
        (HEAD + STEPS + "  - {id: c, wait: {calendar_days: 2, at: 09.30}}\n", "is the number 09.30"),
        (HEAD + STEPS + "  - {id: c, wait: {calendar_days: 2, at: 9:30}}\n", "'9:30' is not a time of day"),
        (HEAD + STEPS + "  - {id: c, wait: {until_event: email.clicked}}\n", "'wait' of step 'c' has no 'timeout'"),
        (HEAD + STEPS + "  - {id: c, exit: {}}\n", "'exit' of step 'c' has no 'reason'"),
        (HEAD + STEPS + "  - {id: c, exit: {reason: x}, next: a}\n", "unknown key 'next' in step 'c'"),
        (HEAD + STEPS + "  - {id: c, webhook: {url: x, to: crm}}\n", "unknown key 'url' in 'webhook' of step 'c'"),
        (HEAD + STEPS + "  - {id: c, webhook: {}}\n", "'webhook' of step 'c' has no 'to'"),
        (HEAD + STEPS + "  - {id: c, webhook: {to: crm, fields: [email]}}\n", ":10:41: 'email' in 'fields' of 'webhook' of step 'c' is nothing that may be passed on"),
        (HEAD + STEPS + "  - {id: c, webhook: {to: crm, fields: [plan, plan]}}\n", "'plan' stands twice"),
        (HEAD + STEPS + "  - {id: c, wait: {until_event: click, of: aa, timeout: 1d}}\n", ":10:44: 'of' of step 'c' is 'aa', which is no step that sends a mail"),
        (HEAD + STEPS + "  - {id: c, wait: {delay: 1d, of: a}}\n", "'of' of 'wait' of step 'c' says something of an event"),
        (HEAD + STEPS + "  - {id: c, wait: {delay: 1d}, paths: {event: a}}\n", "'paths' of step 'c' stand beside a wait without 'until_event'"),
        (HEAD + STEPS + "  - {id: c, wait: {until_event: x, timeout: 1d}, paths: {event: d, timeot: d}}\n  - {id: d, exit: {reason: x}}\n", "did you mean 'timeout'?"),
        (HEAD + STEPS + "  - {id: c, wait: {until_event: x, timeout: 1d}, paths: {event: d, timeout: dd}}\n  - {id: d, exit: {reason: x}}\n", ":10:77: 'timeout' of step 'c' leads to 'dd', which is no step"),
        (HEAD + STEPS + "  - {id: c, wait: {until_event: 7, timeout: 1d}}\n", "is the number 7: expected the name of an event"),
        (HEAD + STEPS + "  - {id: c, branch: []}\n", ":10:21: 'branch' of step 'c' is an empty list"),
        (HEAD + STEPS + "  - {id: c, branch: [{else: d}]}\n  - {id: d, exit: {reason: x}}\n", ":10:21: 'branch' of step 'c' has no case but 'else'"),
        (HEAD + STEPS + "  - {id: c, branch: [{if: sub.x, next: d}]}\n  - {id: d, exit: {reason: x}}\n", ":10:21: 'branch' of step 'c' has no way for those of whom nothing holds"),
        (HEAD + STEPS + BRANCH.format(condition="sub.x == 1", more=", on_stale: d"), ":10:73: 'on_stale' of step 'c' has no effect"),
        (HEAD + STEPS + BRANCH.format(condition="score('s', max_age='1h') > 1", more=""), ":10:27: case 1 of step 'c' asks for a score or segment"),
        (HEAD + STEPS + BRANCH.format(condition="score('s') > 1", more=", on_stale: d"), ":10:28: 'if' of case 1 of step 'c': score('s') does not say how old it may be"),
        (HEAD + STEPS + BRANCH.format(condition="sub.x == 1 and count('y') > 'z'", more=""), ":10:56: 'if' of case 1 of step 'c': a number is compared with text"),
        (HEAD + STEPS + BRANCH.format(condition="sub.x", more=", next: d"), "unknown key 'next' in step 'c'"),
        (HEAD + STEPS + BRANCH.format(condition="sub.x", more="").replace("else: d", "else: dd"), "'else' of step 'c' leads to 'dd', which is no step"),
        (HEAD + STEPS + "  - {id: c, update: {}}\n", "'update' of step 'c' changes nothing"),
        (HEAD + STEPS + "  - {id: c, update: {set: {}}}\n", "'set' of 'update' of step 'c' is empty"),
        (HEAD + STEPS + "  - {id: c, update: {set: {zone: x}}}\n", ":10:28: a key of 'set' of 'update' of step 'c': 'zone' is a field of the subscriber itself"),
        (HEAD + STEPS + "  - {id: c, update: {set: {a: [1]}}}\n", "'a' of 'set' of 'update' of step 'c' is a list"),
        (HEAD + STEPS + "  - {id: c, update: {set: {a: {expression: sub.n + }}}}\n", ":10:51: 'expression' of 'a' of 'set' of 'update' of step 'c': it ends too early"),
        (HEAD + STEPS + '  - {id: c, update: {set: {a: {expression: "score(\'s\', max_age=\'1h\')"}}}}\n', "nothing here says what happens then"),
        (HEAD + STEPS + "  - {id: c, update: {topics: {news: maybe}}}\n", "'news' of 'topics' of 'update' of step 'c' is 'maybe': expected true or false"),
        (HEAD + STEPS + UNTIL.format("at: '09:00'"), "'until_date' of 'wait' of step 'c' has no 'missing'"),
        (HEAD + STEPS + UNTIL.format("missing: skip"), "'until_date' of 'wait' of step 'c' has no 'at'"),
        (HEAD + STEPS + UNTIL.format("at: '09:00', missing: skip, offset: -3h"), ":10:92: 'offset' of 'until_date' of 'wait' of step 'c': '-3h' is no offset"),
        (HEAD + STEPS + UNTIL.format("at: '09:00', missing: skip").replace("trial_ends", "zone"), "'zone' is a field of the subscriber itself"),
        (HEAD + STEPS + "exit: []\n", ":10:7: 'exit' of the sequence is an empty list"),
        (HEAD + STEPS + "exit: [{reason: x}]\n", ":10:8: exit rule 1 says not when"),
        (HEAD + STEPS + "exit: [{event: a, after: 1d, reason: x}]\n", ":10:8: exit rule 1 has event and after"),
        (HEAD + STEPS + "exit: [{event: a}]\n", ":10:8: exit rule 1 has no 'reason'"),
        (HEAD + STEPS + "exit: [{after: 45, reason: x}]\n", "is the number 45: expected a duration in text"),
        (HEAD + STEPS + "exit: [{when: true, reason: x}]\n", "'when' of exit rule 1 is the truth value true: expected a condition in text"),
        (HEAD + STEPS + "exit: [{when: sub.x === 1, reason: x}]\n", ":10:23: 'when' of exit rule 1: found '='"),
        (HEAD + STEPS + "  - {id: exit, wait: {delay: 1s}}\n", "'exit' is a word of the schema"),
        (HEAD + STEPS + "  - {wait: {delay: 1s}}\n", ":10:5: step 3 has no 'id'"),
        (HEAD + STEPS + "  - {id: b, wait: {delay: 1s}}\n", ":10:10: step id 'b' is taken on line 9"),
        (HEAD + STEPS + "  - {id: c, wait: {delay: 1s}, next: bb}\n", ":10:38: 'next' of step 'c' leads to 'bb', which is no step: expected the id of one; did you mean 'b'?"),
        (HEAD + STEPS + "  - {id: c, send: {template: a/b}, on_fail: d}\n", "'on_fail' of step 'c' leads to 'd'"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place_and_nothing_else_is(text: str, expected: str) -> None:
    found = [line for line in findings(text) if expected in line]
    assert len(found) == 1
    if "sent: {" not in text:
        assert len(findings(text)) == 1


def test_a_step_is_exactly_one_thing() -> None:
    assert "step 'c' does nothing: expected exactly one of" in only(HEAD + STEPS + "  - {id: c}\n")
    both = "  - {id: c, wait: {delay: 1s}, exit: {reason: x}}\n"
    assert "step 'c' has wait and exit" in only(HEAD + STEPS + both)


def test_a_local_wait_needs_to_know_whose_zone_it_is() -> None:
    head = HEAD.replace("timezone: {source: subscriber, fallback: Europe/Berlin}\n", "")
    assert loads(head + STEPS, "x").timezone.fallback == "UTC"
    assert "the sequence has no 'timezone'" in only(
        head + STEPS + "  - {id: c, wait: {calendar_days: 1}}\n"
    )


def test_a_step_nobody_reaches_is_found() -> None:
    text = HEAD + "steps:\n  - {id: a, exit: {reason: x}}\n  - {id: b, exit: {reason: y}}\n"
    assert only(text).startswith("demo.yaml:9:5: step 'b' is never reached")


def test_every_cycle_is_found_where_it_leads_back() -> None:
    text = HEAD + (
        "steps:\n"
        "  - {id: a, wait: {delay: 1s}, next: c}\n"
        "  - {id: b, wait: {delay: 1s}}\n"
        "  - {id: c, send: {template: x/y}, on_fail: b}\n"
        "  - {id: d, wait: {delay: 1s}, next: d}\n"
    )
    assert [line.split(": expected")[0] for line in findings(text)] == [
        "demo.yaml:10:45: the steps c → b → c form a cycle",
        "demo.yaml:11:38: the steps d → d form a cycle",
    ]


def test_a_long_sequence_is_judged_without_running_out_of_stack() -> None:
    rows = "".join(f"  - {{id: s{n}, wait: {{delay: 1s}}}}\n" for n in range(1500))
    assert len(loads(HEAD + "steps:\n" + rows, "long").steps) == 1500


def test_everything_wrong_is_told_at_once() -> None:
    text = HEAD.replace("A demo", "7") + (
        "steps:\n  - {id: a, wait: {delay: 1x}, next: nowhere}\n  - {id: a, tempate: x}\n"
    )
    assert [line.split(": ")[0] for line in findings(text)] == [
        "demo.yaml:2:8",
        "demo.yaml:8:27",
        "demo.yaml:8:38",
        "demo.yaml:9:5",
        "demo.yaml:9:10",
        "demo.yaml:9:13",
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "demo.yaml:1:1:"),
        ("- a\n", "demo.yaml:1:1: the file is no mapping"),
        ("key: [a\n", "demo.yaml:2:1:"),
        ("key: a\n---\nkey: b\n", "demo.yaml:2:1:"),
        ("key: *a\n", "demo.yaml:1:6:"),
        ("key: a\ntitle: \x07\n", "demo.yaml:2:8:"),
        ("%YAML 1.1\n---\nkey: a\n", "demo.yaml:1:1:"),
        ("[" * 1500, "demo.yaml:1:1:"),
        ("\tkey: a\n", "demo.yaml:1:1:"),
    ],
)
def test_what_is_no_yaml_is_one_clear_sentence_with_its_place(text: str, place: str) -> None:
    assert only(text).startswith(place)


def test_a_file_that_cannot_be_read_is_one_clear_sentence(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"key: a\ntitle: \xfcber\n")
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * 1_000_001)
    for path, words in [
        (tmp_path / "none.yaml", ":1:1: the file cannot be read (No such file"),
        (tmp_path, "cannot be read"),
        (latin, ":2:1: the file is not UTF-8"),
        (large, "is larger than 1000000 bytes"),
    ]:
        with pytest.raises(DefinitionError) as caught:
            load(path)
        assert words in str(caught.value)


def test_places_are_kept_beside_the_sequence() -> None:
    located = read(SEQUENCES / "win-back.yaml").located
    line, column = located.at("steps", 0, "send", "template")
    text = (SEQUENCES / "win-back.yaml").read_text(encoding="utf-8").splitlines()[line - 1]
    assert text[column - 1 :].startswith("win-back/hello")
    assert located.at("steps", 0, "send", "nothing") == located.at("steps", 0, "send")


@pytest.mark.parametrize(
    ("written", "bad"),
    [
        ("sub.x + 'a' > 1", "'a'"),
        ("\"sub.x + 'a' > 1\"", "'a'"),
        ("'sub.x + ''a'' > 1'", "''a''"),
        ("'sub.y == ''b'' and sub.x + ''a'' > 1'", "''a''"),
        (r'"sub.y == \"b\" and sub.x + \"a\" > 1"', r"\"a"),
        ("\n      sub.y == 'b' and\n\n      sub.x + 'a' > 1", "'a'"),
        (">-\n      sub.y == 'b' and\n      sub.x + 'a' > 1", "'a'"),
        ("|\n      sub.y == 'b' and\n        sub.x + 'a' > 1", "'a'"),
    ],
)
def test_a_mistake_in_a_condition_is_named_at_its_very_character(written: str, bad: str) -> None:
    text = HEAD + f"exit:\n  - reason: x\n    when: {written}\n" + STEPS
    at = text.index(bad)
    line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    found = only(text)
    assert found.startswith(
        f"demo.yaml:{line}:{column}: 'when' of exit rule 1: text stands beside '+'"
    )


def test_branches_updates_dates_and_exit_rules_can_be_written() -> None:
    sequence = loads(
        HEAD
        + """exit:
  - {event: subscription.resumed, reason: converted}
  - {when: "sub.status != 'subscribed'", reason: not_subscribed}
  - {after: 45d, reason: expired}
steps:
  - id: trial
    wait: {until_date: {attribute: trial_ends, offset: -3d, at: "09:00", missing: skip}}
  - id: offer
    branch:
      - {if: "score('churn', max_age='24h') >= 0.8", next: mail}
      - {if: "sub.country in ['NO', 'SE']", next: note}
      - {else: z}
    on_stale: note
  - id: note
    update:
      set: {country: NO, n: 3, half: 0.5, quiet: true, gone: null, sum: {expression: "sub.n + 1"}}
      topics: {product-news: false}
    next: z
  - {id: mail, send: {template: demo/a}}
  - {id: z, exit: {reason: completed}}
""",
        "demo.yaml",
    )
    trial, offer, note, *_ = sequence.steps
    assert trial == WaitStep(
        "trial", "offer", until_date=UntilDate("trial_ends", time(9), "skip", -3)
    )
    assert isinstance(offer, BranchStep)
    assert [case.next for case in offer.cases] == ["mail", "note"]
    assert (offer.next, offer.on_stale) == ("z", "note")
    assert isinstance(note, UpdateStep)
    assert note.attributes == (
        ("country", "NO"), ("n", 3), ("half", 0.5), ("quiet", True), ("gone", None),
        ("sum", expression("sub.n + 1", condition=False)),
    )  # fmt: skip
    assert note.topics == (("product-news", False),)
    assert [rule.reason for rule in sequence.exits] == ["converted", "not_subscribed", "expired"]
    assert Sequence.from_json(json.loads(sequence.canonical())) == sequence


def test_ways_through_branches_are_followed_to_the_end() -> None:
    text = HEAD + (
        "steps:\n"
        "  - {id: a, wait: {delay: 1s}}\n"
        "  - {id: b, branch: [{if: sub.x, next: a}, {else: d}]}\n"
        "  - {id: c, wait: {delay: 1s}}\n"
        "  - {id: d, exit: {reason: x}}\n"
    )
    assert [line.split(": expected")[0] for line in findings(text)] == [
        "demo.yaml:9:40: the steps a → b → a form a cycle",
        "demo.yaml:10:5: step 'c' is never reached",
    ]


def test_a_wait_for_a_date_needs_to_know_whose_zone_it_is() -> None:
    head = HEAD.replace("timezone: {source: subscriber, fallback: Europe/Berlin}\n", "")
    wait = UNTIL.format("at: '09:00', missing: exit")
    assert "the sequence has no 'timezone'" in only(head + STEPS + wait)


def test_a_wait_for_an_event_and_a_webhook_can_be_written() -> None:
    sequence = loads(
        HEAD
        + """steps:
  - {id: a, send: {template: demo/a}}
  - id: b
    wait: {until_event: email.clicked, of: a, ignore_bots: true, timeout: 3d}
    paths: {event: d, timeout: c}
  - {id: c, webhook: {to: crm, fields: [first_name, plan]}}
  - {id: d, wait: {until_event: purchase, timeout: 1d}}
""",
        "demo.yaml",
    )
    days = timedelta(days=1)
    assert sequence.steps[1:] == (
        WaitStep("b", "d", until_event=UntilEvent("email.clicked", 3 * days, "a", True, "c")),
        WebhookStep("c", "crm", "d", ("first_name", "plan")),
        WaitStep("d", None, until_event=UntilEvent("purchase", days)),
    )
    assert successors(sequence.steps[1]) == ("d", "c")
    assert Sequence.from_json(json.loads(json.dumps(sequence.to_json()))) == sequence
