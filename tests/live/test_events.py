"""Events in, through CSV, each one of a source once."""

from __future__ import annotations

import datetime as dt
import io
import json
from pathlib import Path

import pytest
from sqlalchemy import text

from models.session import Database
from tasks.audience.events import EventTally, import_events
from tasks.audience.importer import import_subscribers
from tasks.audience.rejects import Rejects
from tasks.audience.shift import fix_shift
from tasks.errors import Permanent
from workers.cli import main
from workers.cli.render import ExitCode
from workers.demo import customers as demo

SECRET = b"a secret of the tests"
HEADER = "email,external_id,name,occurred_at,source_id,amount\n"
EVENTS = (
    HEADER
    + "a@x.de,,purchase,1998-06-30T10:00:00+02:00,1,9.50\n"
    + ",crm-b,purchase,1998-06-01,2,\n"
    + "B@x.de,,visit,1998-06-02 12:00,3,\n"
)


@pytest.fixture(autouse=True)
def subscribers(database: Database) -> None:
    bring_subscribers(database, "email,external_id\na@x.de,crm-a\nb@x.de,crm-b\n")


def bring_subscribers(database: Database, content: str) -> None:
    import_subscribers(
        database,
        io.BytesIO(content.encode()),
        name="people.csv",
        secret=SECRET,
        rejects=Rejects(None),
    )


def bring(
    database: Database,
    content: str = EVENTS,
    *,
    source: str = "shop",
    rejects: Rejects | None = None,
    shift: bool = False,
    dry_run: bool = False,
    chunk: int = 2,
) -> EventTally:
    return import_events(
        database,
        io.BytesIO(content.encode()),
        name="events.csv",
        source=source,
        secret=SECRET,
        rejects=rejects or Rejects(None),
        shift_to_today=shift,
        dry_run=dry_run,
        chunk=chunk,
    )


def recorded(database: Database) -> list[tuple[str, str, dt.datetime, dict[str, str]]]:
    with database.transaction() as connection:
        rows = connection.execute(
            text(
                "SELECT address, name, occurred_at, properties FROM event"
                " JOIN subscriber s ON s.id = subscriber_id ORDER BY occurred_at"
            )
        )
        return [(r.address, r.name, r.occurred_at.astimezone(dt.UTC), r.properties) for r in rows]


def test_events_are_recorded_for_their_subscribers_with_what_else_the_row_says(
    database: Database,
) -> None:
    tally = bring(database)
    assert (tally.new, tally.known, tally.rejected) == (3, 0, 0)
    assert recorded(database) == [
        ("b@x.de", "purchase", dt.datetime(1998, 6, 1, tzinfo=dt.UTC), {}),
        ("b@x.de", "visit", dt.datetime(1998, 6, 2, 12, tzinfo=dt.UTC), {}),
        ("a@x.de", "purchase", dt.datetime(1998, 6, 30, 8, tzinfo=dt.UTC), {"amount": "9.50"}),
    ]


def test_an_event_of_a_source_is_recorded_once_and_of_another_source_again(
    database: Database,
) -> None:
    twice = EVENTS + "a@x.de,,purchase,1998-06-30,1,\n"
    assert (bring(database, twice).new, bring(database, twice).new) == (3, 0)
    assert bring(database, twice).known == 4
    assert bring(database, source="till").new == 3
    assert len(recorded(database)) == 6


def test_an_event_of_somebody_unknown_can_come_again_once_they_are_there(
    database: Database,
) -> None:
    content = EVENTS + "late@x.de,,visit,1998-06-03,4,\n"
    rejects = Rejects(None)
    tally = bring(database, content, rejects=rejects)
    assert (tally.new, tally.rejected) == (3, 1)
    assert rejects.first[0][0] == 5
    bring_subscribers(database, "email\nlate@x.de\n")
    assert bring(database, content).new == 1


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ("a@x.de,,,1998-06-30,9,", "name is empty"),
        ("a@x.de,,visit,yesterday,9,", "ISO 8601"),
        ("a@x.de,,visit,9999-12-31T23:59:00-10:00,9,", "years 1 to 9999"),
        ("a@x.de,,visit,1998-06-30,,", "source_id is empty"),
        (",,visit,1998-06-30,9,", "whose event"),
        ("broken,,visit,1998-06-30,9,", "no @"),
    ],
)
def test_a_bad_row_is_refused_with_its_reason_and_stops_nothing(
    database: Database, row: str, word: str
) -> None:
    tally = bring(database, HEADER + row + "\na@x.de,,visit,1998-06-30,10,\n")
    assert (tally.new, tally.rejected) == (1, 1)
    assert word in tally.first[0][1]


def test_the_shift_puts_the_last_event_on_yesterday_and_keeps_the_time_of_day(
    database: Database,
) -> None:
    tally = bring(database, shift=True)
    yesterday = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)
    last = recorded(database)[-1][2]
    # Midnight may pass between the import and here.
    assert last.date() in (yesterday, yesterday - dt.timedelta(days=1))
    assert (last.hour, tally.shift % dt.timedelta(days=1)) == (8, dt.timedelta())


def test_the_shift_of_a_source_is_fixed_by_its_first_import(database: Database) -> None:
    first = bring(database, shift=True)
    later = HEADER + "a@x.de,,visit,1998-07-10,20,\n"
    asked = bring(database, later, shift=True)
    unasked = bring(database, HEADER + "a@x.de,,visit,1998-06-30,21,\n")
    assert first.shift == asked.shift == unasked.shift > dt.timedelta()
    assert asked.shift_fixed_before and unasked.shift_fixed_before
    assert not first.shift_fixed_before
    unshifted = bring(database, source="till")
    assert bring(database, source="till", shift=True).shift == unshifted.shift == dt.timedelta()


def test_a_dry_run_writes_neither_events_nor_the_shift(database: Database) -> None:
    foreseen = bring(database, shift=True, dry_run=True)
    assert (foreseen.new, foreseen.shift > dt.timedelta()) == (3, True)
    assert recorded(database) == []
    assert bring(database).shift == dt.timedelta()


def test_a_file_without_its_columns_is_refused_in_one_sentence(database: Database) -> None:
    with pytest.raises(Permanent, match="no column source_id"):
        bring(database, "email,name,occurred_at\n")
    with pytest.raises(Permanent, match="neither a column email"):
        bring(database, "name,occurred_at,source_id\n")
    with pytest.raises(Permanent, match="nothing to shift by"):
        bring(database, HEADER, shift=True)
    assert bring(database).shift == dt.timedelta(), "what was refused has fixed no shift"


def test_the_demo_takes_the_same_way_in_and_its_dates_agree(database: Database) -> None:
    with database.transaction() as connection:
        shift = fix_shift(connection, demo.SOURCE, demo.LAST_PURCHASE)
    tally = import_subscribers(
        database,
        demo.subscribers_csv(300, shift),
        name="customers",
        secret=SECRET,
        rejects=Rejects(None),
    )
    assert (tally.new, tally.consents, tally.rejected) == (300, 300, 0)
    events = import_events(
        database,
        demo.events_csv(300),
        name="purchases",
        source=demo.SOURCE,
        secret=SECRET,
        rejects=Rejects(None),
        shift_to_today=True,
    )
    assert (events.rejected, events.shift) == (0, shift)
    assert events.new == len(list(demo.purchases(300)))
    with database.transaction() as connection:
        disagree = connection.execute(
            text(
                "SELECT count(*) FROM subscriber s WHERE external_id LIKE 'cdnow-%'"
                " AND (attributes->>'last_purchase')::date IS DISTINCT FROM ("
                "  SELECT max(occurred_at AT TIME ZONE 'UTC')::date FROM event e"
                "  WHERE e.subscriber_id = s.id)"
            )
        ).scalar_one()
    assert disagree == 0


def test_the_command_reads_a_file_and_says_how_far_dates_moved(
    database: Database,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database_url)
    monkeypatch.setenv("DRIPFLEET_SECRET_ADDRESS", SECRET.decode())
    (tmp_path / "shop.csv").write_text(EVENTS, "utf-8")
    command = ["events", "import", str(tmp_path / "shop.csv"), "--shift-to-today", "--json"]
    assert main(command) == ExitCode.OK
    out, err = capsys.readouterr()
    assert json.loads(out)["new"] == 3
    assert "'shop' move by" in err
    assert main(command) == ExitCode.OK
    out, err = capsys.readouterr()
    assert json.loads(out)["known"] == 3
    assert "first import" in err
