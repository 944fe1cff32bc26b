"""Subscribers in, through CSV, into a real Postgres."""

from __future__ import annotations

import io
import json
import stat
import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from models.session import Database
from tasks.audience.importer import Tally, import_subscribers
from tasks.audience.rejects import Rejects
from tasks.audience.store import Subscriber, ensure_topic, find, get, stop, topics
from tasks.errors import Misconfigured, Permanent
from workers.cli import main
from workers.cli.render import ExitCode

SECRET = b"a secret of the tests"


def bring(
    database: Database,
    content: str,
    *,
    rejects: Rejects | None = None,
    dry_run: bool = False,
    chunk: int = 3,
) -> Tally:
    return import_subscribers(
        database,
        io.BytesIO(content.encode()),
        name="people.csv",
        secret=SECRET,
        rejects=rejects or Rejects(None),
        dry_run=dry_run,
        chunk=chunk,
    )


def who(database: Database, address: str) -> Subscriber:
    with database.transaction() as connection:
        return get(connection, address, SECRET)


def count(database: Database, table: str = "subscriber") -> int:
    with database.transaction() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def people(n: int, plan: str = "pro") -> str:
    rows = (f"p{i}@example.com,Zoë {i},crm-{i},de_at,Europe/Vienna,{plan}\n" for i in range(n))
    return "email,first_name,external_id,locale,zone,plan\n" + "".join(rows)


def test_a_file_becomes_subscribers_and_a_second_time_changes_nothing(database: Database) -> None:
    first = bring(database, people(10))
    assert (first.new, first.rows) == (10, 10)
    zoe = who(database, "P3@Example.com")
    assert (zoe.first_name, zoe.external_id) == ("Zoë 3", "crm-3")
    assert (zoe.locale, zoe.zone, zoe.attributes) == ("de-AT", "Europe/Vienna", {"plan": "pro"})
    again = bring(database, people(10))
    assert (again.new, again.updated, again.unchanged) == (0, 0, 10)
    assert who(database, "p3@example.com") == zoe


def test_a_change_is_an_update_and_attributes_are_merged(database: Database) -> None:
    bring(database, people(4))
    tally = bring(database, "email,plan,city\np0@example.com,max,Graz\np1@example.com,pro,\n")
    assert (tally.updated, tally.unchanged) == (1, 1)
    changed = who(database, "p0@example.com")
    assert changed.attributes == {"plan": "max", "city": "Graz"}
    assert changed.first_name == "Zoë 0"


def test_what_is_empty_in_the_file_overwrites_nothing(database: Database) -> None:
    bring(database, people(1))
    before = who(database, "p0@example.com")
    tally = bring(database, "email,first_name,external_id,locale,zone,plan\np0@example.com,,,,,\n")
    assert tally.unchanged == 1
    assert who(database, "p0@example.com") == before


def test_an_import_never_touches_a_stop_nor_the_spelling_of_an_address(database: Database) -> None:
    bring(database, people(1))
    with database.transaction() as connection:
        stop(connection, get(connection, "p0@example.com", SECRET).id, "unsubscribe")
    stopped = who(database, "p0@example.com")
    tally = bring(database, "email,plan\nP0@example.com,max\n")
    assert tally.updated == 1
    after = who(database, "p0@example.com")
    assert after.attributes["plan"] == "max"
    assert (after.stopped_at, after.stopped_reason) == (stopped.stopped_at, "unsubscribe")
    assert after.address == "p0@example.com"


@pytest.mark.parametrize("chunk", [1, 2, 100])
@pytest.mark.parametrize("dry_run", [False, True])
def test_of_two_rows_with_one_address_the_later_wins_whatever_the_chunk(
    database: Database, chunk: int, dry_run: bool
) -> None:
    content = "email,plan,city\na@x.de,pro,Graz\nb@x.de,pro,\nA@x.de,max,\na@x.de,,Linz\n"
    tally = bring(database, content, chunk=chunk, dry_run=dry_run)
    assert (tally.new, tally.updated, tally.duplicates, tally.rows) == (2, 0, 2, 4)
    if not dry_run:
        assert who(database, "a@x.de").attributes == {"plan": "max", "city": "Linz"}


def test_a_dry_run_says_the_same_and_writes_nothing(database: Database) -> None:
    bring(database, people(5))
    content = people(4) + "p4@example.com,Anna,,,,\nnew@example.com,Jo,,,,\nbroken,,,,,\n"
    foreseen = bring(database, content, dry_run=True)
    assert (foreseen.new, foreseen.updated, foreseen.unchanged, foreseen.rejected) == (1, 1, 4, 1)
    assert count(database) == 5
    assert who(database, "p4@example.com").first_name == "Zoë 4"
    done = bring(database, content)
    assert (done.new, done.updated, done.unchanged, done.rejected) == (1, 1, 4, 1)


def test_bad_rows_go_to_a_private_file_with_line_and_reason_and_stop_nothing(
    database: Database, tmp_path: Path
) -> None:
    rejects = Rejects(tmp_path / "people.csv.rejects.csv")
    content = "email,plan\na@x.de,pro\nno-at,pro\nb@x.de\nc@x.de\r\nBcc: x@x.de,\nd@x.de,pro\n"
    tally = bring(database, content, rejects=rejects)
    rejects.close()
    assert (tally.new, tally.rejected) == (2, 4)
    written = (tmp_path / "people.csv.rejects.csv").read_text("utf-8").splitlines()
    assert written[0] == "line,reason,row"
    assert written[1] == '3,the address has no @,"no-at,pro"'
    assert stat.S_IMODE((tmp_path / "people.csv.rejects.csv").stat().st_mode) == 0o600


def test_there_is_no_rejects_file_where_nothing_was_refused(
    database: Database, tmp_path: Path
) -> None:
    bring(database, people(2), rejects=Rejects(tmp_path / "none.csv"))
    assert not (tmp_path / "none.csv").exists()


@pytest.mark.parametrize("chunk", [1, 100])
def test_an_external_id_that_somebody_else_has_refuses_that_row_alone(
    database: Database, chunk: int
) -> None:
    bring(database, "email,external_id\na@x.de,1\n")
    content = "email,external_id\nb@x.de,1\nc@x.de,2\nd@x.de,2\ne@x.de,3\n"
    tally = bring(database, content, chunk=chunk)
    assert (tally.new, tally.rejected, tally.rows) == (2, 2, 4)
    with database.transaction() as connection:
        assert get(connection, "1", SECRET).address == "a@x.de"
        assert find(connection, "d@x.de", SECRET) is None


def test_unknown_zones_and_locales_are_left_out_and_counted(database: Database) -> None:
    tally = bring(database, "email,zone,locale\na@x.de,Mars/Phobos,??\nb@x.de,Asia/Tokyo,ja\n")
    assert (tally.new, tally.unknown_zones, tally.unknown_locales) == (2, 1, 1)
    assert (who(database, "a@x.de").zone, who(database, "a@x.de").locale) == (None, None)


def test_a_stopped_import_leaves_whole_chunks_and_goes_on_when_run_again(
    database: Database,
) -> None:
    def interrupt(tally: Tally) -> None:
        if tally.rows >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_subscribers(
            database,
            io.BytesIO(people(20).encode()),
            name="people.csv",
            secret=SECRET,
            rejects=Rejects(None),
            chunk=3,
            on_chunk=interrupt,
        )
    assert count(database) == 6
    tally = bring(database, people(20))
    assert (tally.new, tally.unchanged) == (14, 6)


def test_two_imports_of_the_same_people_at_once_both_succeed(database: Database) -> None:
    tallies: list[Tally] = []

    def run(plan: str) -> None:
        tallies.append(bring(database, people(3_000, plan), chunk=500))

    threads = [threading.Thread(target=run, args=(plan,)) for plan in ("pro", "max")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tallies) == 2
    assert sum(tally.new for tally in tallies) == count(database) == 3_000


def test_another_secret_than_the_stored_one_is_refused_before_anything_is_written(
    database: Database,
) -> None:
    bring(database, people(1))
    with pytest.raises(Misconfigured, match="DRIPFLEET_SECRET_ADDRESS"):
        import_subscribers(
            database,
            io.BytesIO(people(1).encode()),
            name="people.csv",
            secret=b"some other secret",
            rejects=Rejects(None),
        )
    assert count(database) == 1


def test_a_file_takes_consent_away_but_never_gives_back_what_was_withdrawn(
    database: Database,
) -> None:
    def opted() -> dict[str, object]:
        with database.transaction() as connection:
            rows = connection.execute(
                text("SELECT address, opted_in FROM consent JOIN subscriber ON id = subscriber_id")
            )
            return {row.address: row.opted_in for row in rows}

    content = "email,topic:news\na@x.de,yes\nb@x.de,no\nc@x.de,\nd@x.de,perhaps\n"
    tally = bring(database, content)
    assert (tally.consents, tally.rejected) == (2, 1)
    assert opted() == {"a@x.de": True, "b@x.de": False}
    assert bring(database, content).consents == 0
    with database.transaction() as connection:
        assert [topic["key"] for topic in topics(connection)] == ["news"]
        assert not ensure_topic(connection, "news")
        connection.execute(text("UPDATE consent SET opted_in = false, source = 'unsubscribe'"))
    bring(database, content)
    assert opted() == {"a@x.de": False, "b@x.de": False}


def test_a_file_without_an_email_column_writes_nothing(database: Database) -> None:
    with pytest.raises(Permanent, match="no column email"):
        bring(database, "mail,plan\na@x.de,pro\n")
    assert count(database) == 0


@pytest.fixture
def environment(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database_url)
    monkeypatch.setenv("DRIPFLEET_SECRET_ADDRESS", SECRET.decode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_import_show_and_stop(
    environment: Path, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    (environment / "people.csv").write_text(people(3) + "broken,,,,,\n", "utf-8")
    assert main(["subscribers", "import", "people.csv", "--dry-run"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["new"] == 3
    assert not (environment / "people.csv.rejects.csv").exists()
    assert main(["subscribers", "import", "people.csv"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert json.loads(out)["rejected"] == 1
    assert "people.csv.rejects.csv" in err and "no @" in err
    assert (environment / "people.csv.rejects.csv").exists()
    stopping = ["subscribers", "stop", "p0@example.com", "--reason", "unsubscribe"]
    assert main([*stopping, "--dry-run"]) == ExitCode.OK
    assert who(database, "p0@example.com").stopped_at is None
    assert main(stopping) == ExitCode.OK
    capsys.readouterr()
    assert main(["subscribers", "show", "crm-0", "--json"]) == ExitCode.OK
    shown = json.loads(capsys.readouterr().out)
    assert shown["subscriber"]["stopped_reason"] == "unsubscribe"
    assert shown["messages"] == []


def test_nobody_by_that_name_is_one_sentence(
    environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["subscribers", "show", "nobody@example.com"]) == ExitCode.FAULT
    err = capsys.readouterr().err
    assert "nobody@example.com" in err and len(err.splitlines()) == 1


def test_a_typed_column_becomes_a_number_or_a_reason(database: Database, tmp_path: Path) -> None:
    file = "email,spent:number,orders:int\na@example.com,12.50,3\nb@example.com,nan,3\n"
    rejects = tmp_path / "rejects.csv"
    refused = Rejects(rejects)
    tally = bring(database, file, rejects=refused)
    refused.close()
    assert (tally.new, tally.rejected) == (1, 1)
    with database.transaction() as connection:
        attributes = connection.execute(text("SELECT attributes FROM subscriber")).scalar_one()
    assert attributes == {"spent": 12.5, "orders": 3}
    assert "column spent:number holds something that is not a number" in rejects.read_text()


def test_a_dry_run_counts_the_consents_that_would_be_written(database: Database) -> None:
    bring(database, "email,external_id,topic:news\na@x.de,1,yes\nb@x.de,2,no\n")
    # One changes, one stays, one is new, and of one the id is another's.
    content = "email,external_id,topic:news\na@x.de,1,no\nb@x.de,2,no\nc@x.de,3,yes\nd@x.de,1,yes\n"
    foreseen = bring(database, content, dry_run=True)
    assert foreseen.consents == 2
    assert bring(database, content).consents == 2
