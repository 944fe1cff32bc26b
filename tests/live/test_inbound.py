"""A bounce and a complaint, by whichever way they come in, change what is sent; and one can see why."""

from __future__ import annotations

import json
import smtplib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from tasks import return_path
from tasks.moves.settings import DeliverySettings
from tasks.sequence.explain import explain
from tasks.sequence.news import Doorkeeper
from tasks.tokens import Keys
from tasks.track import entry, imap, lmtp, maildir, store
from tasks.track.intake import Intake
from tasks.track.settings import InboundSettings, mailbox_of
from tasks.upkeep.verify import VerifySettings, verify
from tests.live import imap_server, returned, seeds
from tests.live.fleet import SECRET, Fleet, eventually
from workers.cli import main
from workers.doctor.inbound import inbound as doctor
from workers.embedded.launch import free_port

TWO = seeds.TWO_MAILS.replace("  - {id: wait, wait: {delay: 1s}}\n", "")
KEYS = Keys("k1", {"k1": SECRET.get_secret_value().encode()})
Give = Callable[[bytes], None]


def rows(fleet: Fleet, sql: str, **values: Any) -> list[tuple[Any, ...]]:
    with fleet.database.transaction() as connection:
        return [tuple(row) for row in connection.execute(text(sql), values)]


def queued(fleet: Fleet, n: int) -> list[tuple[int, int, str, str]]:
    """People whose first mail went and whose second stands in the queue: (who, message, address, id)."""
    with fleet.database.transaction() as connection:
        connection.execute(text("UPDATE stream SET return_path = 'bounces.example.com'"))
    fleet.enrolled(n, TWO)
    fleet.send()

    def stand() -> bool:
        fleet.scan()
        return fleet.states() == {"sent": n, "scheduled": n}

    eventually(stand)
    return [
        (row[0], row[1], row[2], row[3])
        for row in rows(
            fleet,
            "SELECT s.id, m.id, s.address, m.rfc_message_id FROM message m"
            " JOIN subscriber s ON s.id = m.subscriber_id WHERE m.state = 'sent' ORDER BY s.id",
        )
    ]


@pytest.fixture
def ways(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Give]]:
    """Every way in by which a mail comes, each a function that brings one to its end."""
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", fleet.database.url)
    monkeypatch.setenv("DRIPFLEET_SECRET_TOKEN", SECRET.get_secret_value())
    monkeypatch.setenv("DRIPFLEET_INBOUND_ASIDE", str(tmp_path / "aside"))
    intake = Intake(fleet.database, KEYS, tmp_path / "aside")
    folder = tmp_path / "Maildir"
    for name in ("tmp", "new", "cur"):
        (folder / name).mkdir(parents=True)

    def by_file(octets: bytes) -> None:
        (tmp_path / "bounce.eml").write_bytes(octets)
        assert main(["inbound", "read", str(tmp_path / "bounce.eml")]) == 0

    def by_maildir(octets: bytes) -> None:
        (folder / "new" / f"{len(octets)}.host").write_bytes(octets)
        assert maildir.read(intake, folder) == 1
        assert not list((folder / "new").iterdir())

    with imap_server.serving() as box:
        mailbox = mailbox_of(box.url)

        def by_imap(octets: bytes) -> None:
            box.put(octets)
            assert imap.read(intake, mailbox) == 1
            assert imap.read(intake, mailbox) == 0 and max(box.mails) in box.seen

        port = free_port(0)
        server = lmtp.server(intake, f"127.0.0.1:{port}")
        server.start()

        def by_lmtp(octets: bytes) -> None:
            with smtplib.LMTP("127.0.0.1", port) as client:
                assert client.sendmail("", ["b+x@bounces.example.com"], octets) == {}

        try:
            yield {"file": by_file, "maildir": by_maildir, "imap": by_imap, "lmtp": by_lmtp}
        finally:
            server.stop()


def test_a_bounce_and_a_complaint_by_each_way_change_what_is_sent(
    fleet: Fleet, ways: dict[str, Give], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = queued(fleet, 2 * len(ways) + 1)
    senders = {line.rcpt: line.sender for line in fleet.sink.lines()}
    for (who, message, address, message_id), (way, kind) in zip(
        people, [(way, kind) for way in ways for kind in ("bounce", "complaint")], strict=False
    ):
        # The envelope says which mail it is; nothing in the mail itself does.
        tried = return_path.find(KEYS, senders[address])
        assert tried is not None and (tried.message, tried.epoch) == (message, 1)
        name = "postfix-unknown-user" if kind == "bounce" else "arf-abuse"
        told = returned.mail(name, KEYS, message, address, message_id=message_id)
        ways[way](told)
        ways["maildir"](told)  # the same again, by another way, does nothing
        with fleet.database.snapshot() as connection:
            story = "\n".join(map(str, explain(connection, who).lines))
        assert ("came back: hard, 5.1.1" if kind == "bounce" else "called it spam") in story, way
        reason = "hard bounce" if kind == "bounce" else "complaint"
        assert f"left the sequence at second: {reason}" in story
    n = len(ways)
    assert fleet.states() == {"sent": 2 * n + 1, "suppressed": 2 * n, "scheduled": 1}
    assert fleet.send() == {"claimed": 1, "sent": 1}
    assert rows(fleet, "SELECT kind, class, count(*) FROM feedback GROUP BY 1, 2 ORDER BY 1") == [
        ("bounced", "hard", n), ("complained", None, n),
    ]  # fmt: skip
    assert rows(fleet, "SELECT name, count(*) FROM event GROUP BY 1 ORDER BY 1") == [
        ("email.bounced", n), ("email.complained", n),
    ]  # fmt: skip
    assert rows(fleet, "SELECT scope, reason, count(*) FROM suppression GROUP BY 1, 2") == [
        ("all", "hard_bounce", n), ("marketing", "complaint", n),
    ]  # fmt: skip
    capsys.readouterr()
    assert main(["inbound", "list", "--json"]) == 0
    assert [row["mails"] for row in json.loads(capsys.readouterr().out)] == [n, n]
    assert verify(fleet.database, DeliverySettings(), VerifySettings()).clean


def test_what_is_no_report_of_ours_is_kept_and_stops_nothing(
    fleet: Fleet, ways: dict[str, Give], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (_, message, address, _) = queued(fleet, 1)[0]
    before = fleet.states()
    forged = returned.mail("forged-final-recipient", KEYS, message, address).replace(
        b"victim@example.org", address.encode()
    )
    stranger = returned.mail("postfix-unknown-user", KEYS, 10**12, address)
    for octets in (b"\x00\xff garbage", forged, stranger):
        ways["maildir"](octets)
        ways["imap"](octets)
        ways["lmtp"](octets)
    kept = [path.read_bytes() for path in (tmp_path / "aside/new").iterdir()]
    assert len(kept) >= 3 and all(each.startswith(b"X-Dripfleet-Aside: ") for each in kept)
    assert any(b"which anybody can write" in each for each in kept)
    assert any(b"none of this database" in each for each in kept)
    assert fleet.states() == before and rows(fleet, "SELECT count(*) FROM feedback") == [(0,)]
    (tmp_path / "forged.eml").write_bytes(forged)
    assert main(["inbound", "read", str(tmp_path / "forged.eml")]) == 3
    assert main(["inbound", "read", "--dry-run", str(tmp_path / "forged.eml")]) == 0
    assert "anybody can write" in capsys.readouterr().out


def soft(fleet: Fleet, ways: dict[str, Give], row: tuple[int, int, str, str]) -> None:
    ways["maildir"](returned.mail("postfix-mailbox-full", KEYS, row[1], row[2]))


def test_three_of_the_last_five_for_now_are_enough_and_an_arrival_takes_it_back(
    fleet: Fleet, ways: dict[str, Give]
) -> None:
    (first,) = queued(fleet, 1)
    one = seeds.ONE_MAIL.format(class_="transactional", template="test/mail")

    def receipt(n: int) -> int:
        key = seeds.sequence(fleet.database, one.replace("one-mail", f"receipt-{n}"))
        seeds.enroll(fleet.database, key, [first[0]])
        fleet.scan()
        assert fleet.send("transactional") == {"claimed": 1, "sent": 1}
        return int(rows(fleet, "SELECT max(id) FROM message WHERE state = 'sent'")[0][0])

    soft(fleet, ways, first)
    for n in range(2):
        assert rows(fleet, "SELECT count(*) FROM suppression") == [(0,)], n
        soft(fleet, ways, (first[0], receipt(n), first[2], ""))
    assert rows(fleet, "SELECT scope, reason FROM suppression") == [("marketing", "unreachable")]
    assert fleet.states() == {"sent": 3, "suppressed": 1}
    # A receipt still goes, and says by arriving that somebody is there again.
    ways["maildir"](returned.mail("postfix-delivered", KEYS, receipt(8), first[2]))
    assert rows(fleet, "SELECT count(*) FROM suppression") == [(0,)]
    soft(fleet, ways, (first[0], receipt(9), first[2], ""))
    assert rows(fleet, "SELECT count(*) FROM suppression") == [(0,)], "it begins anew"
    # Who follows a link of a mail is reached as well.
    rows(
        fleet,
        "INSERT INTO suppression (address_hmac, scope, reason)"
        " SELECT address_hmac, 'marketing', 'unreachable' FROM subscriber RETURNING 1",
    )
    rows(fleet, f"INSERT INTO hit (message_id, agent) VALUES ({first[1]}, 'browser') RETURNING 1")
    assert store.settle(fleet.database, settled=0).people == 1
    assert rows(fleet, "SELECT count(*) FROM suppression") == [(0,)]


def test_a_word_of_the_reader_is_stronger_than_unreachable_and_stays(
    fleet: Fleet, ways: dict[str, Give]
) -> None:
    (_, message, address, _) = queued(fleet, 1)[0]
    rows(
        fleet,
        "INSERT INTO suppression (address_hmac, scope, reason)"
        " SELECT address_hmac, 'marketing', 'unreachable' FROM subscriber RETURNING 1",
    )
    rows(
        fleet,
        "INSERT INTO feedback (source, evidence_id, message_id, subscriber_id, kind, class)"
        " SELECT 'dsn', 'x', id, subscriber_id, 'bounced', 'soft' FROM message"
        " WHERE state = 'sent' RETURNING 1",
    )
    ways["file"](returned.mail("unsubscribe-mail", KEYS, message, address))
    assert rows(fleet, "SELECT reason FROM suppression") == [("unsubscribe",)]
    ways["file"](returned.mail("postfix-delivered", KEYS, message, address))
    assert rows(fleet, "SELECT reason FROM suppression") == [("unsubscribe",)]


def test_a_bounce_of_an_address_that_somebody_has_no_more_stops_nothing(
    fleet: Fleet, ways: dict[str, Give]
) -> None:
    (who, message, address, _) = queued(fleet, 1)[0]
    rows(fleet, "UPDATE subscriber SET address = 'new@example.com' RETURNING 1")
    ways["file"](returned.mail("postfix-unknown-user", KEYS, message, address))
    assert rows(fleet, "SELECT count(*) FROM suppression") == [(0,)]
    with fleet.database.snapshot() as connection:
        told = "\n".join(map(str, explain(connection, who).lines))
    assert "they have another address since" in told
    assert fleet.send()["claimed"] == 1


def test_a_late_bounce_settles_the_doubt_of_its_try_and_leaves_what_was_sent(
    fleet_with: Callable[..., Fleet], tmp_path: Path
) -> None:
    fleet = fleet_with("dot:drop,rcpt=person1*")
    intake = Intake(fleet.database, KEYS, tmp_path / "aside")
    with fleet.database.transaction() as connection:
        connection.execute(
            text("UPDATE stream SET return_path = 'bounces.example.com', doubt_policy = 'hold'")
        )
    fleet.enrolled(2)
    fleet.send()
    assert fleet.states() == {"in_doubt": 1, "sent": 1}
    for state in ("in_doubt", "sent"):
        ((message, address),) = rows(
            fleet,
            "SELECT m.id, s.address FROM message m JOIN subscriber s ON s.id = m.subscriber_id"
            " WHERE m.state = CAST(:state AS message_state)",
            state=state,
        )
        octets = returned.mail("exchange-expired", KEYS, message, address)
        assert intake.take(octets.replace(b"<3f2a1c", b"<%d" % message)) == "bounced"
    assert fleet.states() == {"failed": 1, "sent": 1}
    assert rows(fleet, "SELECT reason FROM message WHERE state = 'failed'") == [("bounced",)]
    ((evidence,),) = rows(fleet, "SELECT evidence FROM attempt WHERE evidence IS NOT NULL")
    assert evidence.startswith("dsn: bounced; 550 5.4.7")
    assert verify(fleet.database, DeliverySettings(), VerifySettings()).clean


def test_what_was_said_while_the_reply_was_waited_for_settles_the_doubt_that_comes(
    fleet_with: Callable[..., Fleet], monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_with("dot:drop,rcpt=person1@*", "dot:accept_then_drop,rcpt=person2@*")
    rows(fleet, "UPDATE stream SET doubt_policy = 'hold' RETURNING 1")
    monkeypatch.setattr(entry, "database", lambda: fleet.database)
    fleet.enrolled(2)
    fleet.send()
    assert fleet.states() == {"in_doubt": 2}
    # As `take` writes it while a mail is armed, when it can settle nothing yet.
    rows(
        fleet,
        "INSERT INTO feedback (source, evidence_id, message_id, subscriber_id, epoch, kind, class)"
        " SELECT 'ses', m.id::text, m.id, m.subscriber_id, m.epoch,"
        " CASE WHEN s.address LIKE 'person1@%' THEN 'bounced' ELSE 'delivered' END,"
        " CASE WHEN s.address LIKE 'person1@%' THEN 'soft' END"
        " FROM message m JOIN subscriber s ON s.id = m.subscriber_id RETURNING 1",
    )
    assert entry.inbound.run() == {"settled": 2}
    assert fleet.states() == {"failed": 1, "sent": 1} and entry.inbound.run() == {}
    assert verify(fleet.database, DeliverySettings(), VerifySettings()).clean


def test_a_bounce_for_now_is_an_event_by_which_a_sequence_may_end(
    fleet: Fleet, ways: dict[str, Give], capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.enrolled(
        1, TWO.replace("steps:", "exit: [{event: email.bounced, reason: came-back}]\nsteps:")
    )
    fleet.send()
    fleet.scan()
    ((message, address),) = rows(
        fleet, "SELECT m.id, s.address FROM message m, subscriber s WHERE m.state = 'sent'"
    )
    ways["file"](returned.mail("postfix-mailbox-full", KEYS, message, address))
    Doorkeeper(fleet.database).work(budget=5)
    assert fleet.states() == {"sent": 1, "cancelled": 1}
    assert rows(fleet, "SELECT end_reason FROM enrollment") == [("came-back",)]
    capsys.readouterr()
    assert main(["message", "show", str(message), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["came_back"]
    assert (told["kind"], told["class"], told["code"]) == ("bounced", "soft", "5.2.2")


def test_the_task_of_beat_reads_what_the_settings_name_and_one_fault_holds_no_other(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, message, address, _) = queued(fleet, 1)[0]
    monkeypatch.setattr(entry, "database", lambda: fleet.database)
    assert entry.inbound.run() == {}, "nothing is named, and no key is asked for"
    monkeypatch.setenv("DRIPFLEET_SECRET_TOKEN", SECRET.get_secret_value())
    monkeypatch.setenv("DRIPFLEET_INBOUND_ASIDE", str(tmp_path / "aside"))
    monkeypatch.setenv("DRIPFLEET_INBOUND_MAILDIR", str(tmp_path / "none"))
    with imap_server.serving() as box:
        monkeypatch.setenv("DRIPFLEET_INBOUND_IMAP", box.url)
        box.put(returned.mail("postfix-unknown-user", KEYS, message, address))
        box.put(b"garbage")
        assert entry.inbound.run() == {"bounced": 1, "aside": 1, "faults": 1}
        # Another numbering: all of it is read again, and nothing is done again.
        box.validity = 2
        assert entry.inbound.run() == {"known": 1, "aside": 1, "faults": 1}
        assert entry.inbound.run() == {"faults": 1}
    told = entry.inbound.run()
    assert told == {"faults": 2}, "a server that is away is a fault of the tick, not of the task"
    with fleet.database.snapshot() as connection:
        assert "cannot be read" in next(iter(doctor(connection))).says
    assert fleet.states() == {"sent": 1, "suppressed": 1}


def test_doctor_says_where_nobody_reads_and_the_mailbox_that_refuses_us(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(fleet, "UPDATE stream SET return_path = 'bounces.example.com' RETURNING 1")
    with fleet.database.snapshot() as connection:
        assert ["no Maildir or mailbox" in each.says for each in doctor(connection)] == [True]
        monkeypatch.setenv("DRIPFLEET_INBOUND_MAILDIR", "mail")
        assert [each.says for each in doctor(connection)] == ["read by maildir"]
    with imap_server.serving() as box:
        wrong = InboundSettings(inbound_imap=SecretStr(box.url.replace("p%20w", "geheim")))
        intake = Intake(fleet.database, KEYS, Path("aside"))
        with pytest.raises(Exception, match="refuses the user 'bounces'") as told:
            imap.read(intake, mailbox_of(wrong.inbound_imap.get_secret_value()))
        assert "geheim" not in str(told.value)
