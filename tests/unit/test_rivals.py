"""Several sequences in one simulation, and pauses in it: the engine's own rules, told beforehand."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from schedules.definition import Sequence
from schedules.loader import loads
from tasks.sequence.behavior import Behavior, Person
from tasks.sequence.simulate import Beside, Pause, Story, simulate
from workers.cli import sequence as commands
from workers.cli.render import ExitCode

MONDAY = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)
HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
BODY = """key: {key}
title: One of several
class: {class_}
{topic}priority: {priority}
timezone: {{source: subscriber, fallback: UTC}}
entry: {{manual: true}}
{more}
steps:
{steps}
"""
MAIL = "  - {id: a, send: {template: d/a}}\n"
TWO = MAIL + "  - {id: w, wait: {delay: 2d}}\n  - {id: b, send: {template: d/b}}\n"
CAP = "limits: {cap: {max: 1, per: 3d, scope: topic, on_hit: wait}}"


def one(
    key: str, priority: int = 50, more: str = CAP, steps: str = MAIL, class_: str = "marketing"
) -> Sequence:
    topic = "topic: news\n" if class_ == "marketing" else ""
    asked = {"priority": priority, "more": more, "steps": steps, "class_": class_}
    return loads(BODY.format(key=key, topic=topic, **asked), f"{key}.yaml")


def told(sequence: Sequence, n: int = 20, **asked: Any) -> Story:
    people = [Person(number, "UTC") for number in range(1, n + 1)]
    given: dict[str, Any] = {"start": MONDAY, "days": 20, "seed": 1} | asked
    return simulate(sequence, people, **given)


@pytest.mark.parametrize(("first", "second"), [(90, 10), (10, 90)])
def test_the_last_free_slot_goes_by_priority_whoever_stands_first(first: int, second: int) -> None:
    story = told(one("first", first), beside=[Beside(one("second", second))])
    [rival] = story.beside
    wins, waits = (story, rival) if first > second else (rival, story)
    assert {mail.at - MONDAY < HOUR for mail in wins.sent} == {True}
    assert {3 * DAY <= mail.at - MONDAY < 4 * DAY for mail in waits.sent} == {True}
    assert len(wins.sent) == len(waits.sent) == 20
    assert waits.steps[0].reasons == {"cap": 20} and not wins.steps[0].reasons


def test_nobody_has_more_mails_than_the_cap_over_all_of_them() -> None:
    rivals = [Beside(one(f"r{n}", n, steps=TWO), after=n * HOUR) for n in range(1, 4)]
    story = told(one("main", 50, steps=TWO), 30, beside=rivals, days=60)
    every = [mail for each in (story, *story.beside) for mail in each.sent]
    assert len(every) == 30 * 8
    for person in range(1, 31):
        times = sorted(mail.at for mail in every if mail.person == person)
        gaps = [later - before for before, later in pairwise(times)]
        assert min(gaps) >= 3 * DAY


def test_a_mail_that_is_under_way_holds_its_slot() -> None:
    """The stream of the first stands still, so its mail is neither sent nor over."""
    story = told(
        one("main", 10), beside=[Beside(one("other", 90), after=HOUR)],
        pauses=[Pause(dt.timedelta(), 2 * HOUR, stream="marketing")],
    )  # fmt: skip
    assert {2 * HOUR <= mail.at - MONDAY < 3 * HOUR for mail in story.sent} == {True}
    assert {mail.at - MONDAY >= 3 * DAY for mail in story.beside[0].sent} == {True}


@pytest.mark.parametrize("scope", ["sequence", "all"])
def test_what_has_another_scope_or_class_competes_with_nobody(scope: str) -> None:
    own = CAP.replace("topic,", f"{scope},")
    story = told(
        one("main", more=own), beside=[Beside(one("bill", class_="transactional", more=""))]
    )
    for each in (story, *story.beside):
        assert {mail.at - MONDAY < HOUR for mail in each.sent} == {True} and len(each.sent) == 20


def test_who_unsubscribes_leaves_all_of_them_and_comes_into_none() -> None:
    rivals = [Beside(one("same", more="", steps=TWO)), Beside(one("later", more=""), after=3 * DAY)]
    story = told(one("main", more="", steps=TWO), beside=rivals, behavior=Behavior(stops=1.0))
    same, later = story.beside
    assert story.ended == same.ended == {"unsubscribe": 20}
    assert (story.entered, later.entered, len(later.sent)) == (20, 0, 0)


def test_people_do_the_same_in_one_sequence_whatever_stands_beside_it() -> None:
    behavior = Behavior(opens=0.3, clicks=0.2, converts={"purchase": 0.2})
    alone = told(one("main", more=""), 50, behavior=behavior)
    both = told(one("main", more=""), 50, behavior=behavior, beside=[Beside(one("b", more=""))])
    assert alone.sent == both.sent
    assert [m.at for m in both.sent] != [m.at for m in both.beside[0].sent]


@pytest.mark.parametrize(("clock", "last"), [("run", 2 * DAY), ("freeze", 2 * DAY + 12 * HOUR)])
def test_a_pause_holds_mails_and_by_its_clock_the_waits(clock: str, last: dt.timedelta) -> None:
    sequence = one("main", more=f"pause: {{clock: {clock}}}", steps=TWO)
    story = told(sequence, pauses=[Pause(DAY, 12 * HOUR, sequence="main")])
    assert story.paused == ((MONDAY + DAY, MONDAY + DAY + 12 * HOUR),)
    assert {
        last <= mail.at - MONDAY < last + HOUR for mail in story.sent if mail.step_id == "b"
    } == {True}
    # A pause over the end of the wait: its mail goes when it is over, or the wait is longer by it.
    story = told(sequence, pauses=[Pause(DAY, 2 * DAY, sequence="main")])
    late = 4 * DAY if clock == "freeze" else 3 * DAY
    assert {
        late <= mail.at - MONDAY < late + HOUR for mail in story.sent if mail.step_id == "b"
    } == {True}
    assert story.ended == {"completed": 20} and len(story.sent) == 40
    assert [step.begun for step in story.steps] == [20, 20, 20]
    assert sum(step.reasons["sequence_paused"] for step in story.steps) == 20


def test_nobody_enters_a_paused_sequence_and_events_count_in_it() -> None:
    rule = "exit: [{event: purchase, reason: bought}]"
    story = told(
        one("main", more=rule, steps=TWO), 100, over=DAY, behavior=Behavior(converts={"purchase": 1.0}),
        pauses=[Pause(12 * HOUR, 48 * HOUR, sequence="main")],
    )  # fmt: skip
    assert {
        mail.at - MONDAY < 12 * HOUR or mail.at - MONDAY >= 60 * HOUR for mail in story.sent
    } == {True}
    assert story.ended == {"bought": 100}
    early = told(one("main", more="", steps=TWO), 100, over=DAY, days=1,
                 pauses=[Pause(12 * HOUR, 48 * HOUR, sequence="main")])  # fmt: skip
    assert early.entered == 50


@pytest.mark.parametrize(("clock", "ends"), [("run", "expired"), ("freeze", "sent")])
def test_a_mail_that_a_pause_held_for_days_goes_where_its_time_stood_still(
    clock: str, ends: str
) -> None:
    sequence = one("main", more=f"pause: {{clock: {clock}}}")
    story = told(sequence, 40, pauses=[Pause(dt.timedelta(seconds=1), 4 * DAY, sequence="main")])
    # Handed over before it began, all but one or two of them were still on their way to the relay.
    assert story.steps[0].mails[ends] >= 36 and story.steps[0].begun == 40


def test_what_happens_while_somebody_is_held_counts_when_the_pause_is_over() -> None:
    steps = (
        MAIL
        + "  - {id: w, wait: {until_event: purchase, timeout: 13h}, paths: {event: b, timeout: c}}\n"
        "  - {id: b, exit: {reason: bought}}\n  - {id: c, exit: {reason: silent}}\n"
    )
    story = told(
        one("main", more="pause: {clock: freeze}", steps=steps), 200,
        behavior=Behavior(converts={"purchase": 1.0}),
        pauses=[Pause(12 * HOUR, 3 * DAY, sequence="main")],
    )  # fmt: skip
    assert story.ended == {"bought": 200}
    held = story.steps[1].reasons["sequence_paused"]
    assert 60 < held < 140 and story.steps[1].begun == 200
    slowest = story.steps[2].after
    assert slowest is not None and slowest[2] == 12 * HOUR + 3 * DAY


def test_pauses_that_touch_are_one() -> None:
    pauses = [Pause(DAY, DAY, sequence="main"), Pause(HOUR, DAY, sequence="main"),
              Pause(9 * DAY, DAY, sequence="main"), Pause(2 * DAY, HOUR, sequence="other")]  # fmt: skip
    story = told(one("main", more="", steps=TWO), pauses=pauses)
    assert story.paused == (
        (MONDAY + HOUR, MONDAY + 2 * DAY),
        (MONDAY + 9 * DAY, MONDAY + 10 * DAY),
    )


def test_a_stream_that_stands_still_lets_people_go_on_and_mails_expire() -> None:
    story = told(
        one("main", more="", steps=TWO), pauses=[Pause(HOUR * 0, 2 * DAY, stream="marketing")]
    )
    assert {mail.at - MONDAY >= 2 * DAY for mail in story.sent} == {True} and len(story.sent) == 40
    story = told(
        one("main", more="", steps=TWO), pauses=[Pause(HOUR * 0, 4 * DAY, stream="marketing")]
    )
    assert story.steps[0].mails == {"expired": 20} and story.steps[2].mails == {"sent": 20}
    story = told(one("main", more=""), pauses=[Pause(HOUR * 0, 4 * DAY, stream="transactional")])
    assert story.steps[0].mails == {"sent": 20}


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    for key, priority in (("main", 10), ("other", 90)):
        (tmp_path / f"{key}.yaml").write_text(
            BODY.format(key=key, topic="topic: news\n", class_="marketing", priority=priority,
                        more=CAP, steps=MAIL)
        )  # fmt: skip
    app = typer.Typer()
    commands.register(app)
    return lambda *words: CliRunner().invoke(app, ["sequence", "simulate", "main.yaml", *words])


def test_the_command_tells_all_of_them(command: Callable[..., Any]) -> None:
    done = command("--subscribers", "10", "--beside", "other.yaml@1h", "--pause", "other=1d+12h",
                   "--pause-stream", "20d+1d")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    [rival] = found["beside"]
    assert (found["sequence"], rival["sequence"]) == ("main", "other")
    assert found["paused"] == [["2026-01-25T00:00:00+00:00", "2026-01-26T00:00:00+00:00"]]
    assert len(rival["paused"]) == 2 and rival["entered"] == 10
    plain = json.loads(command("--subscribers", "10").stdout)
    assert "beside" not in plain and "paused" not in plain


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--beside", "main.yaml"), "two files have the key 'main'"),
        (("--beside", "other.yaml@soon"), "'soon' is not a duration"),
        (("--pause", "1d"), "such as 2d+12h"),
        (("--pause", "mian=1d+1h"), "did you mean 'main'?"),
        (("--pause-stream", "marketign=1d+1h"), "did you mean 'marketing'?"),
    ],
)
def test_what_cannot_be_declared_is_a_fault_of_use(
    command: Callable[..., Any], words: tuple[str, str], said: str
) -> None:
    done = command(*words)
    flat = " ".join(done.stderr.replace("│", " ").split())
    assert done.exit_code == ExitCode.USAGE and said in flat
