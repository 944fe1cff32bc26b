"""Word from outside settles a doubt, whoever brings it, and never makes a copy. `verify` agrees."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tasks.moves import doubt
from tasks.moves.claim import claim
from tasks.moves.evidence import Evidence, Source, Word, take_evidence
from tasks.moves.operate import Operated, retry
from tasks.moves.settings import DeliverySettings
from tasks.moves.settle import doubts, settle
from tasks.upkeep.verify import VerifySettings, verify
from tests.live import seeds
from tests.live.fleet import Fleet, Make
from workers.cli import main
from workers.cli.evidence import BadLine, read_line
from workers.cli.evidence import Source as Said
from workers.cli.render import ExitCode


def clean(fleet: Fleet) -> bool:
    report = verify(fleet.database, DeliverySettings(), VerifySettings())
    return report.clean or pytest.fail(str([f for f in report.findings if f.count]))


def script(fleet: Fleet, statement: str, **values: Any) -> None:
    with fleet.database.transaction() as connection:
        connection.execute(text(statement), values)


def told(
    fleet: Fleet,
    message: int | str,
    word: Word = "arrived",
    source: Source = "provider",
    epoch: int | None = None,
) -> str | None:
    """None where it was taken, else the reason why not."""
    with fleet.database.transaction() as connection:
        done = take_evidence(connection, [Evidence(message, word, source, epoch)])
    return done.refused[0].reason if done.refused else None


def state(fleet: Fleet, message: int) -> tuple[str, str]:
    row = fleet.one("SELECT state::text, reason FROM message WHERE id = :id", id=message)
    return row[0], row[1]


Doubted = tuple[Fleet, list[int]]


def in_doubt(fleet_with: Make, n: int, class_: str = "marketing") -> Doubted:
    fleet = fleet_with(f"dot:accept_then_drop,limit={n}")
    script(fleet, "UPDATE stream SET doubt_policy = 'hold'")
    fleet.enrolled(n, seeds.ONE_MAIL.format(class_=class_, template="test/mail"))
    fleet.send(class_)
    with fleet.database.transaction() as connection:
        held = sorted(each.id for each in doubts(connection))
    assert len(held) == n
    return fleet, held


@pytest.fixture
def held(fleet_with: Make) -> Doubted:
    """Four mails in doubt that wait for an operator; the far end has all of them."""
    return in_doubt(fleet_with, 4)


@pytest.mark.parametrize("source", ["sink", "dsn", "provider", "click"])
def test_whoever_saw_it_arrive_ends_the_doubt_and_the_sequence_goes_on(
    held: Doubted, source: Source
) -> None:
    fleet, (first, *_) = held
    message_id = fleet.one("SELECT rfc_message_id FROM message WHERE id = :id", id=first)[0]
    assert told(fleet, message_id, source=source) is None
    assert state(fleet, first) == ("sent", "evidence")
    row = fleet.one("SELECT outcome::text, evidence FROM attempt WHERE message_id = :i", i=first)
    assert tuple(row) == ("accepted", f"{source}: arrived")
    fleet.scan()
    assert fleet.one("SELECT count(*) FROM enrollment WHERE end_reason = 'completed'")[0] == 1
    assert told(fleet, first, source=source) == "answered"
    assert clean(fleet)


def test_a_bounce_ends_it_failed_and_it_may_be_tried_again(held: Doubted) -> None:
    fleet, (first, *_) = held
    assert told(fleet, first, "bounced", "dsn", 1) is None
    assert state(fleet, first) == ("failed", "bounced")
    assert fleet.one("SELECT outcome::text FROM attempt WHERE message_id = :i", i=first)[0] == (
        "in_doubt"
    )
    assert clean(fleet)
    with fleet.database.transaction() as connection:
        assert retry(connection, [first], DeliverySettings()).done == [first]
    fleet.send()
    assert state(fleet, first)[0] == "sent"
    assert clean(fleet)


def test_what_was_assumed_can_be_known_better_and_its_way_is_not_touched(held: Doubted) -> None:
    fleet, (first, second, *_) = held
    script(fleet, "UPDATE stream SET doubt_policy = 'assume_sent'")
    script(fleet, "UPDATE message SET watch_at = now()")
    with fleet.database.transaction() as connection:
        assert doubt.resolve(connection) == {"sent_assumed": 4}
    fleet.scan()
    ended = fleet.one("SELECT max(ended_at) FROM enrollment")[0]
    assert told(fleet, first) is None and told(fleet, second, "bounced") is None
    assert fleet.states() == {"sent": 1, "failed": 1, "sent_assumed": 2}
    assert fleet.one("SELECT max(ended_at) FROM enrollment")[0] == ended
    assert clean(fleet)


def test_evidence_for_the_first_copy_takes_the_resend_out_of_the_queue(held: Doubted) -> None:
    fleet, (queued, working, *_) = held
    with fleet.database.transaction() as connection:
        settle(connection, [queued, working], "resend", DeliverySettings())
    script(fleet, "UPDATE message SET run_at = 'tomorrow' WHERE id = :id", id=queued)
    with fleet.database.transaction() as connection:
        claimed = claim(connection, stream="marketing", n=9, owner="0/other", lease=60).rows
    assert [row.id for row in claimed] == [working]
    assert told(fleet, queued, epoch=1) is None and told(fleet, working, epoch=1) is None
    assert fleet.states() == {"sent": 2, "in_doubt": 2}
    assert clean(fleet)


def test_evidence_while_the_resend_is_in_the_air_is_written_and_decides_its_end(
    fleet_with: Make,
) -> None:
    fleet, (first,) = in_doubt(fleet_with, 1, "transactional")
    with fleet.database.transaction() as connection:
        settle(connection, [first], "resend", DeliverySettings())
    # As a cycle leaves it: the second try is armed, under another owner.
    with fleet.database.transaction() as connection:
        claim(connection, stream="transactional", n=9, owner="0/other", lease=60)
    script(
        fleet,
        "UPDATE message SET state = 'armed', armed_at = clock_timestamp(), attempts = 2",
    )
    assert told(fleet, first, epoch=2) == "in_flight"
    assert told(fleet, first) == "in_flight"
    assert told(fleet, first, source="click") == "several_tries"
    assert told(fleet, first, epoch=7) == "not_tried"
    assert told(fleet, first, epoch=1) is None
    assert fleet.states() == {"armed": 1}
    with fleet.database.transaction() as connection:
        doubt.doubt(connection, [doubt.Doubted(first, 2, "closed")], "0/other", DeliverySettings())
        # Its stream holds doubts for an operator, but nothing is left to be known.
        assert doubt.resolve(connection) == {"sent": 1}
    assert state(fleet, first) == ("sent", "evidence")
    assert clean(fleet)


def test_of_two_doubted_tries_a_bounce_must_say_which_and_ends_nothing_alone(
    fleet_with: Make,
) -> None:
    fleet = fleet_with("dot:accept_then_drop,limit=2")
    script(fleet, "UPDATE stream SET doubt_policy = 'hold'")
    fleet.enrolled(1, seeds.ONE_MAIL.format(class_="transactional", template="test/mail"))
    fleet.send("transactional")
    (first,) = [fleet.one("SELECT id FROM message")[0]]
    script(fleet, "UPDATE stream SET doubt_policy = 'resend', doubt_hold = NULL")
    script(fleet, "UPDATE message SET watch_at = now()")
    with fleet.database.transaction() as connection:
        assert doubt.resolve(connection) == {"scheduled": 1}
    fleet.send("transactional")
    assert fleet.states() == {"in_doubt": 1}
    assert told(fleet, first, "bounced") == "several_tries"
    assert told(fleet, first, source="click") == "several_tries"
    assert told(fleet, first, "bounced", "dsn", 1) is None
    assert fleet.states() == {"in_doubt": 1}
    assert told(fleet, first, "bounced", "dsn", 2) is None
    assert state(fleet, first) == ("failed", "bounced")
    assert clean(fleet)


def test_a_bounce_of_the_second_copy_ends_nothing_where_the_first_arrived(fleet_with: Make) -> None:
    fleet, (first,) = in_doubt(fleet_with, 1, "transactional")
    with fleet.database.transaction() as connection:
        settle(connection, [first], "resend", DeliverySettings())
        claim(connection, stream="transactional", n=9, owner="0/other", lease=60)
    script(
        fleet,
        "UPDATE message SET state = 'armed', armed_at = clock_timestamp(), attempts = 2",
    )
    assert told(fleet, first, epoch=1) is None
    with fleet.database.transaction() as connection:
        doubt.doubt(connection, [doubt.Doubted(first, 2, "closed")], "0/other", DeliverySettings())
    assert told(fleet, first, "bounced", "dsn", 2) is None
    assert fleet.states() == {"in_doubt": 1}
    with fleet.database.transaction() as connection:
        assert doubt.resolve(connection) == {"sent": 1}
    assert clean(fleet)


def test_a_bounce_ends_it_where_the_other_try_was_only_deferred(held: Doubted) -> None:
    fleet, (first, second, *_) = held
    # An earlier try of the first that the far end put off; what others got is no matter.
    script(fleet, "UPDATE attempt SET epoch = 9 WHERE message_id <> :first", first=first)
    script(fleet, "UPDATE attempt SET outcome = 'accepted' WHERE message_id = :id", id=second)
    script(
        fleet,
        "INSERT INTO attempt (message_id, epoch, owner, armed_at, content_sha256, outcome, stage, ended_at)"
        " SELECT message_id, 0, owner, armed_at, content_sha256, 'deferred', 'dot', ended_at"
        " FROM attempt WHERE message_id = :first",
        first=first,
    )
    assert told(fleet, first, "bounced", "dsn", 1) is None
    assert state(fleet, first) == ("failed", "bounced")


def test_quarantined_mail_that_the_dump_knows_nothing_of_is_settled_by_the_far_end(
    fleet: Fleet,
) -> None:
    fleet.enrolled(2)
    queued = [row.id for row in _all(fleet, "SELECT id FROM message ORDER BY id")]
    with fleet.database.transaction() as connection:
        assert doubt.hold_back(connection, [(row, 0) for row in queued], "quarantine") == 2
    script(fleet, "UPDATE message SET epoch = 1, attempts = 1 WHERE id = :id", id=queued[0])
    script(
        fleet,
        "INSERT INTO attempt (message_id, epoch, owner, armed_at, content_sha256, outcome, stage, ended_at)"
        " VALUES (:first, 1, '0/lost', now(), sha256(''), 'deferred', 'mail', now())",
        first=queued[0],
    )
    assert told(fleet, queued[0], "bounced", "dsn", 1) == "answered", "that try is known"
    assert told(fleet, queued[0], source="sink") is None
    assert told(fleet, queued[1], "bounced", "dsn", 3) is None
    assert fleet.states() == {"sent": 1, "failed": 1}
    assert clean(fleet)


def test_what_is_not_in_doubt_is_left_alone(fleet: Fleet) -> None:
    fleet.enrolled(1)
    (message,) = [row.id for row in _all(fleet, "SELECT id FROM message")]
    assert told(fleet, message) == "not_tried"
    fleet.send()
    assert told(fleet, message) == "answered"
    assert told(fleet, "<nobody@example.com>") == "unknown"
    assert told(fleet, 10**12) == "unknown"
    assert fleet.states() == {"sent": 1}


def test_of_several_words_about_one_mail_the_first_counts(held: Doubted) -> None:
    fleet, (first, *_) = held
    with fleet.database.transaction() as connection:
        done = take_evidence(
            connection,
            [Evidence(first, "arrived", "dsn"), Evidence(first, "bounced", "provider")],
        )
    assert done.done == [first]
    assert [refusal.reason for refusal in done.refused] == ["said_already"]
    assert state(fleet, first)[0] == "sent"


def test_a_judged_word_moves_nothing(held: Doubted) -> None:
    fleet, (first, *_) = held
    with fleet.database.snapshot() as connection:
        done: Operated = take_evidence(
            connection, [Evidence(first, "arrived", "sink")], dry_run=True
        )
    assert done.done == [first] and fleet.states() == {"in_doubt": 4}


@pytest.mark.parametrize(
    ("line", "source", "why"),
    [
        (b"nonsense", Said.dsn, "no JSON"),
        (b"[" * 60_000, Said.dsn, "no JSON"),
        (b"[]", Said.dsn, "expected a JSON object"),
        (b'{"message_id": "<a@b>"}', Said.dsn, '"event" is null: expected delivered or bounced'),
        (b'{"message_id": "<a@b>", "event": "bounced"}', Said.sink, "expected delivered from sink"),
        (b'{"message_id": "<a@b>", "event": "delivered"}', Said.click, "expected clicked from click"),
        (b'{"event": "delivered"}', Said.dsn, "names no mail"),
        (b'{"message_id": "a\\nb", "event": "delivered"}', Said.dsn, "names no mail"),
        (b'{"message": true, "event": "delivered"}', Said.dsn, '"message" is true: expected the row'),
        (b'{"message": 99999999999999999999, "event": "delivered"}', Said.dsn, "expected the row id"),
        (b'{"message": 1, "epoch": 0, "event": "delivered"}', Said.dsn, '"epoch" is 0: expected'),
        (b'{"message": 1, "note": "a\\nb", "event": "delivered"}', Said.dsn, "one line of text"),
        (b" " * 70_000, Said.dsn, "longer than 65 536 bytes"),
    ],
)  # fmt: skip
def test_a_bad_line_is_told_in_one_sentence(line: bytes, source: Said, why: str) -> None:
    with pytest.raises(BadLine) as fault:
        read_line(line, source)
    assert why in str(fault.value) and "\n" not in str(fault.value)


def test_a_line_without_brackets_means_the_same_mail() -> None:
    line = b'{"message_id": "a@b", "event": "bounced", "epoch": 2, "note": "5.1.1"}'
    assert read_line(line, Said.provider) == Evidence("<a@b>", "bounced", "provider", 2, "5.1.1")


def test_the_command_line_takes_a_ledger_and_events(
    held: Doubted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fleet, (first, second, *_) = held
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", fleet.database.url)
    events = tmp_path / "events.jsonl"
    lines = [{"message": first, "event": "bounced", "note": "5.1.1"}, {"message": second}]
    events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = ["doubt", "evidence", str(events), "--source", "provider"]
    assert main([*asked, "--dry-run"]) == ExitCode.FAULT
    said = capsys.readouterr()
    assert json.loads(said.out) == {"taken": 1, "left": {}, "bad_lines": 1, "dry_run": True}
    assert 'events.jsonl, line 2: "event" is null: expected delivered or bounced' in said.err
    assert fleet.states() == {"in_doubt": 4}
    assert main(asked) == ExitCode.FAULT
    assert fleet.states() == {"in_doubt": 3, "failed": 1}
    capsys.readouterr()
    ledger = str(tmp_path / "mail/ledger.jsonl")
    assert main(["doubt", "evidence", ledger, "--source", "sink"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["taken"] == 4
    # The bounced one did arrive: it is failed still, and will never be tried again.
    assert fleet.states() == {"sent": 3, "failed": 1}
    assert main(["doubt", "evidence", ledger, "--source", "sink"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["left"] == {"answered": 4}
    with fleet.database.transaction() as connection:
        refused = retry(connection, [first], DeliverySettings()).refused
    assert [refusal.reason for refusal in refused] == ["accepted"]
    assert clean(fleet)


def test_the_list_shows_policy_and_what_is_known_of_each_try(held: Doubted) -> None:
    fleet, (first, *_) = held
    with fleet.database.transaction() as connection:
        (shown,) = [each for each in doubts(connection) if each.id == first]
    assert shown.doubt_policy == "hold" and shown.held_until is None
    assert shown.evidence.startswith("epoch 1: in doubt, ")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_whole_stream_is_resolved_only_after_two_answers(
    held: Doubted, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet, _ = held
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", fleet.database.url)
    asked = ["doubt", "resolve", "--stream", "marketing", "--as", "drop", "--reason", "a lost disk"]
    for answers in ("n\n", "y\nyes\n", "y\n\n"):
        monkeypatch.setattr("sys.stdin", Terminal(answers))
        assert main(asked) != ExitCode.OK
        assert fleet.states() == {"in_doubt": 4}
    assert "4 mails in doubt of stream marketing" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ndrop\n"))
    assert main(asked) == ExitCode.USAGE  # nobody is there to be asked
    assert main([*asked, "--dry-run"]) == ExitCode.OK
    assert main(["doubt", "resolve", "--stream", "mars", *asked[4:], "--yes"]) == ExitCode.FAULT
    assert fleet.states() == {"in_doubt": 4}
    monkeypatch.setattr("sys.stdin", Terminal("y\ndrop\n"))
    assert main(asked) == ExitCode.OK
    assert fleet.states() == {"failed": 4}
    assert clean(fleet)


def test_yes_asks_nothing_and_all_means_every_stream(
    held: Doubted, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, _ = held
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", fleet.database.url)
    monkeypatch.setattr("tasks.moves.operate.BATCH", 3)
    asked = [
        "doubt",
        "resolve",
        "--all",
        "--as",
        "sent",
        "--reason",
        "the ledger has them",
        "--yes",
    ]
    assert main(asked) == ExitCode.OK
    assert fleet.states() == {"sent": 4}
    assert clean(fleet)


def _all(fleet: Fleet, sql: str) -> list[Any]:
    with fleet.database.transaction() as connection:
        return list(connection.execute(text(sql)).all())
