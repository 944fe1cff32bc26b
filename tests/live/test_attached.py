"""Files that go with mails, from Postgres over the wire, and how many of them are held at once."""

from __future__ import annotations

import email
import email.policy
from base64 import b64encode
from email.message import EmailMessage

import pytest

from tasks.send import loop, store
from tasks.send.dossier import dossier
from tasks.send.render import Bundle
from tests.live.fleet import Fleet
from workers.embedded.ledger import read_mail

MAILS = 12
PDF = b"%PDF-1.4\n" + bytes(range(256)) * 2000


@pytest.mark.usefixtures("short_durations")
def test_large_mails_arrive_whole_and_never_all_are_held_at_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CROWDED", 2_000_000)
    monkeypatch.setattr(store, "SLICE_OCTETS", 1_000_000)
    most = 0
    submitted = fleet.service.loop.submit

    def submit(relay: str, mails: list[object]) -> None:
        nonlocal most
        submitted(relay, mails)  # type: ignore[arg-type]
        most = max(most, fleet.service.loop._octets)

    monkeypatch.setattr(fleet.service.loop, "submit", submit)
    files = {"attachments/Größe.pdf": b64encode(PDF).decode()}
    parts = {"subject.txt": "Terms", "body.txt": "Hello {{ subscriber.first_name }}"}
    fleet.enrolled(MAILS, bundle=Bundle("test/mail", parts, files))
    assert fleet.send() == {"claimed": MAILS, "sent": MAILS}
    one = len(PDF) * 4 // 3
    # It is asked before a slice is handed over, and a slice is two of these.
    assert one < most < 2_000_000 + 3 * one
    assert fleet.service.loop._octets == 0
    lines = fleet.sink.lines()
    assert len(lines) == MAILS
    octets = read_mail(fleet.sink.ledger.parent, lines[0])
    read = email.message_from_bytes(octets, policy=email.policy.default)
    assert isinstance(read, EmailMessage)
    (terms,) = read.iter_attachments()
    assert isinstance(terms, EmailMessage)
    assert (terms.get_filename(), terms.get_content()) == ("Größe.pdf", PDF)
    with fleet.database.transaction() as connection:
        kept = dossier(connection, lines[0].message_id, fleet.settings).mail
    # Made again from Postgres, in a child, with the same hash.
    assert kept is not None and kept.likeness == "same" and kept.octets == octets
