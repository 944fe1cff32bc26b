"""Why a mail went or did not, from a real planner, a real send worker and the sink's replies."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import SecretStr
from sqlalchemy import text
from typer.testing import CliRunner

from models.session import Database
from tasks import names
from tasks.audience.address import address_hmac
from tasks.errors import Permanent
from tasks.moves import pause as pauses
from tasks.moves.settings import DeliverySettings, IdentitySettings
from tasks.moves.stop import stop_subscriber
from tasks.moves.tick import ticked
from tasks.send.dossier import dossier
from tasks.send.service import Service
from tasks.send.settings import SendSettings
from tasks.sequence.explain import Explanation, explain, in_zone
from tasks.sequence.store import Planner
from tasks.upkeep.overview import Overview, overview
from tests.live import seeds
from workers.cli import message as commands
from workers.cli import status as status_command
from workers.embedded.sink import Sink

SECRET = SecretStr("a secret of the tests")
Command = Callable[..., Any]


class Fleet:
    """One subscriber in a sequence of two mails; planner and send worker, without Celery."""

    def __init__(self, database: Database, sink: Sink, folder: Path) -> None:
        self.database = database
        self.settings = SendSettings(
            smtp_url=SecretStr(sink.url), secret_token=SECRET, journal_dir=folder, connections=2
        )
        self.planner = Planner(
            database, IdentitySettings(secret_message_id=SECRET), dt.timedelta(days=3)
        )
        self.service = Service(database, self.settings)
        [self.id] = seeds.subscribers(database, 1)
        self.address = "person1@example.com"
        source = seeds.TWO_MAILS.replace("1s", "2d")
        seeds.enroll(database, seeds.sequence(database, source), [self.id])
        self.write(
            "UPDATE subscriber SET address_hmac = :identity",
            identity=address_hmac(SECRET.get_secret_value().encode(), self.address),
        )

    def write(self, sql: str, **parameters: Any) -> None:
        with self.database.transaction() as connection:
            connection.execute(text(sql), parameters)

    def scan(self) -> None:
        self.planner.scan()
        with self.database.transaction() as connection:
            ticked(connection, "sequence.scan")

    def send(self) -> None:
        ticket = self.service.store.answer("marketing", 10)
        assert ticket is not None, "nothing was due"
        assert "open" not in ticket.wait(15)

    def told(self, key: str | None = None) -> Explanation:
        with self.database.snapshot() as connection:
            return explain(connection, self.id, key)

    def overview(self) -> Overview:
        with self.database.snapshot() as connection:
            return overview(connection)


@pytest.fixture
def fleet(
    database: Database, sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fleet]:
    for name, value in DeliverySettings().shortened(100).environment().items():
        monkeypatch.setenv(name, value)
    fleet = Fleet(database, sink, tmp_path / "journals")
    yield fleet
    fleet.service.loop.drain()
    assert fleet.service.loop.join(10)


@pytest.fixture
def command(database_url: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> Command:
    secret = SECRET.get_secret_value()
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database_url)
    monkeypatch.setenv("DRIPFLEET_REDIS_URL", valkey_url)
    monkeypatch.setenv("DRIPFLEET_SECRET_ADDRESS", secret)
    monkeypatch.setenv("DRIPFLEET_SECRET_TOKEN", secret)
    app = typer.Typer()
    commands.register(app)
    status_command.register(app)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_the_whole_way_is_told_in_order_and_so_is_what_comes_next(fleet: Fleet) -> None:
    [line] = fleet.told().next
    assert "the planner has not looked yet, and never did: is beat running?" in line
    fleet.scan()
    [line] = fleet.told().next
    assert "message 1 is due, for" in line
    assert "no send worker was ever seen: is one running?" in line
    fleet.send()
    [line] = fleet.told().next
    assert "due now, for" in line and "at first; the planner looked" in line
    fleet.scan()
    told = fleet.told("two-mails")
    assert told.next[0].startswith("two-mails: waits until 20")
    assert told.next[0].endswith("at wait")
    said = [line.text for line in told.lines]
    assert said[0] == "enrolled, in version 1"
    assert said[1].startswith("first: the mail was handed over")
    assert "attempt 1: the relay took it (250" in said[2]
    assert said[3].endswith("ended: sent")
    assert said[4].startswith("wait: waits until")
    assert [line.at for line in told.lines] == sorted(line.at for line in told.lines)


def test_a_step_is_told_by_what_became_of_its_mail(fleet: Fleet) -> None:
    def step(id_: str) -> str:
        with fleet.database.snapshot() as connection:
            told = explain(connection, fleet.id, "two-mails", id_)
        assert {line.step for line in told.lines} <= {id_}
        return told.step or ""

    assert step("second") == "second: has not been come to yet; they have not begun"
    fleet.scan()
    assert step("first") == ("first: message 1 is under way; the last line says what it waits for")
    fleet.send()
    fleet.scan()
    assert step("first") == "first: message 1 was sent"
    assert step("wait").startswith("wait: waits until 20")
    assert step("second") == "second: has not been come to yet; they stand at wait"
    fleet.write("UPDATE consent SET opted_in = false")
    fleet.write("UPDATE enrollment SET due_at = clock_timestamp()")
    fleet.scan()
    assert step("second") == (
        "second: message 2 was not sent (suppressed): they opted out of its topic, and only they can"
        " opt in again"
    )
    with pytest.raises(Permanent, match="no step 'secnod'; did you mean 'second'"):
        step("secnod")


def test_a_step_that_nobody_came_to_is_told_by_where_the_way_ended(fleet: Fleet) -> None:
    with fleet.database.transaction() as connection:
        stop_subscriber(connection, fleet.id, "unsubscribe")
    with fleet.database.snapshot() as connection:
        told = explain(connection, fleet.id, "two-mails", "second")
    assert told.step == "second: was not come to; the way ended at the start: they unsubscribed"


def test_times_are_told_by_the_clock_of_the_subscriber() -> None:
    line = "wait: waits until 2026-03-08 07:00:00 UTC, which is 2026-03-08 02:30:00 there"
    assert in_zone(line, "America/New_York") == (
        "wait: waits until 2026-03-08 03:00:00-04:00, which is 2026-03-08 02:30:00 there"
    )
    assert in_zone("2026-01-01 00:00:00 UTC", "Asia/Kolkata") == "2026-01-01 05:30:00+05:30"
    assert in_zone(line, None) == line


def test_a_pause_is_named_with_its_reason_while_it_holds_the_mail(fleet: Fleet) -> None:
    with fleet.database.transaction() as connection:
        pauses.pause(connection, "two-mails", "wrong price")
    fleet.scan()
    [line] = fleet.told().next
    assert line.startswith("two-mails: held: sequence is paused since")
    assert "(wrong price); at first, due since" in line
    assert any("held, because of sequence paused" in each.text for each in fleet.told().lines)


def test_a_stop_is_told_with_its_time_and_nothing_comes_after(fleet: Fleet) -> None:
    fleet.scan()
    with fleet.database.transaction() as connection:
        stop_subscriber(connection, fleet.id, "unsubscribe")
    told = fleet.told()
    said = [line.text for line in told.lines]
    assert "stopped: unsubscribe" in said
    assert any(each.endswith("ended: suppressed, because of unsubscribe") for each in said)
    assert told.next == ["two-mails: nothing more: unsubscribe"]


def test_who_never_entered_is_told_so(fleet: Fleet) -> None:
    fleet.write("DELETE FROM enrollment")
    assert "was never in any sequence" in fleet.told().next[0]
    with pytest.raises(Permanent, match="no sequence 'no' is published"):
        fleet.told("no")


def test_explain_finds_people_by_address_and_says_when_there_is_nobody(
    fleet: Fleet, command: Command
) -> None:
    found = json.loads(command("explain", fleet.address.upper()).stdout)
    assert found["subscriber_id"] == fleet.id
    assert found["lines"][0]["text"] == "enrolled, in version 1"
    result = command("explain", "nobody@example.com")
    assert isinstance(result.exception, Permanent)
    assert result.exit_code == 1


def test_a_shown_message_is_byte_for_byte_what_was_sent(fleet: Fleet, command: Command) -> None:
    fleet.scan()
    before = json.loads(command("message", "show", "1").stdout)
    assert before["content"]["is"].startswith("as it would be if it were claimed now")
    fleet.send()
    shown = json.loads(command("message", "show", "1").stdout)
    assert shown["message"]["state"] == "sent"
    assert shown["content"]["likeness"] == "same"
    assert shown["content"]["headers"]["To"] == fleet.address
    assert shown["content"]["headers"]["Subject"] == "Hello Zoë"
    assert shown["content"]["text"].strip() == "Hi."
    assert [a["code"] for a in shown["attempts"]] == [250]
    by_message_id = command("message", "show", shown["message"]["rfc_message_id"].strip("<>"))
    assert json.loads(by_message_id.stdout) == shown


def test_a_mail_that_would_be_another_now_is_said_to_differ(fleet: Fleet) -> None:
    fleet.scan()
    fleet.send()
    other = fleet.settings.model_copy(update={"postal_address": "elsewhere", "sender_name": "Else"})
    with fleet.database.snapshot() as connection:
        mail = dossier(connection, "1", other).mail
        none = dossier(connection, "1", None)
    assert mail is not None and mail.likeness == "differs"
    assert none.mail is None and "settings of the send pool" in str(none.why_not)


@pytest.mark.parametrize("reference", ["2", "<no@example.com>", "99999999999999999999", "٣"])
def test_a_message_that_is_not_there_is_one_sentence(fleet: Fleet, reference: str) -> None:
    with fleet.database.snapshot() as connection, pytest.raises(Permanent, match="no message is"):
        dossier(connection, reference, fleet.settings)


def test_the_overview_counts_each_message_where_it_stands(fleet: Fleet) -> None:
    view = fleet.overview()
    assert (view.enrolled, view.active, view.to_plan, view.planned) == (1, 1, 1, 0)
    fleet.scan()
    view = fleet.overview()
    assert (view.due, view.planned, view.to_plan, view.sent, view.exact) == (1, 1, 0, 0, True)
    fleet.send()
    fleet.scan()
    after = fleet.overview()
    assert (after.due, after.planned, after.sent, after.failed) == (0, 1, 1, 0)
    assert after.sent_per_second(view) > 0
    [sequence] = after.sequences
    assert (sequence.active, sequence.waiting, sequence.sent) == (1, 1, 1)
    assert [tick.name for tick in after.ticks] == ["sequence.scan"]


def test_counts_that_met_their_bound_are_said_to_be_no_exact_ones(fleet: Fleet) -> None:
    fleet.scan()
    with fleet.database.snapshot() as connection:
        view = overview(connection, most=1, most_people=1)
    assert (view.due, view.exact, view.people_exact) == (1, False, False)
    assert fleet.overview().exact and fleet.overview().people_exact


def test_a_held_message_is_no_trouble_to_any_command(fleet: Fleet, command: Command) -> None:
    fleet.scan()
    with fleet.database.transaction() as connection:
        pauses.pause(connection, "two-mails", "x")
        pauses.park(connection)
    [line] = fleet.told().next
    assert line.startswith("two-mails: held: sequence is paused")
    assert json.loads(command("message", "show", "1").stdout)["message"]["run_at"] is None
    status = json.loads(command("status").stdout)
    assert (status["due"], status["later"]) == (0, 1)
    assert status["queues"] == dict.fromkeys((*names.POOLS, *names.QUEUE_OF.values()), 0)


def test_status_says_so_when_redis_is_not_there(
    fleet: Fleet, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIPFLEET_REDIS_URL", "redis://127.0.0.1:1/0")
    result = command("status")
    assert result.exit_code == 0
    assert "Redis does not answer" in json.loads(result.stdout)["queues"]
