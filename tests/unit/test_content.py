"""The bytes of a mail: what goes in comes out again, and nothing else does."""

from __future__ import annotations

import email
import email.policy
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from email.message import EmailMessage
from hashlib import sha256

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tasks.errors import Misconfigured, Permanent
from tasks.moves.effect import rfc_message_id
from tasks.send.content import (
    HEADERS,
    Content,
    Facts,
    Sender,
    boundary_of,
    check,
    compose,
    unsubscribe_url,
)
from tasks.send.render import Rendered
from tasks.send.tokens import read_unsubscribe_token, unsubscribe_token

SECRET = b"s" * 32
KEY = sha256(b"effect").digest()
SENDER = Sender("Records & Co", "shop@example.com", "1 Example Street", "off@example.com")
FACTS = Facts(
    rfc_message_id=rfc_message_id(SECRET, KEY, "example.com"),
    to_address="ada@example.com",
    frozen_at=datetime(2026, 3, 1, 12, 0, 5, 999, tzinfo=UTC),
    boundary_key=KEY,
    unsubscribe_token=unsubscribe_token(SECRET, "k1", 500),
)
NAMES = [
    "Date",
    "From",
    "To",
    "Message-ID",
    "Subject",
    "List-Unsubscribe",
    "Auto-Submitted",
    "MIME-Version",
    "Content-Type",
]
LINE_END = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
ONE_LINE = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=200)
WORDS = st.lists(
    st.sampled_from(["sale", "Zoë", "=?utf-8?q?x?=", "", "שלום", "👩🏽‍🚀", "a" * 70, "日本語"])
)
SUBJECTS = ONE_LINE | WORDS.map(" ".join)
BODY_LINES = st.sampled_from(
    [
        ".",
        "..",
        "",
        " ",
        "\t",
        "-- ",
        "--=_x",
        "From me",
        "a" * 2000,
        "é" * 900,
        "👩🏽‍🚀",
        "مرحبا",
        "x=3D",
        "a\rb",
    ]
)
BODIES = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=400)
    | st.lists(BODY_LINES | st.text(max_size=90).filter(str.isascii)).map("\n".join)
    | st.lists(BODY_LINES).map("\r\n".join)
)


def composed(
    subject: str = "s", text: str = "t", html: str | None = "<p>h</p>", **facts: object
) -> Content:
    made = replace(FACTS, **facts)  # type: ignore[arg-type]
    return compose(Rendered(subject, text, html), message=made, sender=SENDER)


def parsed(octets: bytes) -> EmailMessage:
    read = email.message_from_bytes(octets, policy=email.policy.default)
    assert isinstance(read, EmailMessage)
    for part in read.walk():
        assert not part.defects
    return read


def body_of(read: EmailMessage, kind: str) -> str:
    part = read.get_body((kind,))
    assert part is not None
    octets = part.get_payload(decode=True)
    assert isinstance(octets, bytes)
    return octets.decode()


def in_lines(text: str) -> str:
    """What every line end means on the wire: CRLF, also after the last line."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return (text if text.endswith("\n") else text + "\n").replace("\n", "\r\n")


def assert_lawful(octets: bytes) -> None:
    assert octets.isascii() and b"\0" not in octets
    lines = octets.split(b"\r\n")
    assert not any(b"\r" in line or b"\n" in line for line in lines)
    assert max(map(len, lines)) <= 998


# What goes in comes out


@given(subject=SUBJECTS, text=BODIES, html=st.none() | BODIES)
@settings(max_examples=300, deadline=None)
def test_subject_text_and_html_come_back_from_a_parser_as_they_were(
    subject: str, text: str, html: str | None
) -> None:
    assume(subject.strip())
    octets = composed(subject, text, html).octets
    read = parsed(octets)
    assert read.keys() == (NAMES if html is not None else [*NAMES, "Content-Transfer-Encoding"])
    assert read["Subject"] == subject
    assert body_of(read, "plain") == in_lines(text)
    if html is not None:
        # The line end before a boundary is the boundary's, RFC 2046 §5.1.1.
        assert body_of(read, "html") == in_lines(html)
        assert [part.get_content_type() for part in read.iter_parts()] == [
            "text/plain",
            "text/html",
        ]
    assert_lawful(octets)


@given(name=SUBJECTS)
@settings(max_examples=200, deadline=None)
def test_a_sender_of_any_name_comes_back_as_it_was(name: str) -> None:
    assume(name.strip() == name and 0 < len(name) <= 200)
    sender = replace(SENDER, name=name)
    octets = compose(Rendered("s", "t", None), message=FACTS, sender=sender).octets
    (address,) = parsed(octets)["From"].addresses
    if name.isascii() and "=?" not in name:
        assert address.display_name == name
    # Python's parser neither drops the blank between two encoded words of a phrase (RFC 2047
    # §6.2 does) nor keeps two blanks within one.
    assert "".join(address.display_name.split()) == "".join(name.split())
    assert address.addr_spec == "shop@example.com"


@given(text=BODIES)
@settings(max_examples=200, deadline=None)
def test_encoded_lines_stay_short_and_hold_no_boundary(text: str) -> None:
    octets = composed(text=text, html=text).octets
    body = octets.partition(b"\r\n\r\n")[2]
    assert max(map(len, body.split(b"\r\n"))) <= 78
    assert octets.count(b"--" + boundary_of(KEY).encode()) == 3


def test_a_body_that_spells_the_boundary_does_not_end_its_part() -> None:
    text = f"one\n--{boundary_of(KEY)}--\ntwo\n"
    assert body_of(parsed(composed(text=text).octets), "plain") == in_lines(text)


def test_plain_short_text_goes_out_as_it_is() -> None:
    octets = composed(text="plain words\n.\n", html=None).octets
    assert octets.endswith(b"Content-Transfer-Encoding: 7bit\r\n\r\nplain words\r\n.\r\n")


# Always the same


def test_the_bytes_are_the_same_for_the_same_input_and_pinned() -> None:
    content = composed("Grüße", "Hallo\n", "<p>Hallo</p>\n")
    assert content == composed("Grüße", "Hallo\n", "<p>Hallo</p>\n")
    assert content.sha256 == sha256(content.octets).digest()
    boundary = boundary_of(KEY)
    assert content.octets.decode() == (
        "Date: Sun, 01 Mar 2026 12:00:05 +0000\r\n"
        'From: "Records & Co" <shop@example.com>\r\n'
        "To: ada@example.com\r\n"
        f"Message-ID: {FACTS.rfc_message_id}\r\n"
        "Subject: =?utf-8?b?R3LDvMOfZQ==?=\r\n"
        "List-Unsubscribe: <mailto:off@example.com?subject=unsubscribe%20"
        f"{FACTS.unsubscribe_token}>\r\n"
        "Auto-Submitted: auto-generated\r\n"
        "MIME-Version: 1.0\r\n"
        f'Content-Type: multipart/alternative;\r\n boundary="{boundary}"\r\n\r\n'
        f"--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        "Content-Transfer-Encoding: 7bit\r\n\r\nHallo\r\n"
        f"\r\n--{boundary}\r\nContent-Type: text/html; charset=utf-8\r\n"
        "Content-Transfer-Encoding: 7bit\r\n\r\n<p>Hallo</p>\r\n"
        f"\r\n--{boundary}--\r\n"
    )


def test_the_date_is_one_instant_in_whatever_zone_it_is_told() -> None:
    east = FACTS.frozen_at.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert composed(frozen_at=east) == composed()
    with pytest.raises(Permanent, match="no zone"):
        composed(frozen_at=FACTS.frozen_at.replace(tzinfo=None))


def test_every_fact_that_differs_shows_in_the_bytes() -> None:
    others = [
        composed(),
        composed(boundary_key=b"other"),
        composed(to_address="bob@example.com"),
        composed(frozen_at=FACTS.frozen_at + timedelta(seconds=1)),
        composed(unsubscribe_token="k1.x.y"),
        composed(rfc_message_id="<x@example.com>"),
        composed(text="u"),
    ]
    assert len({each.sha256 for each in others}) == len(others)


# Nothing else comes out

INJECTIONS = [
    "a\r\nBcc: eve@example.com",
    "a\nBcc: e",
    "a\rBcc: e",
    "a\0b",
    "a\x0bb",
    "a\x85b",
    "a\u2028b",
]


@pytest.mark.parametrize("bad", INJECTIONS)
def test_a_line_end_in_a_header_is_refused_and_not_repeated(bad: str) -> None:
    sender = replace(SENDER, name=bad)
    with pytest.raises(Permanent) as caught:
        composed(subject=bad)
    assert "subject holds a line end" in str(caught.value) and "Bcc" not in str(caught.value)
    with pytest.raises(Permanent, match="sender's name holds a line end"):
        compose(Rendered("s", "t", None), message=FACTS, sender=sender)
    with pytest.raises(Permanent, match="control character"):
        composed(unsubscribe_token=bad)
    with pytest.raises(Permanent, match="Message-ID"):
        composed(rfc_message_id=f"<{bad}@example.com>")


@pytest.mark.parametrize(
    "address",
    [
        *(f"{bad}@example.com" for bad in INJECTIONS),
        "ada@example.com\n",
        "ada@example.com\r\nBcc: eve@example.com",
        "ada",
        "",
        "a b@example.com",
        "ada@example.com, eve@example.com",
        "Ada <ada@example.com>",
        "ada@@example.com",
        "ada@exa mple.com",
        "ada@-example.com",
        ".ada@example.com",
        "zoë\u202e@example.com",
        "zoë\r\nBcc: eve@example.com",
        "zoë eve@example.com",
        "zoë, eve@example.com",
        "zoë@eve@example.com",
        "zo\ud800@example.com",
        f"{'ë' * 33}@example.com",
        "ada@ex ämple.com",
        f"{'a' * 65}@example.com",
        f"a@{'b.' * 130}com",
    ],
)
def test_an_address_that_plain_smtp_cannot_carry_is_refused(address: str) -> None:
    with pytest.raises(Permanent, match="subscriber's address is not of the form") as caught:
        composed(to_address=address)
    assert not address or address not in str(caught.value)


@given(
    subject=st.text(max_size=40),
    name=st.text(max_size=40),
    address=st.text(max_size=40) | st.just("ada@example.com"),
    token=st.text(max_size=40),
    message_id=st.text(max_size=40) | st.just("<x@example.com>"),
    text=st.text(max_size=40),
)
@settings(max_examples=300, deadline=None)
def test_no_header_is_ever_injected(
    subject: str, name: str, address: str, token: str, message_id: str, text: str
) -> None:
    facts = replace(FACTS, to_address=address, unsubscribe_token=token, rfc_message_id=message_id)
    try:
        octets = compose(
            Rendered(subject, text, None), message=facts, sender=replace(SENDER, name=name)
        ).octets
    except Permanent:
        return
    assert parsed(octets).keys() == [*NAMES, "Content-Transfer-Encoding"]
    assert_lawful(octets)


def test_a_sender_without_a_sensible_name_is_refused() -> None:
    for name, said in (("", "name is empty"), ("a" * 201, "over 200 characters")):
        with pytest.raises(Permanent, match=said):
            compose(Rendered("s", "t", None), message=FACTS, sender=replace(SENDER, name=name))


@pytest.mark.parametrize("part", ["subject", "text", "html"])
def test_half_a_character_is_one_clear_sentence(part: str) -> None:
    with pytest.raises(Permanent, match="lone surrogate"):
        composed(**{part: "a\ud800"})


@pytest.mark.parametrize("subject", ["", " ", "\u3000"])
def test_a_mail_without_a_subject_is_refused(subject: str) -> None:
    with pytest.raises(Permanent, match="subject is empty"):
        composed(subject)


def test_a_subject_without_an_end_is_refused() -> None:
    for subject in ("word " * 2000 + "end", "ü" * 4000):
        with pytest.raises(Permanent, match="over 4 000 octets"):
            composed(subject)


# The check on every mail

MEANT = [("To", "a@example.com"), ("Subject", "one\r\n two")]
GOOD = b"To: a@example.com\r\nSubject: one\r\n two\r\n\r\nbody\r\n"


def test_the_check_passes_what_was_meant() -> None:
    check(GOOD, MEANT)
    assert {*NAMES, "Content-Transfer-Encoding", "List-Unsubscribe-Post"} == HEADERS


@pytest.mark.parametrize(
    "octets",
    [
        GOOD.replace(b"\r\nSubject", b"\r\nBcc: e@example.com\r\nSubject"),
        GOOD.replace(b"To: a@example.com\r\n", b"To: a@example.com\r\n" * 2),
        GOOD.replace(b"To: a@example.com\r\n", b""),
        GOOD.replace(b"a@", b"b@"),
        GOOD.replace(b"\r\n two", b"\r\n two\r\n three"),
        GOOD.replace(b"\r\n two", b"\r\n\ttwo"),
        GOOD.replace(b"\r\n", b"\n"),
        GOOD.replace(b"body", b"bo\ndy"),
        GOOD.replace(b"body", b"bo\rdy"),
        GOOD.replace(b"body", b"bo\0dy"),
        GOOD.replace(b"body", "bödy".encode()),
        GOOD.replace(b"body", b"x" * 999),
        GOOD.partition(b"\r\n\r\n")[0],
    ],
)
def test_the_check_refuses_anything_else(octets: bytes) -> None:
    with pytest.raises(Permanent, match="not sent"):
        check(octets, MEANT)


def test_the_check_refuses_a_header_outside_the_list_even_when_it_is_meant() -> None:
    with pytest.raises(Permanent, match=r"not allowed: Bcc"):
        check(b"Bcc: e\r\n\r\nbody\r\n", [("Bcc", "e")])


# Message-ID and token


def test_the_message_id_is_deterministic_and_tells_key_and_secret_apart() -> None:
    made = rfc_message_id(SECRET, KEY, "mail.example.com")
    assert re.fullmatch(r"<[a-z2-7]{32}@mail\.example\.com>", made)
    assert made == rfc_message_id(SECRET, KEY, "mail.example.com")
    assert made != rfc_message_id(SECRET, KEY + b"x", "mail.example.com")
    assert made != rfc_message_id(b"t" * 32, KEY, "mail.example.com")
    with pytest.raises(Misconfigured, match="no host name"):
        rfc_message_id(SECRET, KEY, "example.com>\r\nBcc: x")


@given(message_id=st.integers(0, 2**63 - 1))
def test_a_token_tells_its_message_and_needs_no_escaping(message_id: int) -> None:
    token = unsubscribe_token(SECRET, "k2", message_id)
    assert read_unsubscribe_token({"k1": b"old", "k2": SECRET}, token) == message_id
    assert unsubscribe_url(SENDER, token).endswith(f"?subject=unsubscribe%20{token}")
    assert len(token) == 37


def test_a_token_that_was_touched_or_signed_by_another_key_is_nobodys() -> None:
    token = unsubscribe_token(SECRET, "k1", 500)
    secrets = {"k1": SECRET, "k2": b"t" * 32}
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
    for place, letter in enumerate(token):
        for other in letters.replace(letter, ""):
            assert (
                read_unsubscribe_token(secrets, token[:place] + other + token[place + 1 :]) is None
            )
    for other in ("", token + "A", token[:-1], token + "\n", " " + token, "k3" + token[2:], "é"):
        assert read_unsubscribe_token(secrets, other) is None


def test_an_unsubscribe_address_is_escaped_for_its_url() -> None:
    sender = replace(SENDER, unsubscribe_mailto="off+list&x=1@example.com")
    assert unsubscribe_url(sender, "t").startswith("mailto:off%2Blist%26x%3D1@example.com?")
