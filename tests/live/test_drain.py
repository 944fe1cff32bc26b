"""A sequence that drains: nobody new comes in by any way, and who is in it goes on to the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from sqlalchemy import text
from typer.testing import CliRunner

from models.session import Database
from tasks.sequence import cron, drain, fire
from tasks.sequence.enroll import enroll_all
from tasks.sequence.entries import door as stands
from tasks.sequence.explain import explain
from tasks.upkeep.overview import overview
from tests.live.door import PAUSED, Door
from tests.live.test_entries import EDGE, WEEKLY, due, fires, some_are
from workers.cli import sequence as commands
from workers.cli.advice import advice
from workers.cli.render import ExitCode
from workers.doctor import standing


@pytest.fixture
def door(database: Database) -> Door:
    return Door(database, 4)


def close(door: Door, reason: str = "another takes its place") -> None:
    with door.database.transaction() as connection:
        assert drain.drain(connection, "door", reason)


def why(door: Door, who: int) -> list[str]:
    with door.database.transaction() as connection:
        told = explain(connection, who, "door")
    return [line.text for line in told.lines] + told.next


def test_an_event_lets_nobody_in_and_who_is_in_goes_on_to_the_end(door: Door) -> None:
    door.sequence()
    under_way, new = door.people[:2]
    door.event(under_way)
    door.act()
    close(door)
    door.event(new)
    door.act()
    assert door.entries() == [(under_way, 1, True)] and door.refused() == {"draining": 1}
    said = " ".join(why(door, new))
    assert "did not come in: the sequence takes nobody new since" in said
    assert "(another takes its place)" in said
    for _ in range(4):
        door.plan()
        door.run("UPDATE message SET state = 'cancelled', run_at = NULL, terminal_at = now(),"
                 " reason = 'test' WHERE terminal_at IS NULL")  # fmt: skip
        door.run("UPDATE enrollment SET due_at = clock_timestamp() WHERE active")
    steps = door.run("SELECT DISTINCT step_id FROM message")
    assert steps and not door.run("SELECT FROM enrollment WHERE active")


def test_who_joins_a_segment_is_refused_edge_by_edge(door: Door) -> None:
    door.sequence("trigger: {segment: lapsed, edge: join}")
    close(door)
    for who in door.people[:3]:
        door.run(EDGE.format(who, "join", "event"))
    door.act()
    assert door.entries() == [] and len(door.run("SELECT FROM entry_refusal")) == 3
    assert door.refused() == {"draining": 1}


@pytest.mark.parametrize("rules", ["", ", admission: {max_active: 1}"])
def test_a_fire_is_done_and_each_of_its_audience_refused(door: Door, rules: str) -> None:
    door.sequence(WEEKLY + rules)
    some_are(door, *door.people[:2])
    close(door)
    due(door, "5 seconds")
    assert fires(door) == [("done", None)]
    [row] = door.run("SELECT detail FROM schedule_fire")
    assert (row.detail["enrolled"], row.detail["refused"]) == (0, 2)
    assert door.entries() == [] and len(door.run("SELECT FROM entry_refusal")) == 2


def test_a_drain_between_two_batches_of_a_fire_holds_from_the_second_on(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.sequence(WEEKLY.replace("sub.vip == true", "all"))
    due(door, "5 seconds")
    cron.look(door.database)
    for name in ("ALL", "ALL_ASK"):
        small = str(getattr(fire, name)[True]).replace("LIMIT 5000", "LIMIT 2")
        monkeypatch.setattr(fire, name, {True: text(small)})
    monkeypatch.setattr(fire, "BATCH", 2)
    looks = iter(range(99))

    def clock() -> float:
        # Looked at for the budget, for the fire, and before each batch.
        if next(looks) == 3:
            close(door)
        return 0.0

    monkeypatch.setattr("tasks.sequence.fire.time", SimpleNamespace(monotonic=clock))
    fire.work(door.database, budget=1, ring=lambda _: False)
    assert len(door.entries()) == 2 and len(door.run("SELECT FROM entry_refusal")) == 2
    [row] = door.run("SELECT state, detail FROM schedule_fire")
    assert row.state == "done" and (row.detail["enrolled"], row.detail["refused"]) == (2, 2)


def test_by_hand_each_is_refused_and_who_is_in_it_already_is_told_so(door: Door) -> None:
    door.sequence("manual: true")
    assert enroll_all(door.database, "door").enrolled == 4
    door.leave(door.people[0])
    door.run("DELETE FROM enrollment WHERE subscriber_id = ANY(:ids)", ids=door.people[2:])
    close(door)
    assert enroll_all(door.database, "door", dry_run=True).refused == 2
    done = enroll_all(door.database, "door")
    assert (done.enrolled, done.already_enrolled, done.refused, done.waiting) == (0, 2, 2, 0)
    assert door.refused() == {"draining": 1}


def test_who_waits_for_a_place_or_a_time_is_refused_at_once(door: Door) -> None:
    door.sequence(
        f"{PAUSED}, reentry: {{policy: after_exit, while_active: queue_one}},"
        " admission: {max_active: 1}"
    )
    first, second, third, _ = door.people
    door.event(first)
    door.act()
    door.event(first)
    for who in (second, third):
        door.event(who)
    door.act()
    door.run("UPDATE entry_request SET look_at = look_at + interval '90 days'")
    close(door)
    with door.database.transaction() as connection:
        [found] = drain.draining(connection)
    assert (found.active, found.asking) == (1, 3)
    door.act()
    assert door.waiting() == [] and door.entries() == [(first, 1, True)]
    assert len(door.run("SELECT FROM entry_refusal WHERE reason = 'draining'")) == 3


def test_it_counts_those_alone_whom_every_other_rule_lets_in(door: Door) -> None:
    door.sequence(f"{PAUSED}, filter: \"sub.country == 'DE'\"")
    door.run(
        'UPDATE subscriber SET attributes = \'{"country"\\: "DE"}\' WHERE id = :id',
        id=door.people[0],
    )
    close(door)
    for who in door.people:
        door.event(who)
    door.act()
    rows = door.run("SELECT reason, count(*) FROM entry_refusal GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in rows] == [("draining", 1), ("filter", 3)]


def test_undone_it_lets_in_again_and_forgets_no_refusal(door: Door) -> None:
    door.sequence(f"{PAUSED}, reentry: {{policy: concurrent}}")
    close(door)
    door.event(door.people[0])
    door.act()
    with door.database.transaction() as connection:
        assert drain.undo(connection, "door") and not drain.undo(connection, "door")
    door.act()
    assert door.entries() == [] and door.refused() == {"draining": 1}
    door.event(door.people[0])
    door.act()
    assert door.entries() == [(door.people[0], 1, True)]


def test_it_is_seen_where_an_operator_looks(door: Door) -> None:
    door.sequence()
    door.event(door.people[0])
    door.act()
    close(door, "the offer is over")
    door.event(door.people[1])
    door.act()
    with door.database.transaction() as connection:
        now = stands(connection, "door")
        [found] = standing.draining(connection)
        view = overview(connection)
    assert now.drain_reason == "the offer is over" and now.refused == {"draining": 1}
    assert found.severity == "warning" and "1 go on to the end" in found.says
    assert "sequence drain door --undo" in found.next
    assert view.sequences[0].drain_reason == "the offer is over"
    told = advice(
        {"queues": {}, "pools": [], "ticks": [], "streams": [], "to_plan_oldest": None,
         "sequences": [{"key": "door", "paused_at": None, "draining_since": "then",
                        "drain_reason": "over"}]}
    )  # fmt: skip
    assert "sequence door takes nobody new: over" in {one.says for one in told}
    assert any("takes nobody new since" in line for line in why(door, door.people[2]))
    door.leave(door.people[0])
    with door.database.transaction() as connection:
        assert [found.severity for found in standing.draining(connection)] == ["fine"]


@pytest.fixture
def command(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    commands.register(app)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_the_commands_say_what_was_done_and_enqueue_that_nobody_came_in(
    door: Door, command: Callable[..., Any]
) -> None:
    door.sequence("manual: true")
    assert command("sequence", "drain", "door").exit_code == 2
    done = command("sequence", "drain", "door", "--reason", "over")
    assert done.exit_code == 0 and "takes nobody new; 0 go on to the end" in done.stderr
    again = command("sequence", "drain", "door", "--reason", "other")
    assert "(over) already; its reason stays" in again.stderr
    asked = command("enqueue", "door", "--all")
    assert asked.exit_code == ExitCode.FINDINGS and '"refused": 4' in asked.stdout
    assert "drain door --undo" in asked.stderr
    assert '"drain_reason": "over"' in command("sequence", "list", "--json").stdout
    undone = command("sequence", "drain", "door", "--undo")
    assert undone.exit_code == 0 and "takes people in again" in undone.stderr
    assert command("enqueue", "door", "--all").exit_code == 0
