"""From a sequence file to an immutable version, and what is refused on the way."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from sqlalchemy import text
from typer.testing import CliRunner

from models.session import Database
from schedules.findings import DefinitionError
from schedules.loader import reads
from tasks.errors import Permanent
from tasks.send.render import Bundle
from tasks.sequence.publish import Published, publish
from tests.live import seeds
from workers.cli import sequence as commands
from workers.cli.render import ExitCode

Command = Callable[..., Any]


def published(database: Database, source: str, bundle: Bundle = seeds.MAIL) -> Published:
    with database.transaction() as connection:
        return publish(connection, reads(source, "test.yaml"), source, {bundle.name: bundle})


def rows(database: Database, sql: str) -> list[tuple[Any, ...]]:
    with database.transaction() as connection:
        return [tuple(row) for row in connection.execute(text(sql))]


@pytest.fixture
def topic(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(text("INSERT INTO topic (key, title) VALUES ('news', 'News')"))


@pytest.fixture
def command(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The `sequence` commands, in a folder with one good file and its template."""
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database_url)
    monkeypatch.setenv("DRIPFLEET_TEMPLATES", str(tmp_path / "templates"))
    monkeypatch.chdir(tmp_path)
    template(tmp_path)
    (tmp_path / "good.yaml").write_text(seeds.TWO_MAILS)
    app = typer.Typer()
    commands.register(app)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def template(folder: Path, body: str = "Hi {{ subscriber.first_name }}") -> None:
    mail = folder / "templates" / "test" / "mail"
    mail.mkdir(parents=True, exist_ok=True)
    (mail / "subject.txt").write_text("Hello")
    (mail / "body.txt").write_text(body)


def test_an_identical_definition_makes_no_new_version(database: Database, topic: None) -> None:
    first = published(database, seeds.TWO_MAILS)
    again = published(database, "# a comment\n" + seeds.TWO_MAILS)
    assert first == Published("two-mails", 1, True, ("test/mail",))
    assert again == Published("two-mails", 1, False, ())
    assert rows(database, "SELECT version, source FROM sequence_version") == [(1, seeds.TWO_MAILS)]


def test_a_new_version_takes_those_under_way_with_it(database: Database, topic: None) -> None:
    published(database, seeds.TWO_MAILS)
    seeds.enroll(database, "two-mails", seeds.subscribers(database, 1))
    again = published(database, seeds.TWO_MAILS.replace("Two mails", "Another title"))
    assert (again.version, again.changed) == (2, True)
    assert rows(database, "SELECT sequence_version FROM enrollment") == [(2,)]
    assert rows(database, "SELECT title, version FROM sequence") == [("Another title", 2)]


def test_a_changed_template_is_new_without_a_new_version(database: Database, topic: None) -> None:
    published(database, seeds.TWO_MAILS)
    other = Bundle("test/mail", {"subject.txt": "New", "body.txt": "words"})
    again = published(database, seeds.TWO_MAILS, other)
    assert (again.version, again.changed, again.templates) == (1, False, ("test/mail",))
    assert rows(database, "SELECT sha256 FROM template") == [(other.sha256,)]
    assert len(rows(database, "SELECT 1 FROM template_source")) == 2


def test_a_topic_that_is_not_there_is_refused_and_nothing_written(database: Database) -> None:
    with pytest.raises(Permanent, match="--create-topics"):
        published(database, seeds.TWO_MAILS)
    assert rows(database, "SELECT 1 FROM template_source UNION ALL SELECT 1 FROM sequence") == []


def test_two_who_publish_at_once_make_one_version(database: Database, topic: None) -> None:
    done: list[Published] = []
    with database.transaction() as connection:
        publish(
            connection, reads(seeds.TWO_MAILS, "a.yaml"), seeds.TWO_MAILS, {"test/mail": seeds.MAIL}
        )
        other = threading.Thread(target=lambda: done.append(published(database, seeds.TWO_MAILS)))
        other.start()
        until = time.monotonic() + 10
        while not rows(
            database, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        ):
            assert time.monotonic() < until, "the second publisher never waited"
    other.join(10)
    assert [(each.version, each.changed) for each in done] == [(1, False)]


def test_apply_publishes_makes_the_topic_and_says_what_is_new(
    command: Command, database: Database
) -> None:
    result = command("sequence", "apply", "good.yaml", "--create-topics")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == [
        {
            "key": "two-mails",
            "version": 1,
            "changed": True,
            "templates": ["test/mail"],
            "effect": None,
        }
    ]
    assert "made the topic 'news'" in result.stderr
    assert rows(database, "SELECT stream, topic FROM sequence") == [("marketing", "news")]


def test_one_bad_file_keeps_all_of_them_from_being_applied(
    command: Command, database: Database, topic: None
) -> None:
    Path("bad.yaml").write_text(seeds.TWO_MAILS.replace("title:", "titel:"))
    result = command("sequence", "apply", "good.yaml", "bad.yaml")
    assert isinstance(result.exception, DefinitionError)
    assert str(result.exception).startswith("bad.yaml:")
    assert "'titel'" in str(result.exception)
    assert rows(database, "SELECT 1 FROM sequence") == []


def test_validate_warns_of_a_name_that_is_near_one_that_was_seen(
    command: Command, database: Database, topic: None
) -> None:
    with database.transaction() as connection:
        for name in ("signup", "purchase", "purchase"):
            connection.execute(
                text("INSERT INTO event (subscriber_id, name, occurred_at) VALUES (1, :n, now())"),
                {"n": name},
            )
        connection.execute(
            text("INSERT INTO segment_run (segment, artifact) VALUES ('value', 'x')")
        )
    rules = "exit:\n  - {event: purhcase, reason: bought}\n  - {event: new, reason: other}\n"
    Path("near.yaml").write_text(seeds.TWO_MAILS.replace("steps:", f"{rules}steps:"))
    result = command("sequence", "validate", "near.yaml")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["warnings"][:1] == [
        "near.yaml:8:13: no event 'purhcase' was ever seen here; did you mean 'purchase'?"
    ]


def test_validate_finds_the_missing_template_and_topic_at_their_place(command: Command) -> None:
    Path("other.yaml").write_text(seeds.TWO_MAILS.replace("test/mail", "test/none"))
    result = command("sequence", "validate", "other.yaml")
    assert result.exit_code == ExitCode.FINDINGS
    found = json.loads(result.stdout)["findings"]
    assert [(each["line"], each["message"].partition(":")[0]) for each in found] == [
        (5, "topic 'news' does not exist"),
        (8, "template 'test/none' of step 'first' does not exist"),
        (10, "template 'test/none' of step 'second' does not exist"),
    ]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("one\n{{ 1 // 0 }}", "test/mail/body.txt line 2"),
        ("{{ subscriber.frist_name }}", "'frist_name' is not defined"),
        ("{% if %}", "test/mail/body.txt line 1"),
        ("{{ 'a'.ljust(10**9) }}", "test/mail"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "test/mail"),
    ],
)  # fmt: skip
def test_a_template_that_raises_or_explodes_is_refused_in_one_sentence(
    command: Command, database: Database, topic: None, tmp_path: Path, body: str, said: str
) -> None:
    template(tmp_path, body)
    result = command("sequence", "apply", "good.yaml")
    assert isinstance(result.exception, DefinitionError)
    [finding] = result.exception.findings
    assert str(finding).startswith("good.yaml:8:")
    assert said in finding.message and "\n" not in finding.message
    assert rows(database, "SELECT 1 FROM sequence") == []


def test_an_attribute_that_some_lack_is_told_by_id_and_not_refused(
    command: Command, database: Database, topic: None, tmp_path: Path
) -> None:
    ids = seeds.subscribers(database, 3)
    with database.transaction() as connection:
        connection.execute(
            text('UPDATE subscriber SET attributes = \'{"plan": "pro"}\' WHERE id <> :id'),
            {"id": ids[0]},
        )
    template(tmp_path, "You have {{ subscriber.attributes.plan }}")
    result = command("sequence", "apply", "good.yaml")
    assert result.exit_code == 0, result.output
    assert f"'plan' is not defined; correct it, or give it `| default(…)`: it would not reach subscriber {ids[0]}\n" in result.stderr  # fmt: skip
    assert "@" not in result.stderr


def test_an_attribute_that_no_subscriber_has_is_refused(
    command: Command, database: Database, topic: None, tmp_path: Path
) -> None:
    seeds.subscribers(database, 3)
    template(tmp_path, "You have {{ subscriber.attributes.plna }}")
    result = command("sequence", "apply", "good.yaml")
    assert isinstance(result.exception, DefinitionError)
    assert "none of 3 sample subscribers has it" in str(result.exception)


def test_a_pause_holds_and_a_resume_wakes(command: Command, database: Database) -> None:
    command("sequence", "apply", "good.yaml", "--create-topics")
    seeds.enroll(database, "two-mails", seeds.subscribers(database, 2))
    with database.transaction() as connection:
        connection.execute(text("UPDATE enrollment SET parked_from = due_at, due_at = 'infinity'"))
    assert "paused 'two-mails'" in command("sequence", "pause", "two-mails", "--reason", "x").stderr
    [shown] = json.loads(command("sequence", "list").stdout)
    assert (shown["pause_reason"], shown["active"]) == ("x", 2)
    resumed = command("sequence", "resume", "two-mails")
    assert "2 enrollments and messages were woken" in resumed.stderr
    assert rows(database, "SELECT 1 FROM enrollment WHERE parked_from IS NOT NULL") == []


def test_show_counts_who_stands_at_which_step(command: Command, database: Database) -> None:
    command("sequence", "apply", "good.yaml", "--create-topics")
    ids = seeds.subscribers(database, 3)
    seeds.enroll(database, "two-mails", ids)
    with database.transaction() as connection:
        connection.execute(
            text("UPDATE enrollment SET step_id = 'wait' WHERE subscriber_id = :id"), {"id": ids[0]}
        )
    shown = json.loads(command("sequence", "show", "two-mails").stdout)
    assert [(s["id"], s["what"], s["waiting"]) for s in shown["steps"]] == [
        ("first", "send test/mail", 0),
        ("wait", "wait 1s", 1),
        ("second", "send test/mail", 0),
    ]
    assert shown["not_begun"] == 2


def test_a_sequence_that_is_not_there_is_one_sentence(command: Command) -> None:
    for arguments in (["show", "no"], ["pause", "no", "--reason", "x"], ["resume", "no"]):
        result = command("sequence", *arguments)
        assert isinstance(result.exception, Permanent)
        assert "no sequence 'no' is published" in str(result.exception)
