"""The simulator: the planner's engine on a virtual clock, the same for a seed."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from schedules.loader import load, loads
from tasks.sequence.behavior import Behavior, Person, made_up
from tasks.sequence.simulate import Story, simulate
from workers.cli import sequence as commands
from workers.cli.render import ExitCode
from workers.cli.simulate import as_data, chart

SEQUENCES = Path(__file__).parents[2] / "schedules" / "sequences"
HEAD = """key: demo
title: A demo
class: transactional
timezone: {source: subscriber, fallback: Europe/Berlin}
entry: {manual: true}
"""
MONDAY = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)


def walked(steps: str, people: list[Person] | int = 1, **asked: Any) -> Story:
    if isinstance(people, int):
        people = made_up(people, 1)
    told: dict[str, Any] = {"start": MONDAY, "days": 30, "seed": 1} | asked
    return simulate(loads(HEAD + steps, "demo.yaml"), people, **told)


def local_mail(zone: str, wall: str, entered: str, days: int = 1) -> dt.datetime:
    """When the relay got a mail that was to go at a wall time, a day or two after the entry."""
    story = walked(
        f'steps:\n  - {{id: w, wait: {{calendar_days: {days}, at: "{wall}"}}}}\n'
        "  - {id: m, send: {template: demo/m}}\n",
        [Person(1, zone)],
        start=dt.datetime.fromisoformat(entered),
        days=4,
    )
    [mail] = story.sent
    return mail.at


# The vectors of clock changes, each a day after somebody entered.
@pytest.mark.parametrize(
    ("zone", "entered", "wall", "instant"),
    [
        ("America/New_York", "2026-03-07T12:00Z", "02:30", "2026-03-08T07:00Z"),
        ("America/New_York", "2026-10-31T12:00Z", "01:30", "2026-11-01T05:30Z"),
        ("America/New_York", "2026-10-31T12:00Z", "09:00", "2026-11-01T14:00Z"),
        ("Europe/Berlin", "2026-03-28T12:00Z", "02:15", "2026-03-29T01:00Z"),
        ("Europe/Berlin", "2026-10-24T12:00Z", "02:15", "2026-10-25T00:15Z"),
        ("Asia/Tokyo", "2026-11-21T16:00Z", "08:00", "2026-11-22T23:00Z"),
    ],
)
def test_a_wall_time_is_walked_at_its_instant(
    zone: str, entered: str, wall: str, instant: str
) -> None:
    at = local_mail(zone, wall, entered)
    meant = dt.datetime.fromisoformat(instant)
    assert meant <= at <= meant + dt.timedelta(seconds=30)


def test_the_two_hours_of_a_clock_change_are_walked_in_two_zones() -> None:
    """Berlin gets its second hour twice and Moscow not: each wall time comes once for each."""
    steps = "steps:\n"
    for number, wall in enumerate(("01:45", "02:15", "02:45", "03:15")):
        days = 1 if number == 0 else 0
        steps += f'  - {{id: w{number}, wait: {{calendar_days: {days}, at: "{wall}"}}}}\n'
        steps += f"  - {{id: m{number}, send: {{template: demo/m}}}}\n"
    people = [Person(1, "Europe/Berlin"), Person(2, "Europe/Moscow")]
    story = walked(steps, people, start=dt.datetime(2026, 10, 24, 12, tzinfo=dt.UTC), days=2)
    came = {
        person.id: [f"{mail.at:%d %H:%M}" for mail in story.sent if mail.person == person.id]
        for person in people
    }
    assert came == {
        1: ["24 23:45", "25 00:15", "25 00:45", "25 02:15"],
        2: ["24 22:45", "24 23:15", "24 23:45", "25 00:15"],
    }


# The hours around a clock change as clocks show them, and when each comes: the vectors among them.
SPRING = {
    "01:45": ("2026-03-08T06:45Z", "2026-03-29T00:45Z"),
    "02:15": ("2026-03-08T07:00Z", "2026-03-29T01:00Z"),
    "02:30": ("2026-03-08T07:00Z", "2026-03-29T01:00Z"),
    "03:15": ("2026-03-08T07:15Z", "2026-03-29T01:15Z"),
}
AUTUMN = {
    "00:45": ("2026-11-01T04:45Z", "2026-10-24T22:45Z"),
    "01:30": ("2026-11-01T05:30Z", "2026-10-24T23:30Z"),
    "02:15": ("2026-11-01T07:15Z", "2026-10-25T00:15Z"),
    "03:15": ("2026-11-01T08:15Z", "2026-10-25T02:15Z"),
    "09:00": ("2026-11-01T14:00Z", "2026-10-25T08:00Z"),
}


@pytest.mark.parametrize("hours", [SPRING, AUTUMN], ids=["spring", "autumn"])
def test_both_zones_walk_the_hours_of_their_clock_changes_in_one_run(
    hours: dict[str, tuple[str, str]],
) -> None:
    """What falls into a gap comes with its end, an hour that comes twice is the first of the two."""
    steps = "steps:\n"
    for number, wall in enumerate(hours):
        wait = f'until_date: {{attribute: change, at: "{wall}", missing: exit}}'
        steps += f"  - {{id: w{number}, wait: {{{wait}}}}}\n"
        steps += f"  - {{id: m{number}, send: {{template: demo/m}}}}\n"
    instants = [
        [dt.datetime.fromisoformat(each) for each in of] for of in zip(*hours.values(), strict=True)
    ]
    people = [
        Person(number, zone, {"change": f"{come[-1].date()}"})
        for number, (zone, come) in enumerate(
            zip(("America/New_York", "Europe/Berlin"), instants, strict=True)
        )
    ]
    start = min(map(min, instants)) - dt.timedelta(days=2)
    story = walked(steps, people, start=start, days=30)
    for person, come in zip(people, instants, strict=True):
        mails = [mail for mail in story.sent if mail.person == person.id]
        assert [mail.step_id for mail in mails] == [f"m{n}" for n in range(len(hours))]
        assert [mail.at.replace(second=0, microsecond=0) for mail in mails] == come
    assert story.ended == {"completed": 2}


QUIET = """limits: {quiet_hours: {from: "01:00", to: "03:30"}}
steps:
  - {id: w, wait: {until_date: {attribute: change, at: "01:45", missing: exit}}}
  - {id: m, send: {template: demo/m}}
"""


@pytest.mark.parametrize(
    ("zone", "day", "opens"),
    [
        ("America/New_York", "2026-03-08", "2026-03-08T07:30Z"),
        ("Europe/Berlin", "2026-03-29", "2026-03-29T01:30Z"),
        ("America/New_York", "2026-11-01", "2026-11-01T08:30Z"),
        ("Europe/Berlin", "2026-10-25", "2026-10-25T02:30Z"),
    ],
)
def test_quiet_hours_last_until_their_clock_says_so_on_both_sides_of_a_change(
    zone: str, day: str, opens: str
) -> None:
    """An hour and three quarters by the clock: less by one in spring, more by one in autumn."""
    source = (HEAD + QUIET).replace("transactional", "marketing\ntopic: news")
    meant = dt.datetime.fromisoformat(opens)
    story = simulate(
        loads(source, "demo.yaml"),
        [Person(1, zone, {"change": day})],
        start=meant - dt.timedelta(days=1),
        days=3,
        seed=1,
    )
    [mail] = story.sent
    assert meant <= mail.at <= meant + dt.timedelta(seconds=30)
    assert story.steps[1].reasons == {"quiet_hours": 1}


def test_the_same_seed_tells_the_same_story_and_another_one_another() -> None:
    asked: dict[str, Any] = {
        "start": MONDAY,
        "days": 30,
        "behavior": Behavior(opens=0.4, clicks=0.2, stops=0.05),
    }
    sequence = load(SEQUENCES / "win-back.yaml")

    def story(seed: int) -> dict[str, Any]:
        scores = frozenset({"churn"})
        return as_data(simulate(sequence, made_up(300, seed, scores), seed=seed, **asked), seed)

    assert story(1) == story(1)
    assert story(1)["ended"] != story(2)["ended"]


def test_everybody_who_enters_ends_or_is_still_under_way() -> None:
    behavior = Behavior(stops=0.1, fails=0.1, bounces=0.1)
    story = walked(
        "steps:\n  - {id: a, send: {template: d/a}, on_fail: exit}\n  - {id: w, wait: {delay: 20d}}\n"
        "  - {id: b, send: {template: d/b}}\n",
        400, days=10, behavior=behavior, over=dt.timedelta(days=1),
    )  # fmt: skip
    assert sum(story.ended.values()) + story.standing == story.entered == 400
    assert set(story.ended) == {"failed", "hard_bounce", "unsubscribe"}
    first, wait, last = story.steps
    assert sum(first.mails.values()) == first.begun == 400
    assert wait.standing == story.standing and last.begun == 0
    assert sum(step.left.total() for step in story.steps) == sum(story.ended.values())


def test_a_conversion_ends_the_way_when_it_happens() -> None:
    rule = "exit: [{event: purchase, reason: converted}]\n"
    steps = "steps:\n  - {id: a, send: {template: d/a}}\n  - {id: w, wait: {delay: 5d}}\n  - {id: b, send: {template: d/b}}\n"
    story = walked(rule + steps, 200, behavior=Behavior(converts={"purchase": 0.5}))
    assert 60 < story.ended["converted"] and story.steps[2].begun < 140
    assert len(story.sent) == 200 + story.steps[2].mails["sent"]


def test_a_mail_is_asked_for_what_people_did_before() -> None:
    steps = (
        "steps:\n  - {id: a, send: {template: d/a}}\n  - {id: w, wait: {delay: 2d}}\n"
        "  - id: b\n    branch: [{if: \"count('email.clicked', within='7d') >= 1\", next: c}, {else: d}]\n"
        "  - {id: c, exit: {reason: clicked}}\n  - {id: d, exit: {reason: silent}}\n"
    )
    story = walked(steps, 500, behavior=Behavior(clicks=0.2))
    assert 60 < story.ended["clicked"] < 140
    assert story.ended["clicked"] + story.ended["silent"] == 500


def test_what_the_gates_say_is_counted_by_their_own_words() -> None:
    people = [Person(n, None, topics={"news": n % 2 == 0}) for n in range(1, 11)]
    sequence = loads(
        HEAD.replace("transactional", "marketing\ntopic: news")
        + "steps:\n  - {id: a, send: {template: d/a}}\n",
        "demo.yaml",
    )
    story = simulate(sequence, people, start=MONDAY, days=2, seed=1)
    assert story.steps[0].reasons == {"opted_out": 5}
    assert story.ended == {"opted_out": 5, "completed": 5}


LIMITED = """key: limited
title: With limits
class: marketing
topic: news
timezone: {source: subscriber, fallback: Europe/Berlin}
entry: {manual: true}
limits:
  quiet_hours: {from: "21:00", to: "08:00"}
  cap: {max: 1, per: 2d, scope: topic, on_hit: wait}
steps:
  - {id: a, send: {template: d/a}}
  - {id: w, wait: {until_event: email.clicked, of: a, timeout: 1d}, paths: {event: b, timeout: c}}
  - {id: b, send: {template: d/b}, next: end}
  - {id: c, send: {template: d/c}}
  - {id: end, exit: {reason: done}}
"""


def test_limits_and_events_that_are_waited_for_are_walked_by_their_own_rules() -> None:
    people = [Person(n, "Europe/Berlin") for n in range(1, 201)]
    story = simulate(
        loads(LIMITED, "l.yaml"), people, start=MONDAY, days=10, seed=1,
        behavior=Behavior(clicks=0.3),
    )  # fmt: skip
    told = {step.id: step for step in story.steps}
    assert 30 < told["b"].begun < 90 and told["b"].begun + told["c"].begun == 200
    assert told["a"].reasons == {"quiet_hours": 200}
    assert told["b"].reasons["cap"] + told["c"].reasons["cap"] >= 200
    assert {8 <= (at.hour + 1) % 24 < 21 for at in story.hours} == {True}
    seen: dict[int, dt.datetime] = {}
    for mail in story.sent:
        if mail.person in seen:
            assert mail.at - seen[mail.person] >= dt.timedelta(days=2)
        seen[mail.person] = mail.at
    assert len(story.sent) == 400


def test_an_update_is_seen_by_what_comes_behind_it() -> None:
    steps = (
        "steps:\n  - {id: u, update: {set: {tried: {expression: sub.tried + 1}}}}\n"
        '  - {id: b, branch: [{if: "sub.tried == 2", next: c}, {else: d}]}\n'
        "  - {id: c, exit: {reason: second}}\n  - {id: d, exit: {reason: other}}\n"
    )
    story = walked(steps, [Person(1, None, {"tried": 1}), Person(2, None, {"tried": 5})])
    assert story.ended == {"second": 1, "other": 1}


def test_the_chart_has_a_line_a_day_and_counts_what_was_sent() -> None:
    story = walked(
        "steps:\n  - {id: a, send: {template: d/a}}\n  - {id: w, wait: {delay: 2d}}\n  - {id: b, send: {template: d/b}}\n",
        50,
    )
    head, _, first, second = chart(story)
    assert "highest bar is 50" in head
    assert first.startswith("2026-01-05  █") and first.endswith("  50")
    assert second.startswith("2026-01-07")


def test_ten_thousand_people_and_sixty_days_cost_seconds_of_one_core() -> None:
    sequence = load(SEQUENCES / "win-back.yaml")
    people = made_up(10_000, 1, frozenset({"churn"}))
    began = time.process_time()
    story = simulate(sequence, people, start=MONDAY, days=60, seed=1, behavior=Behavior(opens=0.3))
    assert time.process_time() - began < 20
    assert story.entered == 10_000


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    commands.register(app)
    return lambda *words: CliRunner().invoke(app, ["sequence", "simulate", *words])


def test_a_golden_file_tells_what_a_change_does(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "thank-you.yaml"
    file.write_text((SEQUENCES / "thank-you.yaml").read_text())
    asked = (str(file), "--subscribers", "20", "--days", "3", "--open", "0.5")
    golden = tmp_path / "golden.json"
    golden.write_text(command(*asked).stdout)
    assert command(*asked, "--golden", "golden.json").exit_code == 0
    file.write_text(file.read_text().replace("20s}", "2d}"))
    changed = command(*asked, "--golden", "golden.json")
    assert changed.exit_code == ExitCode.FINDINGS
    assert '+    "2026-01-07T00:00:00+00:00": 20' in changed.stdout
    missing = command(*asked, "--golden", "none.json")
    assert missing.exit_code == ExitCode.USAGE and "make it with" in missing.stderr


def test_people_of_a_file_walk_with_what_it_says_of_them(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "people.csv").write_text(
        "email,zone,topic:product-news,score:churn:number\n"
        "a@example.com,Asia/Tokyo,yes,0.95\nb@example.com,Europe/Berlin,yes,0.1\n"
        "c@example.com,Europe/Berlin,no,0.99\nnobody,,yes,0.5\n"
    )
    told = command(str(SEQUENCES / "win-back.yaml"), "--subscribers", "people.csv")
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert (found["entered"], found["ended"]) == (3, {"completed": 2, "opted_out": 1})
    assert [step["mails"] for step in found["steps"] if step["mails"]] == [
        {"sent": 2, "suppressed": 1}, {"sent": 1},
    ]  # fmt: skip
    assert "people.csv:5: left out" in told.stderr


@pytest.mark.parametrize(
    "words",
    [("--convert", "purchase"), ("--convert", "purchase=2"), ("--subscribers", "0"),
     ("--subscribers", "none.csv"), ("--start", "soon"), ("--over", "2x"), ("--open", "1.5")],
)  # fmt: skip
def test_what_cannot_be_declared_is_a_fault_of_use(
    command: Callable[..., Any], words: tuple[str, str]
) -> None:
    assert command(str(SEQUENCES / "thank-you.yaml"), *words).exit_code == ExitCode.USAGE
