"""People into a sequence: counted, each once, in whole batches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from sqlalchemy import text
from typer.testing import CliRunner

from models.session import Database
from tasks.audience.address import address_hmac
from tasks.errors import Permanent
from tasks.sequence.enroll import BATCH, Tally, enroll_all, enroll_identities
from tests.live import seeds
from workers.cli import sequence as commands

SECRET = "a secret of the tests"
Command = Callable[..., Any]


@pytest.fixture
def key(database: Database) -> str:
    return seeds.sequence(database, seeds.TWO_MAILS)


@pytest.fixture
def command(
    database_url: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Command:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database_url)
    monkeypatch.setenv("DRIPFLEET_SECRET_ADDRESS", SECRET)
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    commands.register(app)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def write(database: Database, sql: str, **parameters: Any) -> None:
    with database.transaction() as connection:
        connection.execute(text(sql), parameters)


def count(database: Database) -> int:
    with database.transaction() as connection:
        return int(connection.execute(text("SELECT count(*) FROM enrollment")).scalar_one())


def mixed(database: Database, key: str) -> list[int]:
    """Ten people: one stopped, three suppressed (one of them for mail of another class), one in it."""
    ids = seeds.subscribers(database, 10)
    stop = "UPDATE subscriber SET stopped_at = now(), stopped_reason = 'x' WHERE id = :id"
    write(database, stop, id=ids[0])
    for place, scope in ((1, "all"), (2, "marketing"), (3, "transactional")):
        write(
            database,
            "INSERT INTO suppression (address_hmac, scope, reason)"
            " SELECT address_hmac, :scope, 'x' FROM subscriber WHERE id = :id",
            id=ids[place],
            scope=scope,
        )
    seeds.enroll(database, key, [ids[4]])
    return ids


def addresses(database: Database) -> list[str]:
    """Give everybody the identity that the settings' secret makes."""
    with database.transaction() as connection:
        rows = connection.execute(text("SELECT id, address FROM subscriber ORDER BY id")).all()
        for row in rows:
            connection.execute(
                text("UPDATE subscriber SET address_hmac = :identity WHERE id = :id"),
                {"id": row.id, "identity": address_hmac(SECRET.encode(), row.address)},
            )
    return [row.address for row in rows]


def test_a_dry_run_gives_the_same_numbers_and_writes_nothing(database: Database, key: str) -> None:
    mixed(database, key)
    expected = Tally(enrolled=6, already_enrolled=1, stopped=1, suppressed=2)
    assert enroll_all(database, key, dry_run=True) == expected
    assert count(database) == 1
    assert enroll_all(database, key) == expected
    assert count(database) == 7


def test_a_second_run_enrolls_nobody_not_even_who_has_left(database: Database, key: str) -> None:
    seeds.subscribers(database, 3)
    assert enroll_all(database, key).enrolled == 3
    write(
        database,
        "UPDATE enrollment SET active = false, due_at = NULL, ended_at = now(), end_reason = 'x'",
    )
    assert enroll_all(database, key) == Tally(already_enrolled=3)


def test_who_enters_stands_before_the_first_step_and_is_due(database: Database, key: str) -> None:
    seeds.subscribers(database, 1)
    enroll_all(database, key)
    with database.transaction() as connection:
        row = connection.execute(
            text("SELECT step_id, due_at <= clock_timestamp(), sequence_version FROM enrollment")
        ).one()
    assert tuple(row) == (None, True, 1)


def test_an_interruption_leaves_whole_batches_and_the_next_run_goes_on(
    database: Database, key: str
) -> None:
    seeds.subscribers(database, BATCH + 700)

    def stop(tally: Tally, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enroll_all(database, key, on_batch=stop)
    assert count(database) == BATCH
    assert enroll_all(database, key) == Tally(enrolled=700, already_enrolled=BATCH)


def test_nobody_enters_a_paused_sequence_or_one_that_is_not_there(
    database: Database, key: str
) -> None:
    seeds.subscribers(database, 1)
    write(database, "UPDATE sequence SET paused_at = now(), pause_reason = 'wrong price'")
    for dry_run in (True, False):
        with pytest.raises(Permanent, match=r"'two-mails' is paused since .* \(wrong price\)"):
            enroll_all(database, key, dry_run=dry_run)
    with pytest.raises(Permanent, match="no sequence 'no' is published"):
        enroll_all(database, "no")
    assert count(database) == 0


def test_identities_that_nobody_has_are_told_by_their_place(database: Database, key: str) -> None:
    seeds.subscribers(database, 2)
    with database.transaction() as connection:
        known = list(connection.execute(text("SELECT address_hmac FROM subscriber")).scalars())
    for dry_run in (True, False):
        tally = enroll_identities(
            database, key, [b"x" * 32, known[0], b"y" * 32, known[1]], dry_run=dry_run
        )
        assert (tally.enrolled, tally.unknown, tally.unknown_at) == (2, 2, (0, 2))


def test_a_list_is_taken_line_by_line_and_what_is_wrong_named_by_line(
    command: Command, database: Database, tmp_path: Path
) -> None:
    seeds.subscribers(database, 3)
    people = addresses(database)
    (tmp_path / "people.txt").write_text(
        f"\ufeff{people[0]}\n# a comment\n\n  {people[1].upper()}  \nnobody@example.com\n"
        f"no address\n{people[0]}\n{'x' * 9000}\nzo\r\n{people[2]}",
        encoding="utf-8",
    )
    expected = {
        "sequence": "two-mails", "enrolled": 3, "already_enrolled": 0, "stopped": 0,
        "suppressed": 0, "unknown": 1, "invalid_lines": 3, "repeated": 1,
    }  # fmt: skip
    for dry_run in (["--dry-run"], []):
        result = command("enqueue", "two-mails", "--emails", "people.txt", *dry_run)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout) == expected | {"dry_run": bool(dry_run)}
        assert "no subscriber has this address (line 5)" in result.stderr
    refused = (tmp_path / "people.txt.rejects.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in refused] == ["line", "6", "8", "9", "5"]
    assert count(database) == 3


def test_enqueue_says_what_it_wants_when_it_is_given_neither_or_both(command: Command) -> None:
    for arguments in ([], ["--all", "--emails", "people.txt"]):
        result = command("enqueue", "two-mails", *arguments)
        assert result.exit_code == 2
        assert "--emails FILE or --all" in result.stderr


def test_who_opted_out_of_the_topic_does_not_enter_and_who_said_nothing_yet_does(
    database: Database, key: str
) -> None:
    out, silent = seeds.subscribers(database, 2)
    write(
        database,
        "INSERT INTO consent (subscriber_id, topic, opted_in, source)"
        " VALUES (:id, 'news', false, 'preferences')",
        id=out,
    )
    receipts = seeds.sequence(
        database,
        seeds.ONE_MAIL.format(class_="transactional", template="test/mail"),
    )
    for dry_run in (True, False):
        tally = enroll_all(database, key, dry_run=dry_run)
        assert (tally.enrolled, tally.suppressed) == (1, 1)
    assert enroll_all(database, receipts, dry_run=False).enrolled == 2
    with database.transaction() as connection:
        found = connection.execute(
            text("SELECT subscriber_id FROM enrollment WHERE sequence_key = :key"), {"key": key}
        )
        assert found.scalars().all() == [silent]
