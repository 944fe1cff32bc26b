"""What an operator does about a mail by hand: try it again, or settle its doubt. `verify` agrees."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from sqlalchemy import text

from models.session import Database
from tasks.moves.doubt import hold_back, resolve
from tasks.moves.operate import Operated, failed_of, last_id, retry
from tasks.moves.settings import DeliverySettings
from tasks.moves.settle import Verdict, doubts, settle
from tasks.moves.stop import stop_subscriber
from tasks.send.render import Bundle
from tasks.upkeep.verify import VerifySettings, verify
from tests.live import seeds
from tests.live.fleet import Fleet, Make, eventually
from workers.cli import main
from workers.cli.render import ExitCode

BROKEN = Bundle("test/mail", {"subject.txt": "{{ nobody.knows }}", "body.txt": "Hi."})
EXITS = """
key: exits
title: Exits on failure
class: marketing
topic: news
entry: {manual: true}
steps:
  - {id: mail, send: {template: test/mail}, on_fail: exit}
"""


def again(database: Database, *ids: int, late: bool = False, dry_run: bool = False) -> Operated:
    with database.transaction() as connection:
        return retry(connection, ids, DeliverySettings(), late=late, dry_run=dry_run)


def settled(database: Database, verdict: Verdict, *ids: int, reason: str = "") -> Operated:
    with database.transaction() as connection:
        return settle(connection, ids, verdict, DeliverySettings(), reason=reason)


def reasons(told: Operated) -> dict[int, str]:
    return {refusal.id: refusal.reason for refusal in told.refused}


def clean(database: Database) -> bool:
    report = verify(database, DeliverySettings(), VerifySettings())
    return report.clean or pytest.fail(str([f for f in report.findings if f.count]))


def script(database: Database, statement: str, **values: Any) -> None:
    with database.transaction() as connection:
        connection.execute(text(statement), values)


def work_until(fleet: Fleet, state: str, n: int) -> None:
    """Plan and send until `n` messages are in this state."""

    def there() -> bool:
        fleet.scan()
        fleet.send()
        return len(ids(fleet, state)) >= n

    eventually(there)


def ids(fleet: Fleet, state: str) -> list[int]:
    with fleet.database.transaction() as connection:
        query = text("SELECT id FROM message WHERE state = CAST(:s AS message_state) ORDER BY id")
        return list(connection.execute(query, {"s": state}).scalars())


def test_a_mail_whose_template_was_mended_goes_out_and_its_sequence_goes_on(fleet: Fleet) -> None:
    fleet.enrolled(2, seeds.TWO_MAILS, BROKEN)
    fleet.send()
    fleet.scan()
    first = ids(fleet, "failed")
    assert len(first) == 2
    # Both enrollments have gone on to the wait behind the mail.
    assert fleet.one("SELECT count(*) FROM enrollment WHERE step_id = 'wait'")[0] == 2
    seeds.template(fleet.database, seeds.MAIL)
    assert again(fleet.database, *first).done == first
    assert fleet.states() == {"scheduled": 2}
    assert clean(fleet.database)
    assert reasons(again(fleet.database, *first)) == dict.fromkeys(first, "not_failed")
    fleet.send()
    work_until(fleet, "sent", 4)
    fleet.scan()
    assert fleet.states() == {"sent": 4}
    assert len(fleet.sink.lines()) == 4
    assert fleet.one("SELECT count(*) FROM enrollment WHERE end_reason = 'completed'")[0] == 2
    assert clean(fleet.database)


def test_an_enrollment_that_left_for_the_failure_is_opened_again(fleet_with: Make) -> None:
    fleet = fleet_with("dot:554,limit=1")
    fleet.enrolled(1, EXITS)
    fleet.send()
    fleet.scan()
    (failed,) = ids(fleet, "failed")
    assert fleet.one("SELECT end_reason FROM enrollment")[0] == "failed"
    assert again(fleet.database, failed, dry_run=True).done == [failed]
    assert fleet.states() == {"failed": 1}
    assert again(fleet.database, failed).done == [failed]
    assert fleet.one("SELECT active, step_id FROM enrollment") == (True, "mail")
    fleet.send()
    fleet.scan()
    assert fleet.states() == {"sent": 1}
    assert fleet.one("SELECT end_reason FROM enrollment")[0] == "completed"
    assert clean(fleet.database)


def test_whom_a_retry_could_harm_it_leaves_alone(fleet_with: Make) -> None:
    fleet = fleet_with("dot:554,limit=6")
    people = fleet.enrolled(7, seeds.TWO_MAILS)
    fleet.send()
    fleet.scan()
    sent, failed = ids(fleet, "sent"), ids(fleet, "failed")
    assert (len(sent), len(failed)) == (1, 6)
    of = {row: fleet.one("SELECT subscriber_id, enrollment_id FROM message WHERE id = :i", i=row)
          for row in failed}  # fmt: skip
    # One went on to the second mail, the others are moved by hand.
    moved_on, stopped, goal, opted_out, late, fine = failed
    script(
        fleet.database,
        "UPDATE enrollment SET due_at = CASE WHEN id = :id THEN clock_timestamp() - interval '1 s'"
        " ELSE clock_timestamp() + interval '1 day' END WHERE active",
        id=of[moved_on][1],
    )
    fleet.scan()
    fleet.send()
    with fleet.database.transaction() as connection:
        stop_subscriber(connection, of[stopped][0], "unsubscribe")
    script(
        fleet.database,
        "UPDATE enrollment SET active = false, ended_at = now(), end_reason = 'goal', due_at = NULL"
        " WHERE id = :id",
        id=of[goal][1],
    )
    script(
        fleet.database,
        "UPDATE consent SET opted_in = false WHERE subscriber_id = :id",
        id=of[opted_out][0],
    )
    script(
        fleet.database,
        "UPDATE message SET expires_at = now() - interval '1 s' WHERE id = :id",
        id=late,
    )
    told = again(fleet.database, *failed, *sent, 10**9)
    assert told.done == [fine]
    assert reasons(told) == {
        moved_on: "moved_on", stopped: "stopped", goal: "ended", opted_out: "opted_out",
        late: "late", sent[0]: "not_failed", 10**9: "unknown",
    }  # fmt: skip
    assert again(fleet.database, late, late=True).done == [late]
    assert len(people) == 7 and clean(fleet.database)
    fleet.send()
    assert fleet.one("SELECT state::text FROM message WHERE id = :id", id=late)[0] == "sent"
    assert clean(fleet.database)


def test_of_two_failed_mails_of_an_enrollment_the_earlier_one_comes_first(fleet: Fleet) -> None:
    fleet.enrolled(1, seeds.TWO_MAILS, BROKEN)
    fleet.send()
    work_until(fleet, "failed", 2)
    first, second = ids(fleet, "failed")
    told = again(fleet.database, second, first)
    assert told.done == [first] and reasons(told) == {second: "moved_on"}
    assert clean(fleet.database)


def test_a_mail_that_the_planner_makes_meanwhile_is_seen(fleet: Fleet) -> None:
    fleet.enrolled(1, seeds.TWO_MAILS, BROKEN)
    fleet.send()
    fleet.scan()
    (failed,) = ids(fleet, "failed")
    told: list[Operated] = []
    hand = threading.Thread(target=lambda: told.append(again(fleet.database, failed)))
    with fleet.database.transaction() as planner:
        planner.execute(text("SELECT id FROM enrollment FOR NO KEY UPDATE"))
        hand.start()
        waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        eventually(lambda: planner.execute(waits).scalar_one() > 0)
        planner.execute(
            text(
                "INSERT INTO message (effect_key, rfc_message_id, stream, sequence_key, step_id,"
                " enrollment_id, subscriber_id, template, run_at)"
                " SELECT 'x', 'x', stream, sequence_key, 'second', enrollment_id, subscriber_id,"
                " template, now() FROM message"
            )
        )
        planner.execute(text("UPDATE enrollment SET due_at = NULL, step_id = 'second'"))
    hand.join(10)
    assert reasons(told[0]) == {failed: "moved_on"}


def test_the_failed_of_a_sequence_are_found_in_batches(fleet: Fleet) -> None:
    fleet.enrolled(5, seeds.ONE_MAIL.format(class_="marketing", template="test/mail"), BROKEN)
    fleet.send()
    failed = ids(fleet, "failed")
    with fleet.database.transaction() as connection:
        last = last_id(connection)
        some = failed_of(connection, "one-mail", after=0, last=last, n=3)
        rest = failed_of(connection, "one-mail", after=some[-1], last=last, n=3)
        assert some + rest == failed
        assert not failed_of(connection, "one-mail", after=0, last=last, reason="refused")
        assert not failed_of(connection, "one-mail", after=0, last=last, step="other")
        assert not failed_of(connection, "one-mail", after=0, last=last - 5)


@pytest.fixture
def doubted(fleet_with: Make) -> tuple[Fleet, list[int]]:
    """Three mails in doubt that wait for an operator; the far end has all of them."""
    fleet = fleet_with("dot:accept_then_drop,limit=3")
    script(fleet.database, "UPDATE stream SET doubt_policy = 'hold'")
    fleet.enrolled(3)
    fleet.send()
    held = ids(fleet, "in_doubt")
    assert len(held) == 3
    return fleet, held


def test_an_operators_word_settles_doubts_and_is_kept(doubted: tuple[Fleet, list[int]]) -> None:
    fleet, (sent, dropped, resent) = doubted
    with fleet.database.transaction() as connection:
        assert [each.id for each in doubts(connection, "marketing")] == [sent, dropped, resent]
        assert not doubts(connection, "transactional")
    assert settled(fleet.database, "sent", sent, reason="in the relay's log").done == [sent]
    assert settled(fleet.database, "drop", dropped).done == [dropped]
    assert settled(fleet.database, "resend", resent).done == [resent]
    assert fleet.states() == {"sent": 1, "failed": 1, "scheduled": 1}
    assert fleet.one("SELECT evidence FROM attempt WHERE message_id = :id", id=sent)[0] == (
        "operator: arrived; in the relay's log"
    )
    assert clean(fleet.database)
    told = settled(fleet.database, "resend", sent, dropped, resent)
    assert set(reasons(told).values()) == {"not_in_doubt"}
    fleet.send()
    fleet.scan()
    assert fleet.states() == {"sent": 2, "failed": 1}
    assert len(fleet.sink.lines()) == 4
    assert clean(fleet.database)
    # Dropped, and tried again after all: nobody doubts it any more.
    assert again(fleet.database, dropped).done == [dropped]
    fleet.send()
    assert fleet.states() == {"sent": 3}
    assert clean(fleet.database)


def test_evidence_that_comes_after_a_lawful_resend_is_no_fault(
    doubted: tuple[Fleet, list[int]],
) -> None:
    fleet, (first, *_) = doubted
    settled(fleet.database, "resend", first)
    fleet.send()
    # What a journal that turns up late writes over the operator's word.
    script(
        fleet.database,
        "UPDATE attempt SET outcome = 'accepted', evidence = 'journal', ended_at = clock_timestamp()"
        " WHERE message_id = :id AND epoch = 1",
        id=first,
    )
    assert clean(fleet.database)
    script(fleet.database, "DELETE FROM decision WHERE kind = 'settled'")
    report = verify(fleet.database, DeliverySettings(), VerifySettings())
    assert [f.name for f in report.findings if f.count] == ["I2"]


def test_what_a_policy_assumed_may_be_known_better_but_not_sent_again(
    doubted: tuple[Fleet, list[int]],
) -> None:
    fleet, (first, second, third) = doubted
    script(fleet.database, "UPDATE stream SET doubt_policy = 'assume_sent'")
    script(fleet.database, "UPDATE message SET watch_at = now()")
    with fleet.database.transaction() as connection:
        assert resolve(connection) == {"sent_assumed": 3}
    fleet.scan()
    ended = fleet.one("SELECT max(ended_at) FROM enrollment")
    assert reasons(settled(fleet.database, "resend", third)) == {third: "not_in_doubt"}
    settled(fleet.database, "sent", first)
    settled(fleet.database, "drop", second)
    assert fleet.states() == {"sent": 1, "failed": 1, "sent_assumed": 1}
    assert fleet.one("SELECT max(ended_at) FROM enrollment") == ended
    assert clean(fleet.database)


def test_a_quarantined_mail_that_never_left_here_is_settled_too(fleet: Fleet) -> None:
    fleet.enrolled(3)
    queued = ids(fleet, "scheduled")
    with fleet.database.transaction() as connection:
        assert hold_back(connection, [(row, 0) for row in queued], "quarantine") == 3
    sent, dropped, resent = queued
    settled(fleet.database, "sent", sent, reason="restored from a dump; the relay has it")
    settled(fleet.database, "drop", dropped)
    settled(fleet.database, "resend", resent)
    assert clean(fleet.database)
    fleet.send()
    fleet.scan()
    assert fleet.states() == {"sent": 2, "failed": 1}
    assert clean(fleet.database)


def test_the_command_line_tries_again_and_settles(
    doubted: tuple[Fleet, list[int]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fleet, (first, second, third) = doubted
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", fleet.database.url)

    def said(*arguments: str) -> Any:
        assert main(list(arguments)) == ExitCode.OK
        return json.loads(capsys.readouterr().out)

    assert [row["id"] for row in said("doubt", "list")] == [first, second, third]
    dry = said(
        "doubt", "resolve", str(first), "--as", "drop", "--reason", "log of mx1", "--dry-run"
    )
    assert dry == {"resolved": 1, "refused": {}, "as": "drop", "dry_run": True}
    assert fleet.states() == {"in_doubt": 3}
    said("doubt", "resolve", str(first), str(second), "--as", "drop", "--reason", "log of mx1")
    assert said("retry", "--sequence", "one-mail", "--since", "1h", "--dry-run")["retried"] == 2
    listed = said("retry", "--list", "--reason", "operator", "--sequence", "one-mail")
    assert [(row["id"], row["retry"]) for row in listed] == [(second, "yes"), (first, "yes")]
    assert said("retry", "--list", "--reason", "poison") == []
    assert len(said("retry", "--list", "--most", "1")) == 1
    script(
        fleet.database,
        "UPDATE subscriber SET stopped_at = now(), stopped_reason = 'unsubscribe' WHERE id ="
        " (SELECT subscriber_id FROM message WHERE id = :id)",
        id=second,
    )
    assert said("retry", "--list")[0]["retry"] == "no: its subscriber was stopped"
    script(fleet.database, "UPDATE subscriber SET stopped_at = NULL, stopped_reason = NULL")
    assert said("retry", str(first))["retried"] == 1
    assert said("retry", "--sequence", "one-mail", "--reason", "operator") == {
        "retried": 1, "refused": {}, "dry_run": False,
    }  # fmt: skip
    assert said("retry", str(first)) == {
        "retried": 0, "refused": {"not_failed": 1}, "dry_run": False,
    }  # fmt: skip
    assert main(["retry", "99999999"]) == ExitCode.FAULT
    assert "no message has this id: 99999999" in capsys.readouterr().err
    for wrong in (
        ["retry"],
        ["retry", "1", "--sequence", "one-mail"],
        ["retry", "1", "--since", "2h"],
        ["retry", str(2**64)],
        ["retry", "1", "--list"],
        ["retry", "--sequence", "one-mail", "--since", "soon"],
        ["doubt", "resolve", str(first), "--as", "sent", "--reason", "a\nb"],
        ["doubt", "resolve", str(first), "--as", "sent", "--reason", " "],
        ["doubt", "resolve", str(first), "--as", "sent"],
        ["doubt", "resolve", "--as", "sent", "--reason", "x"],
        ["doubt", "resolve", str(first), "--all", "--as", "sent", "--reason", "x"],
    ):
        assert main(wrong) == ExitCode.USAGE, wrong
    assert main(["doubt", "list", "--stream", "mars"]) == ExitCode.FAULT
    assert main(["retry", "--sequence", "mars"]) == ExitCode.FAULT
