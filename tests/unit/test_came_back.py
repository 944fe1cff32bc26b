"""What comes back is read as it is: which mail, what class, and nothing by what anybody could write."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import return_path
from tasks.send.envelope import Envelope
from tasks.tokens import Keys, read, sign
from tasks.track import inbound
from tasks.track.classes import CODES, SUBJECTS, classify
from tasks.track.intake import put_aside
from tasks.track.report import Aside, Report
from tasks.track.settings import InboundSettings, mailbox_of

KEYS = Keys("k1", {"k1": b"s" * 32})
FOLDER = Path(__file__).parents[1] / "data/inbound"
EXPECTED: dict[str, dict[str, Any]] = json.loads((FOLDER / "expected.json").read_text())
MESSAGE_ID = "<5ZQ3vT0y1oS8cKq2mB7dNw@example.com>"
VERP = return_path.address(KEYS, "bounces.example.com", 500, 3, "zoe@example.org")


def octets(name: str) -> bytes:
    return (FOLDER / f"{name}.eml").read_bytes()


def test_every_mail_of_the_corpus_has_its_answer_and_every_answer_its_mail() -> None:
    assert {path.stem for path in FOLDER.glob("*.eml")} == EXPECTED.keys()
    assert len(EXPECTED) > 45


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_mail_of_the_corpus_is_what_it_is(name: str) -> None:
    wanted = EXPECTED[name]
    for ends in (octets(name), octets(name).replace(b"\n", b"\r\n")):
        found = inbound.read(ends, KEYS)
        if "aside" in wanted:
            assert isinstance(found, Aside) and wanted["aside"] in found.why
            continue
        assert isinstance(found, Report), found
        assert (found.kind, found.class_, found.code) == (
            wanted["kind"], wanted["class_"], wanted["code"],
        )  # fmt: skip
        if wanted["by"] == "token":
            assert found.message == 500 and found.rfc_message_id is None
        else:
            assert found.message is None and found.rfc_message_id == MESSAGE_ID
        assert len(found.diagnostic) <= 500 and found.diagnostic.isprintable()


def test_the_return_path_comes_before_what_else_a_report_names() -> None:
    told = octets("postfix-unknown-user").replace(b"<5ZQ3vT0y", b"<another-")
    found = inbound.read(told, KEYS)
    assert isinstance(found, Report) and (found.message, found.epoch) == (500, 3)
    assert found.tag == return_path.tag("Zoe@Example.org")
    # Where the envelope is known it is asked first, and one of another key ring opens nothing.
    other = return_path.address(KEYS, "bounces.example.com", 7, 1, "x@example.org")
    enveloped = inbound.read(told, KEYS, [other])
    assert isinstance(enveloped, Report) and enveloped.message == 7
    forged = return_path.address(Keys("k1", {"k1": b"z" * 32}), "b.example", 7, 1, "x@example.org")
    kept = inbound.read(told, KEYS, [forged])
    assert isinstance(kept, Report) and kept.message == 500


def test_the_same_report_by_two_ways_has_one_name() -> None:
    first = octets("qmail")
    second = b"Received: from elsewhere by here\nDelivered-To: x@example.com\n" + first
    one, two = inbound.read(first, KEYS), inbound.read(second, KEYS)
    assert isinstance(one, Report) and isinstance(two, Report)
    assert one.evidence_id == two.evidence_id and one.evidence_id.startswith("sha256:")


@settings(max_examples=40)
@given(
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**31 - 1),
    st.sampled_from(["z@example.org", "Ü@é.example"]),
)
def test_a_return_path_names_its_mail_in_whatever_form_it_comes_back(
    message: int, epoch: int, to: str
) -> None:
    made = return_path.address(KEYS, "bounces.example.com", message, epoch, to)
    tried = return_path.Try(message, epoch, return_path.tag(to))
    local = made.partition("@")[0]
    assert len(local) <= 64 and made.isascii() and Envelope(made, "zoe@example.org").sender == made
    for form in (
        made, made.upper(), f"<{made}>", f"prvs=0123456789={made}",
        f"SRS0=HHH=TT=bounces.example.com={local}@forward.example", f'"B" <{made}>, x@y.example',
    ):  # fmt: skip
        assert return_path.find(KEYS, form) == tried, form
    assert read(KEYS, "unsubscribe", local[2:]) is None


def test_ten_thousand_forged_return_paths_open_nothing() -> None:
    chance = random.Random(11)
    local = VERP.partition("@")[0]
    letters = "abcdefghijklmnopqrstuvwxyz234567.+-"
    for _ in range(10_000):
        forged = list(local)
        for _ in range(chance.randint(1, 3)):
            forged[chance.randrange(2, len(forged))] = chance.choice(letters)
        told = "".join(forged)
        assert told == local or return_path.find(KEYS, told) is None
    # Of another purpose, with the same key.
    assert return_path.find(KEYS, sign(KEYS, "unsubscribe", 500)) is None


def test_the_longest_key_id_still_fits_into_a_local_part() -> None:
    keys = Keys("abcdefgh", {"abcdefgh": b"s" * 32})
    made = return_path.address(keys, "b.example", 2**63 - 1, 2**31 - 1, "x@example.org")
    assert len(made.partition("@")[0]) == 64


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        ("5.1.1", "", "hard"),
        ("4.1.1", "User unknown", "soft"),
        ("5.1.1", "listed at zen.spamhaus.org", "policy"),
        ("5.2.2", "", "soft"),
        ("5.7.1", "Message rejected due to DMARC policy", "policy"),
        ("5.0.0", "No such user here", "hard"),
        ("5.0.0", "go away", "soft"),
        ("5.2.1", "", "hard"),
        ("5.6.0", "", "message"),
        (None, "550 mailbox is full", "soft"),
        (None, "", "soft"),
        ("9.9.9", "", "soft"),
        # The name of a mailbox or of a host is no reason, but that of a list is.
        ("5.1.1", "host mx.spam-policy.example[203.0.113.9] said: 550 User unknown", "hard"),
        ("5.1.1", "rejected, see https://www.spamhaus.org/query/ip/192.0.2.25", "policy"),
        ("5.1.1", "550 Blocked by b.barracudacentral.org", "policy"),
        ("5.0.0", "mail.example.org: no such user.", "hard"),
        ("5.7.606", "Access denied, banned sending IP [192.0.2.25]", "policy"),
        ("5.4.1", "Recipient address rejected: Access denied.", "hard"),
        ("5.1.1", "550 5.1.1 <spam@example.org>: User unknown", "hard"),
    ],
)
def test_a_refusal_has_its_class(code: str | None, text: str, expected: str) -> None:
    assert classify(code, text) == expected


def test_the_table_says_one_thing_of_each_code() -> None:
    assert {code.partition(".")[0] for code in CODES} <= SUBJECTS.keys()


@settings(max_examples=60)
@given(st.binary(max_size=400), st.sampled_from(sorted(EXPECTED)), st.integers(0, 6000))
def test_whatever_comes_in_there_is_an_answer(noise: bytes, name: str, at: int) -> None:
    told = octets(name)
    for mail in (noise, told[:at] + noise + told[at:], told[:at] + noise, noise + told[at:]):
        assert isinstance(inbound.read(mail, KEYS), Report | Aside)


def test_a_mail_made_to_tire_its_reader_is_put_aside_at_once() -> None:
    deep = b"".join(
        b'Content-Type: multipart/mixed; boundary="%d"\n\n--%d\n' % (n, n) for n in range(400)
    )
    wide = b'Content-Type: multipart/mixed; boundary="b"\n\n' + b"--b\n\nx\n" * 5_000
    for odd in (deep, wide, b"", b"\n" * 300_000, b"a: " + b"b" * 400_000):
        assert isinstance(inbound.read(odd, KEYS), Aside)


def test_what_is_put_aside_is_kept_whole_once_with_its_reason(tmp_path: Path) -> None:
    first = put_aside(tmp_path / "aside", b"Subject: x\n\nHello\n", "it is\nodd")
    assert put_aside(tmp_path / "aside", b"Subject: x\n\nHello\n", "again") == first
    assert first.read_bytes() == b"X-Dripfleet-Aside: it is odd\nSubject: x\n\nHello\n"
    assert [path.name for path in (tmp_path / "aside/new").iterdir()] == [first.name]
    assert not list((tmp_path / "aside/tmp").iterdir())


def test_providers_are_told_what_they_bring_back() -> None:
    token = return_path.token(KEYS, 500, 3, "zoe@example.org")
    for provider in ("postmark", "sendgrid", "mailgun"):
        header = return_path.header(KEYS, provider, 500, 3, "zoe@example.org")
        assert header.endswith(b"\r\n") and token.encode() in header and b"{{" not in header
        assert all(b": " in line for line in header.strip().split(b"\r\n"))
    assert return_path.header(KEYS, "ses", 500, 3, "x") == b""
    assert return_path.header(KEYS, None, 500, 3, "x") == b""


def test_a_mailbox_is_named_by_its_url_and_its_secret_by_nothing() -> None:
    box = mailbox_of("imaps://b%40example.com:p%3Aw@imap.example.com/Bounces")
    assert (box.host, box.port, box.tls, box.user, box.password, box.folder) == (
        "imap.example.com", 993, True, "b@example.com", "p:w", "Bounces",
    )  # fmt: skip
    assert "p:w" not in box.name
    for odd in ("imap://u:geheim@imap.example.com/", "x", "imaps:///INBOX", "imaps://h:0x/INBOX"):
        with pytest.raises(ValueError, match="expected imaps://") as told:
            mailbox_of(odd)
        assert "geheim" not in str(told.value)
    assert InboundSettings().inbound_maildir == ""
    with pytest.raises(ValueError, match="no domain for a return path"):
        return_path.checked_domain("bounces")
    assert return_path.checked_domain("Bounces.Example.com.") == "bounces.example.com"
