"""Cron lines in Postgres: applied as a whole, each instant once, to its end or on record as missed."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import typer
from sqlalchemy import text
from typer.testing import CliRunner

from models.migrate import downgrade, migrate
from models.session import Database
from schedules.cron import reads
from schedules.findings import DefinitionError
from schedules.localtime import TZDATA_VERSION, local
from tasks import names
from tasks.errors import Permanent
from tasks.sequence import crontab, fire, timetable
from tasks.sequence.cron import look
from tasks.sequence.enroll import BATCH
from tests.live import seeds
from workers.cli import schedules as commands

# Due every fourth year, and else when a test says so; in a zone whose clocks never change.
CRON = "0 9 29 2 *"
ZONE = "UTC"
LINE = f"{{key: news, cron: '{CRON}', zone: {ZONE}, target: {{sequence: two-mails, audience: all}}"


@pytest.fixture
def key(database: Database) -> str:
    return seeds.sequence(database, seeds.TWO_MAILS)


def apply(database: Database, *lines: str) -> dict[str, str]:
    source = "".join(f"  - {line}}}\n" for line in lines)
    loaded = reads(f"schedules:\n{source}" if lines else "schedules: []\n", "cron.yaml")
    with database.transaction() as connection:
        assert crontab.findings(connection, loaded) == []
        return {each.key: each.change for each in crontab.apply(connection, loaded)}


def ask(database: Database, sql: str, **parameters: Any) -> list[Any]:
    with database.transaction() as connection:
        done = connection.execute(text(sql), parameters)
        return list(done) if done.returns_rows else []


def fires(database: Database) -> list[tuple[str, str | None]]:
    rows = ask(
        database,
        "SELECT state, detail ->> 'reason' FROM schedule_fire ORDER BY schedule_key, fire_at",
    )
    return [(row[0], row[1]) for row in rows]


def down_since(database: Database, ago: str, key: str = "news") -> None:
    """As if nobody had looked since a fire that was due that long ago."""
    (row,) = ask(database, "SELECT clock_timestamp() - CAST(:ago AS interval)", ago=ago)
    due_at(database, row[0], key)


def due_at(database: Database, instant: dt.datetime, key: str = "news") -> None:
    ask(
        database,
        "UPDATE schedule SET next_fire_at = :at, next_wall = :wall WHERE key = :key",
        at=instant,
        wall=local(instant, ZONE),
        key=key,
    )


def work(
    database: Database, ring: Callable[[str], bool] | None = None, budget: float = 30
) -> dict[str, int]:
    return fire.work(database, budget=budget, ring=ring or (lambda name: False))


def entered(database: Database) -> int:
    return int(ask(database, "SELECT count(*) FROM enrollment")[0][0])


def test_a_file_is_applied_as_what_differs(database: Database, key: str) -> None:
    other = LINE.replace("news", "other")
    assert apply(database, LINE, other) == {"news": "added", "other": "added"}
    assert apply(database, LINE, other) == {"news": "unchanged", "other": "unchanged"}
    before = ask(database, "SELECT next_fire_at FROM schedule WHERE key = 'news'")
    assert apply(database, LINE.replace("0 9", "30 7")) == {"news": "changed", "other": "removed"}
    after = ask(database, "SELECT next_fire_at FROM schedule WHERE key = 'news'")
    assert before != after and local(after[0][0], ZONE).time() == dt.time(7, 30)
    assert [row.key for row in ask(database, "SELECT key FROM schedule")] == ["news"]


def test_a_change_that_is_not_of_the_time_keeps_the_time(database: Database, key: str) -> None:
    apply(database, LINE)
    down_since(database, "1 hour")
    assert apply(database, f"{LINE}, catch_up: all, max_lateness: 2h") == {"news": "changed"}
    assert look(database).claimed == 1


def some_are(database: Database, n: int) -> None:
    """Of so many a condition holds: the last ones, behind a batch of others."""
    ask(
        database,
        """UPDATE subscriber SET attributes = '{"vip"\\: true}' WHERE id IN
           (SELECT id FROM subscriber ORDER BY id DESC LIMIT :n)""",
        n=n,
    )


SEGMENT = LINE.replace("audience: all", "segment: 'sub.vip == true'")


def test_a_fire_of_a_segment_enrolls_those_and_goes_on_behind_a_batch_of_none(
    database: Database, key: str
) -> None:
    seeds.subscribers(database, BATCH + 20)
    some_are(database, 7)
    ask(database, "UPDATE subscriber SET stopped_at = now(), stopped_reason = 'unsubscribe'"
        " WHERE id = (SELECT max(id) FROM subscriber)")  # fmt: skip
    apply(database, SEGMENT)
    down_since(database, "5 seconds")
    assert look(database).claimed == 1
    assert work(database)["entered"] == entered(database) == 6
    (row,) = ask(database, "SELECT state, detail, after_id FROM schedule_fire")
    assert row.state == "done" and row.detail["stopped"] == 1 and row.detail["enrolled"] == 6
    with database.transaction() as connection:
        (line,) = timetable.listed(connection)
    assert line.does == "enroll those with sub.vip == true into two-mails"


def test_a_fire_of_a_segment_goes_on_after_a_crash_in_its_middle(
    database: Database, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds.subscribers(database, BATCH + 20)
    some_are(database, BATCH + 10)
    apply(database, SEGMENT)
    down_since(database, "5 seconds")
    look(database)
    assert work(database, budget=0.001)["entered"] <= BATCH
    first = entered(database)
    ask(database, "UPDATE schedule_fire SET lease_until = NULL, retry_at = NULL")
    work(database)
    assert first < entered(database) == BATCH + 10


def test_what_is_wrong_with_a_segment_is_said_where_it_stands(database: Database, key: str) -> None:
    unknown = LINE.replace("audience: all", "segment: topic('newz')")
    loaded = reads(f"schedules:\n  - {unknown}}}\n", "cron.yaml")
    with database.transaction() as connection:
        (finding,) = crontab.findings(connection, loaded)
    assert str(finding).startswith("cron.yaml:2:87: ") and "did you mean 'news'?" in str(finding)


def test_a_worker_of_before_takes_no_segment_for_everybody(database: Database, key: str) -> None:
    """It looks for `sequence` and `audience`: a line that it cannot read has neither."""
    apply(database, SEGMENT)
    (row,) = ask(database, "SELECT target FROM schedule")
    assert row.target == {"into": "two-mails", "segment": "sub.vip == true"}


def test_a_fire_runs_once_however_many_look_and_work(database: Database, key: str) -> None:
    seeds.subscribers(database, 40)
    apply(database, LINE)
    down_since(database, "5 seconds")
    with ThreadPoolExecutor(4) as pool:
        looked = list(pool.map(lambda _: look(database), range(12)))
        done = list(pool.map(lambda _: work(database), range(12)))
    assert sum(each.claimed for each in looked) == 1
    assert sum(each["done"] for each in done) == 1 and sum(each["entered"] for each in done) == 40
    assert fires(database) == [("done", None)] and entered(database) == 40
    assert not look(database).waiting
    (row,) = ask(database, "SELECT next_fire_at > clock_timestamp() FROM schedule")
    assert row[0]


def test_an_instant_that_has_fired_never_fires_again(database: Database, key: str) -> None:
    apply(database, LINE)
    down_since(database, "5 seconds")
    (row,) = ask(database, "SELECT next_fire_at FROM schedule")
    look(database)
    work(database)
    # A line that is taken away and comes back, on a clock that was set back.
    apply(database)
    apply(database, LINE)
    due_at(database, row[0])
    assert look(database).claimed == 0 and len(fires(database)) == 1


def test_each_fire_brings_in_who_is_new(database: Database, key: str) -> None:
    apply(database, LINE)
    for total in (3, 5):
        seeds.subscribers(database, total - entered(database), domain=f"{total}.example")
        down_since(database, "5 seconds")
        look(database)
        work(database)
        assert entered(database) == total
    with database.snapshot() as connection:
        (line,) = timetable.listed(connection)
    assert (line.entered, line.missed, line.last_state) == (5, 0, "done")
    assert line.does == "enroll everybody into two-mails"


class Killed(BaseException):
    """What ends a process without a chance to tidy up."""


def test_who_dies_in_the_middle_is_gone_on_for_and_counts_once(
    database: Database, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds.subscribers(database, 5003)
    apply(database, LINE)
    down_since(database, "5 seconds")
    look(database)
    whole = fire._Work._batch

    def dies(self: Any, connection: Any) -> str | None:
        if self.entered:
            raise Killed
        return whole(self, connection)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fire._Work, "_batch", dies)
        work(database)
    assert entered(database) == 5000 and fires(database) == [("claimed", None)]
    assert not look(database).waiting  # its lease stands
    ask(database, "UPDATE schedule_fire SET lease_until = clock_timestamp() - interval '1 s'")
    assert look(database).waiting
    assert work(database)["entered"] == 3
    ((state, detail, epoch),) = ask(database, "SELECT state, detail, epoch FROM schedule_fire")
    assert (state, epoch) == ("done", 2)
    assert (detail["enrolled"], detail["already_enrolled"]) == (5003, 0)


def test_who_lost_the_lease_writes_nothing(database: Database, key: str) -> None:
    seeds.subscribers(database, 2)
    apply(database, LINE)
    down_since(database, "5 seconds")
    look(database)
    with database.transaction() as connection:
        stale = connection.execute(fire.TAKE, {"lease": dt.timedelta(0)}).one()
    assert work(database)["done"] == 1
    assert fire._Work(database, stale).run(float("inf"), lambda name: True) == ""
    ((detail,),) = ask(database, "SELECT detail FROM schedule_fire")
    assert detail["enrolled"] == 2


def test_what_a_doorbell_cannot_finish_the_next_one_does(database: Database, key: str) -> None:
    seeds.subscribers(database, 2)
    apply(database, LINE)
    down_since(database, "5 seconds")
    look(database)
    assert fire.work(database, budget=0, ring=bool)["done"] == 0
    with database.transaction() as connection:
        taken = connection.execute(fire.TAKE, {"lease": fire.LEASE}).one()
    assert fire._Work(database, taken).run(0, lambda name: True) == ""
    assert look(database).waiting and work(database)["done"] == 1


@pytest.mark.parametrize(
    ("catch_up", "found"),
    [
        ("latest", ["too_late", "superseded", None]),
        ("all", ["too_late", None, None]),
        ("skip", ["too_late", "skipped", "skipped"]),
    ],
)
def test_after_downtime_a_line_catches_up_as_it_says(
    database: Database, key: str, catch_up: str, found: list[str | None]
) -> None:
    (row,) = ask(database, "SELECT date_trunc('minute', clock_timestamp()) - interval '150 m'")
    apply(
        database,
        f"{LINE.replace(CRON, f'{row[0].minute} * * * *')}, catch_up: {catch_up}, max_lateness: 2h",
    )
    due_at(database, row[0])
    looked = look(database)
    assert fires(database) == [("missed" if each else "claimed", each) for each in found]
    assert (looked.claimed, looked.missed) == (found.count(None), 3 - found.count(None))


def test_a_long_downtime_is_caught_up_in_short_transactions(database: Database, key: str) -> None:
    apply(database, LINE.replace(CRON, "* * * * *"))
    down_since(database, "36 hours")
    looked = look(database)
    assert looked.claimed == 1 and looked.missed in (2159, 2160)
    (row,) = ask(database, "SELECT max(fire_at) FROM schedule_fire WHERE state = 'claimed'")
    (last,) = ask(database, "SELECT max(fire_at) FROM schedule_fire")
    assert row == last


def test_a_fire_that_nobody_worked_on_in_time_is_missed(database: Database, key: str) -> None:
    seeds.subscribers(database, 2)
    apply(database, LINE)
    down_since(database, "5 hours")
    look(database)
    ask(database, "UPDATE schedule_fire SET fire_at = fire_at - interval '2 hours'")
    assert work(database)["missed"] == 1
    assert fires(database) == [("missed", "too_late")] and entered(database) == 0


def test_a_fire_waits_for_a_paused_sequence_but_not_for_ever(database: Database, key: str) -> None:
    seeds.subscribers(database, 2)
    apply(database, LINE)
    pause = "UPDATE sequence SET paused_at = clock_timestamp(), pause_reason = 'price'"
    ask(database, pause)
    down_since(database, "5 seconds")
    look(database)
    assert work(database)["done"] == 0 and fires(database) == [("claimed", None)]
    with database.snapshot() as connection:
        (line,) = timetable.listed(connection)
    assert line.last_detail == "waits for sequence two-mails, which is paused"
    assert not look(database).waiting
    ask(database, "UPDATE sequence SET paused_at = NULL, pause_reason = NULL")
    ask(database, "UPDATE schedule_fire SET retry_at = NULL")
    assert work(database)["done"] == 1 and entered(database) == 2
    with database.snapshot() as connection:
        assert timetable.listed(connection)[0].last_detail is None
    ask(database, pause)
    # Half done before the pause, and too late after it.
    ask(
        database,
        "UPDATE schedule_fire SET state = 'claimed', fire_at = fire_at - interval '7 hours'",
    )
    assert work(database)["missed"] == 1
    assert fires(database) == [("missed", "sequence_paused")]


def test_a_fire_of_a_sequence_that_is_gone_has_failed(database: Database, key: str) -> None:
    apply(database, LINE)
    down_since(database, "5 seconds")
    look(database)
    ask(database, """UPDATE schedule_fire SET target = '{"sequence": "gone", "audience": "all"}'""")
    assert work(database)["failed"] == 1 and fires(database) == [("failed", "no_sequence")]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [((), "removed"), ((f"{LINE}, paused: true",), "paused")],
)
def test_a_line_that_is_taken_away_stops_what_it_began(
    database: Database, key: str, lines: tuple[str, ...], reason: str
) -> None:
    seeds.subscribers(database, 2)
    apply(database, LINE)
    down_since(database, "2 hours")
    assert look(database).waiting
    down_since(database, "5 seconds")  # due, and not looked at yet
    apply(database, *lines)
    look(database)
    assert work(database) == {"done": 0, "missed": 0, "failed": 0, "entered": 0}
    assert fires(database) == [("missed", reason)] * 2 and entered(database) == 0
    if lines:
        assert apply(database, LINE) == {"news": "changed"}
        (row,) = ask(database, "SELECT next_fire_at > clock_timestamp() FROM schedule")
        assert row[0]


def test_newer_zone_data_resolves_the_wall_time_again(database: Database, key: str) -> None:
    apply(database, LINE)
    (right,) = ask(database, "SELECT next_fire_at FROM schedule")
    old = "UPDATE schedule SET tzdata = '2020a', next_fire_at = next_fire_at - interval '1 hour'"
    ask(database, old)
    look(database)
    assert ask(database, "SELECT next_fire_at, tzdata FROM schedule") == [
        (right[0], TZDATA_VERSION)
    ]


def test_a_line_that_makes_no_sense_stops_alone(database: Database, key: str) -> None:
    apply(database, LINE, LINE.replace("news", "other"))
    down_since(database, "6 seconds")
    down_since(database, "5 seconds", "other")
    ask(database, "UPDATE schedule SET zone = 'Mars/Olympus' WHERE key = 'news'")
    assert look(database).claimed == 1
    with database.snapshot() as connection:
        news, _ = timetable.listed(connection)
    assert news.next_fire_at is None and "Mars/Olympus" in str(news.fault)
    assert apply(database, LINE) == {"news": "changed", "other": "removed"}
    (row,) = ask(database, "SELECT next_fire_at IS NOT NULL AND fault IS NULL FROM schedule")
    assert row[0]


def test_a_fault_puts_a_fire_off_and_the_tenth_ends_it(
    database: Database, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(database, LINE)
    down_since(database, "5 seconds")
    look(database)

    def faulty(self: Any, connection: Any) -> str | None:
        raise OSError("no")

    monkeypatch.setattr(fire._Work, "_batch", faulty)
    for n in range(1, fire.FAULTS + 1):
        with pytest.raises(OSError):
            work(database)
        assert not look(database).waiting
        (row,) = ask(database, "SELECT retry_at - clock_timestamp() FROM schedule_fire")
        ask(database, "UPDATE schedule_fire SET retry_at = NULL")
        if n < fire.FAULTS:
            minutes = min(2 ** (n - 1), 30)
            assert 0.9 * minutes < row[0] / dt.timedelta(minutes=1) <= minutes
        assert fires(database)[0][0] == ("failed" if n == fire.FAULTS else "claimed")


def test_a_task_is_started_by_name_and_again_if_the_broker_was_away(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(database, "{key: news, cron: '0 9 * * *', zone: UTC, target: {task: churn.score}")
    down_since(database, "5 seconds")
    look(database)
    assert work(database, lambda name: False)["done"] == 0
    ask(database, "UPDATE schedule_fire SET retry_at = NULL")
    started: list[str] = []
    assert work(database, lambda name: not started.append(name))["done"] == 1  # type: ignore[func-returns-value]
    assert started == ["churn.score"]


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("{sequence: two-mail, audience: all}", "no sequence 'two-mail' is published; did you mean 'two-mails'?"),
        ("{task: upkeep.reap}", "no task that a schedule may start"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused_where_it_stands(
    database: Database, key: str, target: str, why: str
) -> None:
    line = f"{{key: news, cron: '0 9 * * *', zone: UTC, target: {target}}}"
    with database.snapshot() as connection:
        (found,) = crontab.findings(connection, reads(f"schedules:\n  - {line}\n", "cron.yaml"))
    assert why in found.message and found.line == 2 and found.column > 55


def test_a_scan_rings_for_what_was_claimed(
    database: Database, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.sequence import entry, store

    class Idle:
        def scan(self) -> store.Scanned:
            return store.Scanned(0, 0)

        def meanwhile(self) -> int:
            return 0

    rung: list[str] = []
    monkeypatch.setattr(entry, "database", lambda: database)
    monkeypatch.setattr(entry, "planner", Idle)
    monkeypatch.setattr(entry, "ring", lambda name, payload: not rung.append(name))  # type: ignore[func-returns-value]
    apply(database, LINE)
    entry.scan.run()
    assert rung == []
    down_since(database, "5 seconds")
    entry.scan.run()
    assert rung == [names.FIRE] and names.POOL_OF[names.FIRE] == "sequence"
    assert entry.fire_schedules.run()["done"] == 1
    entry.scan.run()
    assert rung == [names.FIRE]


@pytest.fixture
def command(
    database_url: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    commands.register(app)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_the_commands_apply_list_and_foretell(
    database: Database, command: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "cron.yaml"
    file.write_text(f"schedules:\n  - {LINE}}}\n")
    dry = command("schedules", "apply", "cron.yaml", "--dry-run")
    assert json.loads(dry.stdout)[0]["change"] == "added" and "would be 1 added" in dry.stderr
    assert ask(database, "SELECT 1 FROM schedule") == []
    assert "1 added" in command("schedules", "apply", "cron.yaml").stderr
    (line,) = json.loads(command("schedules", "list", "--json").stdout)
    assert line["key"] == "news" and line["entered"] == 0 and line["next_fire_at"]
    told = json.loads(command("schedules", "next", "news", "-n", "3").stdout)
    assert len(told) == 3 and all(each["wall"].endswith("T09:00:00") for each in told)
    assert told[0]["fire_at"] == line["next_fire_at"]
    unknown = command("schedules", "next", "other").exception
    assert isinstance(unknown, Permanent) and "schedules list" in str(unknown)

    file.write_text(f"schedules:\n  - {LINE.replace('two-mails', 'gone')}}}\n")
    assert isinstance(command("schedules", "apply", "cron.yaml").exception, DefinitionError)
    assert [row.key for row in ask(database, "SELECT key FROM schedule")] == ["news"]
    file.write_text("schedules: []\n")
    assert "1 removed" in command("schedules", "apply", "cron.yaml").stderr
    nothing = command("schedules", "next")
    assert json.loads(nothing.stdout) == [] and "nothing fires" in nothing.stderr


def test_the_migration_keeps_fires_that_stand_in_both_directions(database: Database) -> None:
    assert downgrade(database, "0001") == "0001"
    ask(
        database,
        "INSERT INTO schedule_fire (schedule_key, fire_at, state) VALUES ('news', now(), 'claimed')",
    )
    migrate(database)
    assert not look(database).waiting or work(database)["missed"] == 1  # no line stands for it
    assert fires(database) == [("missed", "removed")]
    assert downgrade(database, "0001") == "0001"
    assert fires(database) == [("missed", "removed")]
    migrate(database)
