"""Edits of a live sequence: what `plan` says, what `apply` does, and what stays as it was."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import Connection, text
from typer.testing import CliRunner

from models.session import Database
from schedules.findings import DefinitionError
from schedules.loader import reads
from tasks.moves.settings import IdentitySettings
from tasks.send.render import Bundle
from tasks.sequence.migrate import Effect
from tasks.sequence.publish import Published, TooMany, preview, publish
from tasks.sequence.store import Planner
from tests.live import seeds
from tests.live.fleet import Fleet, eventually
from workers.cli import sequence as commands
from workers.cli.render import ExitCode

HEAD = """
key: edited
title: A sequence that is edited
class: marketing
topic: news
timezone: {source: subscriber, fallback: Europe/Berlin}
entry: {manual: true}
"""
A = "  - {id: a, send: {template: test/mail}}\n"
WAIT = "  - {id: wait, wait: {delay: 2d}}\n"
B = "  - {id: b, send: {template: test/mail}}\n"
LATER = "  - {id: later, wait: {delay: 5d}}\n"
C = "  - {id: c, send: {template: test/mail}}\n"


def text_of(*steps: str, publish: str = "") -> str:
    return HEAD + publish + "steps:\n" + "".join(steps)


def published(
    database: Database, source: str, *, yes: bool = False, bundle: Bundle = seeds.MAIL
) -> Published:
    with database.transaction() as connection:
        return publish(connection, reads(source, "e.yaml"), source, {"test/mail": bundle}, yes=yes)


def planned(database: Database, source: str) -> Effect:
    with database.snapshot() as connection:
        done = preview(connection, reads(source, "e.yaml"), {"test/mail": seeds.MAIL})
    assert done.effect is not None
    return done.effect


def execute(database: Database, sql: str, **values: Any) -> None:
    with database.transaction() as connection:
        connection.execute(text(sql), values)


def rows(database: Database, sql: str, **values: Any) -> list[Any]:
    with database.transaction() as connection:
        return list(connection.execute(text(sql), values))


def people(database: Database, source: str, n: int = 3) -> list[int]:
    """That many people in version 1, before their first step."""
    execute(database, "INSERT INTO topic (key, title) VALUES ('news', 'n') ON CONFLICT DO NOTHING")
    published(database, source)
    ids = seeds.subscribers(database, n)
    seeds.enroll(database, "edited", ids)
    return ids


def stand(
    database: Database, step: str, *, since: str = "1 day", due: str | None = "1 day"
) -> None:
    """Let everybody stand in a step that began some time ago, and is due in some time."""
    execute(
        database,
        "UPDATE enrollment SET step_id = :step, step_started_at = clock_timestamp()"
        " - CAST(:since AS interval), due_at = clock_timestamp() + CAST(:due AS interval)",
        step=step, since=since, due=due,
    )  # fmt: skip


def planner(database: Database) -> Planner:
    settings = IdentitySettings(secret_message_id=SecretStr("a secret of the tests"))
    return Planner(database, settings, dt.timedelta(days=3))


def step_of(effect: Effect, step_id: str) -> Any:
    return next(step for step in effect.steps if step.id == step_id)


def test_a_changed_wait_counts_the_time_that_was_waited(database: Database) -> None:
    people(database, text_of(A, WAIT, B))
    stand(database, "wait", since="1 day", due="1 day")
    effect = published(database, text_of(A, WAIT.replace("2d", "3d"), B)).effect
    assert effect is not None and (effect.people, effect.retimed, effect.due_now) == (3, 3, 0)
    assert rows(
        database,
        "SELECT DISTINCT step_id, sequence_version, due_at - step_started_at = interval '3 days'"
        " FROM enrollment",
    ) == [("wait", 2, True)]
    [kind] = rows(database, "SELECT DISTINCT kind, reason FROM decision")
    assert tuple(kind) == ("edited", "retimed")


def test_a_wait_that_is_over_by_the_new_rule_ends_now_and_not_before(database: Database) -> None:
    people(database, text_of(A, WAIT, B))
    stand(database, "wait", since="36 hours", due="12 hours")
    effect = published(database, text_of(A, WAIT.replace("2d", "1h"), B)).effect
    assert effect is not None
    assert (effect.due_now, effect.immediate_sends, effect.mails_24h) == (3, 3, 3)
    assert rows(
        database,
        "SELECT count(*) FROM enrollment WHERE due_at > clock_timestamp() - interval '1 m'",
    ) == [(3,)]
    planner(database).scan()
    assert seeds.states(database) == {"scheduled": 3}


def test_a_date_that_is_waited_for_is_read_anew(database: Database) -> None:
    date = '  - {id: wait, wait: {until_date: {attribute: trial, at: "09:30", missing: exit}}}\n'
    [with_date, without] = people(database, text_of(date, B), 2)
    stand(database, "wait")
    execute(
        database,
        'UPDATE subscriber SET attributes = \'{"trial"\\: "2099-07-01"}\' WHERE id = :id',
        id=with_date,
    )
    effect = published(database, text_of(date.replace("09:30", "10:30"), B)).effect
    assert effect is not None and (effect.retimed, effect.due_now) == (2, 1)
    found = dict(rows(database, "SELECT subscriber_id, due_at FROM enrollment"))
    assert found[with_date] == dt.datetime(2099, 7, 1, 8, 30, tzinfo=dt.UTC)
    planner(database).scan()
    assert rows(database, "SELECT subscriber_id, end_reason FROM enrollment WHERE NOT active") == [
        (without, "no_date")
    ]


def test_more_mails_at_once_than_the_file_allows_want_a_word(database: Database) -> None:
    people(database, text_of(A, WAIT, B))
    stand(database, "wait", since="36 hours", due="12 hours")
    edited = text_of(A, WAIT.replace("2d", "1h"), B, publish="publish: {max_immediate_sends: 2}\n")
    with pytest.raises(TooMany, match="3 mails due at once, and max_immediate_sends is 2"):
        published(database, edited)
    assert rows(database, "SELECT version FROM sequence") == [(1,)]
    assert rows(database, "SELECT DISTINCT sequence_version FROM enrollment") == [(1,)]
    assert published(database, edited, yes=True).version == 2


def test_the_people_of_a_deleted_step_finish_their_wait_and_go_on_behind_it(
    database: Database,
) -> None:
    people(database, text_of(A, WAIT, B, LATER, C))
    stand(database, "wait")
    before = rows(database, "SELECT id, due_at FROM enrollment ORDER BY id")
    effect = published(database, text_of(A, LATER, C)).effect
    assert effect is not None
    assert (step_of(effect, "wait").moved, step_of(effect, "later").entered) == (3, 3)
    assert rows(database, "SELECT id, due_at FROM enrollment ORDER BY id") == before
    assert rows(database, "SELECT DISTINCT step_id, step_started_at FROM enrollment") == [
        ("later", None)
    ]
    execute(database, "UPDATE enrollment SET due_at = clock_timestamp()")
    planner(database).scan()
    assert rows(database, "SELECT DISTINCT step_id FROM enrollment WHERE due_at > now()") == [
        ("later",)
    ]


def test_where_no_step_is_left_behind_a_deleted_one_people_leave(database: Database) -> None:
    people(database, text_of(A, WAIT, B))
    stand(database, "wait")
    effect = published(database, text_of(A)).effect
    assert effect is not None and (effect.removed, step_of(effect, "wait").removed) == (3, 3)
    assert rows(database, "SELECT DISTINCT active, end_reason FROM enrollment") == [
        (False, "step_deleted")
    ]


def test_a_mail_under_way_in_a_deleted_step_ends_before_anybody_moves(database: Database) -> None:
    ids = people(database, text_of(A, WAIT, B, C))
    planner(database).scan()
    effect = published(database, text_of(C, B)).effect
    assert effect is not None and step_of(effect, "a").moved == len(ids)
    assert rows(database, "SELECT DISTINCT step_id, due_at FROM enrollment") == [("a", None)]
    for state, n in (("sent", 0), ("failed", 1), ("suppressed", 2)):
        end_mail(database, ids[n], state)
    planner(database).scan()
    found = rows(
        database, "SELECT step_id, active, end_reason FROM enrollment ORDER BY subscriber_id"
    )
    assert [tuple(row) for row in found] == [
        ("b", True, None), ("b", True, None), ("a", False, "unsubscribe"),
    ]  # fmt: skip


def end_mail(database: Database, subscriber: int, state: str) -> None:
    """Let the live mail of somebody end, as a worker, the policy or a stop would."""
    way = {"sent": ("working", "armed", "sent"), "failed": ("working", "failed")}
    with database.transaction() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(
            text(
                "UPDATE message SET state = CAST(:state AS message_state), run_at = NULL,"
                " terminal_at = clock_timestamp(), reason = :reason WHERE subscriber_id = :id"
            ),
            {
                "state": way.get(state, (state,))[-1],
                "reason": "unsubscribe" if state == "suppressed" else None,
                "id": subscriber,
            },
        )
        connection.execute(
            text("UPDATE enrollment SET due_at = clock_timestamp() WHERE subscriber_id = :id"),
            {"id": subscriber},
        )


def test_the_past_is_not_run_again_when_a_step_moves_behind_somebody(database: Database) -> None:
    people(database, text_of(WAIT, A, LATER, B), 1)
    run = planner(database)
    run.scan()
    execute(database, "UPDATE enrollment SET due_at = clock_timestamp()")
    run.scan()  # `wait` is over, `a` is under way
    [(first,)] = rows(database, "SELECT subscriber_id FROM enrollment")
    end_mail(database, first, "sent")
    run.scan()
    assert rows(database, "SELECT step_id FROM enrollment") == [("later",)]
    published(database, text_of(LATER, WAIT, A, B, C))
    assert rows(database, "SELECT passed FROM enrollment") == [(["a", "wait"],)]
    execute(database, "UPDATE enrollment SET due_at = clock_timestamp()")
    run.scan()
    assert rows(database, "SELECT step_id FROM message ORDER BY id") == [("a",), ("b",)]
    assert rows(database, "SELECT step_id FROM decision WHERE kind = 'passed' ORDER BY id") == [
        ("wait",), ("a",)
    ]  # fmt: skip


def test_a_wait_that_came_back_is_not_waited_a_second_time(database: Database) -> None:
    people(database, text_of(WAIT, A), 1)
    run = planner(database)
    run.scan()
    execute(database, "UPDATE enrollment SET due_at = clock_timestamp()")
    run.scan()
    published(database, text_of(A))
    published(database, text_of(A, WAIT, B))
    [(first,)] = rows(database, "SELECT subscriber_id FROM enrollment")
    end_mail(database, first, "sent")
    run.scan()
    assert rows(database, "SELECT step_id FROM message ORDER BY id") == [("a",), ("b",)]


def test_added_steps_ahead_are_run_and_added_steps_behind_are_not(database: Database) -> None:
    people(database, text_of(A, WAIT), 1)
    stand(database, "wait", due="-1 second")
    published(database, text_of(C, A, WAIT, B))
    planner(database).scan()
    assert rows(database, "SELECT step_id FROM message") == [("b",)]


def test_who_has_finished_stays_finished(database: Database) -> None:
    people(database, text_of(A))
    execute(
        database,
        "UPDATE enrollment SET active = false, ended_at = now(), end_reason = 'completed', due_at = NULL",
    )
    effect = published(database, text_of(A, WAIT, B)).effect
    assert effect is not None and effect.people == 0
    assert rows(database, "SELECT DISTINCT sequence_version, active FROM enrollment") == [
        (1, False)
    ]


def test_pinned_people_go_on_by_their_version_and_drained_ones_leave(database: Database) -> None:
    people(database, text_of(A, WAIT, B))
    stand(database, "wait")
    effect = published(database, text_of(A, B, publish="publish: {enrolled: pin}\n")).effect
    assert effect is not None and (effect.people, effect.stay) == (0, 3)
    assert rows(database, "SELECT DISTINCT step_id, sequence_version FROM enrollment") == [
        ("wait", 1)
    ]
    effect = published(database, text_of(A, B, C, publish="publish: {enrolled: drain}\n")).effect
    assert effect is not None and effect.removed == 3
    assert rows(database, "SELECT DISTINCT active, end_reason FROM enrollment") == [
        (False, "drained")
    ]


def test_a_drained_mail_under_way_is_the_last_one(database: Database) -> None:
    ids = people(database, text_of(A, B), 1)
    planner(database).scan()
    published(database, text_of(A, B, C, publish="publish: {enrolled: drain}\n"))
    assert rows(database, "SELECT active FROM enrollment") == [(True,)]
    end_mail(database, ids[0], "sent")
    planner(database).scan()
    assert rows(database, "SELECT active, end_reason FROM enrollment") == [(False, "drained")]
    assert seeds.states(database) == {"sent": 1}


def test_pinned_content_is_that_of_the_version_somebody_entered_with(database: Database) -> None:
    pin = "publish: {content: pin}\n"
    first = seeds.subscribers(database, 2)
    execute(database, "INSERT INTO topic (key, title) VALUES ('news', 'n')")
    published(database, text_of(A, publish=pin))
    seeds.enroll(database, "edited", first[:1])
    other = Bundle("test/mail", {"subject.txt": "New", "body.txt": "words"})
    again = published(database, text_of(A, publish=pin), bundle=other)
    assert (again.version, again.changed) == (2, True)
    with database.transaction() as connection:
        connection.execute(
            text("INSERT INTO enrollment (sequence_key, sequence_version, subscriber_id, due_at)"
                 " VALUES ('edited', 2, :id, now())"), {"id": first[1]},
        )  # fmt: skip
        connection.execute(
            text("INSERT INTO consent (subscriber_id, topic, opted_in, source)"
                 " VALUES (:id, 'news', true, 't')"), {"id": first[1]},
        )  # fmt: skip
    planner(database).scan()
    found = rows(database, "SELECT template_version FROM message ORDER BY subscriber_id")
    assert [bytes(row[0]) for row in found] == [seeds.MAIL.sha256, other.sha256]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((A, "  - {id: wait, send: {template: test/mail}}\n"), "e.yaml:10:10: step id 'wait' was a wait in version 2"),
        ((A, WAIT, "  - {id: b, send: {template: test/other}}\n"), "e.yaml:11:10: step id 'b' was retired after version 1"),
    ],
)  # fmt: skip
def test_the_id_of_a_step_is_never_the_id_of_another_deed(
    database: Database, steps: tuple[str, ...], said: str
) -> None:
    people(database, text_of(A, WAIT, B))
    published(database, text_of(A, WAIT))
    with pytest.raises(DefinitionError) as refused, database.snapshot() as connection:
        preview(connection, reads(text_of(*steps), "e.yaml"), {"test/mail": seeds.MAIL})
    assert str(refused.value).startswith(said)


def test_a_deleted_step_may_come_back_as_what_it_was(database: Database) -> None:
    people(database, text_of(A, WAIT, B))
    published(database, text_of(A, WAIT))
    assert published(database, text_of(A, WAIT, B)).version == 3


def test_plan_prints_per_step_what_apply_then_does(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = tmp_path / "templates" / "test" / "mail"
    mail.mkdir(parents=True)
    (mail / "subject.txt").write_text("Hello")
    (mail / "body.txt").write_text("Hi")
    people(database, text_of(A, WAIT, B))
    stand(database, "wait", since="36 hours", due="12 hours")
    (tmp_path / "e.yaml").write_text(
        text_of(A, WAIT.replace("2d", "1h"), B, publish="publish: {max_immediate_sends: 2}\n")
    )
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database_url)
    monkeypatch.setenv("DRIPFLEET_TEMPLATES", str(tmp_path / "templates"))
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    commands.register(app)
    told = CliRunner().invoke(app, ["sequence", "plan", "e.yaml"])
    assert told.exit_code == 0, told.output
    [found] = json.loads(told.stdout)
    assert found["effect"]["due_now"] == 3
    assert [step["mails_24h"] for step in found["effect"]["steps"]] == [0, 0, 3]
    refused = CliRunner().invoke(app, ["sequence", "apply", "e.yaml"])
    assert refused.exit_code == ExitCode.FINDINGS
    assert "3 mails due at once" in refused.stderr
    done = CliRunner().invoke(app, ["sequence", "apply", "e.yaml", "--yes"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)[0]["effect"] == found["effect"]


@pytest.mark.usefixtures("short_durations")
def test_edits_while_mail_goes_out_copy_nothing_and_lose_nothing(fleet: Fleet) -> None:
    """Three edits under a planner and a send worker that run on: each person gets a, b and c once."""
    # The wait moves about, and B and C come after A and the wait in each: wherever an edit meets
    # somebody, what they have not had is before them.
    quick = WAIT.replace("2d", "1s")
    people(fleet.database, text_of(A, WAIT, B), 60)
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            fleet.scan()
            fleet.send()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        try:
            eventually(lambda: fleet.states().get("sent", 0) > 0)
            for steps in ((A, WAIT, B, C), (WAIT, A, B, C), (A, quick, B, C)):
                published(fleet.database, text_of(*steps))
            eventually(lambda: fleet.one("SELECT count(*) FROM enrollment WHERE active") == (0,))
        finally:
            stop.set()
        running.result(10)
    found = rows(fleet.database, "SELECT step_id, state::text, count(*) FROM message GROUP BY 1, 2")
    assert sorted(tuple(row) for row in found) == [(s, "sent", 60) for s in "abc"]
    ledger = fleet.sink.lines()
    assert len(ledger) == len({line.message_id for line in ledger}) == 180
    assert rows(fleet.database, "SELECT DISTINCT end_reason FROM enrollment") == [("completed",)]


SEND = "abc"
WAITS = ("w0", "w1", "w2", "local")


def definition(order: list[str], spans: list[int]) -> str:
    days = dict(zip(WAITS, spans, strict=True))
    steps = []
    for name in order:
        what = f"wait: {{delay: {days[name]}d}}" if name in WAITS else "send: {template: test/mail}"
        if name == "local":
            what = f'wait: {{calendar_days: {days[name]}, at: "09:30"}}'
        steps.append(f"  - {{id: {name}, {what}}}\n")
    return text_of(*steps)


ORDERS = st.lists(st.sampled_from((*SEND, *WAITS)), min_size=1, max_size=7, unique=True)
SPANS = st.lists(st.integers(1, 9), min_size=4, max_size=4)
HOW = st.sampled_from(("new", "begun", "mail", "held"))
PLACES = st.lists(st.tuples(st.integers(-1, 6), st.integers(0, 20), HOW), min_size=1, max_size=12)
PUT = """
UPDATE enrollment SET step_id = :step,
    step_started_at = CASE WHEN :begun THEN clock_timestamp() - make_interval(hours => :ago) END,
    due_at = CASE WHEN :mail THEN NULL WHEN :held THEN 'infinity'
                  ELSE clock_timestamp() + make_interval(hours => :left) END,
    parked_from = CASE WHEN :held THEN clock_timestamp() END
WHERE subscriber_id = :id
"""
LOOK = text("""
SELECT id, step_id, step_started_at IS NOT NULL AS begun, NULLIF(due_at, 'infinity') AS due_at,
    parked_from, active, end_reason, sequence_version, wait_rule ->> 'kind' AS kind,
    wait_rule ->> 'to' AS goes
FROM enrollment ORDER BY id
""")


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(before=ORDERS, after=ORDERS, was=SPANS, now=SPANS, places=PLACES)
def test_apply_does_what_plan_said(
    crowd: tuple[Database, list[int]],
    before: list[str],
    after: list[str],
    was: list[int],
    now: list[int],
    places: list[tuple[int, int, str]],
) -> None:
    database, ids = crowd
    with database.engine.connect() as connection, connection.begin() as change:
        try:
            _one_edit(connection, ids, before, after, (was, now), places)
        finally:
            change.rollback()


@pytest.fixture
def crowd(database: Database) -> tuple[Database, list[int]]:
    execute(database, "INSERT INTO topic (key, title) VALUES ('news', 'n')")
    return database, seeds.subscribers(database, 12)


def _one_edit(
    connection: Connection,
    ids: list[int],
    before: list[str],
    after: list[str],
    spans: tuple[list[int], list[int]],
    places: list[tuple[int, int, str]],
) -> None:
    def put(source: str) -> Published:
        loaded = reads(source, "e.yaml")
        return publish(connection, loaded, source, {"test/mail": seeds.MAIL}, yes=True)

    put(definition(before, spans[0]))
    for id_, (place, days, how) in zip(ids, places, strict=False):
        step = before[place] if 0 <= place < len(before) else None
        mail = step is not None and step in SEND and how == "mail"
        begun = mail or (step in WAITS and how != "new")
        connection.execute(
            text(
                "INSERT INTO enrollment (sequence_key, sequence_version, subscriber_id, due_at)"
                " VALUES ('edited', 1, :id, clock_timestamp())"
            ),
            {"id": id_},
        )
        connection.execute(
            text(PUT),
            {"step": step, "begun": begun, "ago": days * 12, "left": days * 7 - 9, "mail": mail,
             "held": how == "held", "id": id_},
        )  # fmt: skip
    stood = connection.execute(LOOK).all()
    new = definition(after, spans[1])
    said = preview(connection, reads(new, "e.yaml"), {"test/mail": seeds.MAIL}).effect
    done = put(new)
    if said is None:
        assert not done.changed
        return
    assert done.effect == said
    stands = connection.execute(LOOK).all()
    assert len(stood) == said.people == len(places)
    assert all(row.sequence_version == 2 for row in stands)
    counted: dict[str, Counter[str]] = {
        what: Counter() for what in ("moved", "entered", "retimed", "removed")
    }
    due_now = 0
    for there, here in zip(stood, stands, strict=True):
        times = [(row.due_at, row.parked_from) for row in (there, here)]
        if not here.active or (here.kind == "edited" and here.goes is None):
            counted["removed"][there.step_id] += 1
        elif here.step_id != there.step_id or here.kind == "edited":
            counted["moved"][there.step_id] += 1
            counted["entered"][here.goes or here.step_id] += 1
            assert times[0] == times[1]
        elif times[0] != times[1]:
            counted["retimed"][here.step_id] += 1
            assert here.begun and there.begun
            clock = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
            was_due, is_due = (due or held for due, held in times)
            due_now += was_due > clock >= is_due
        if there.step_id in after or there.step_id is None:
            assert here.active and here.step_id == there.step_id
    assert due_now == said.due_now
    for what, found in counted.items():
        assert {s.id: getattr(s, what) for s in said.steps if getattr(s, what)} == found, what
    assert put(new).changed is False
