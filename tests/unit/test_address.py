"""Which addresses are taken, how they are spelled, and who they belong to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.audience.address import MOST_OCTETS, RefusedAddress, address_hmac, parse
from tasks.send.envelope import Envelope

SECRET = b"a secret of the tests"


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("zoe@example.com", "zoe@example.com"),
        ("Zoe.M+list@Example.COM", "Zoe.M+list@example.com"),
        ("o'hara@sub.example.co.uk", "o'hara@sub.example.co.uk"),
        ("zoe@müller.de", "zoe@xn--mller-kva.de"),
        ("zoe@XN--MLLER-KVA.de", "zoe@xn--mller-kva.de"),
        ("x" * 64 + "@example.com", "x" * 64 + "@example.com"),
        ("Zoë@Example.com", "Zoë@example.com"),
        ("Zoe\u0308@example.com", "Zoë@example.com"),
        ("用户@例え.jp", "用户@xn--r8jz45g.jp"),
        ("\N{KELVIN SIGN}@example.com", "K@example.com"),
    ],
)
def test_an_address_is_stored_with_its_domain_in_lower_case_ascii(given: str, stored: str) -> None:
    assert parse(given) == stored


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("", "empty"),
        ("zoe", "no @"),
        ("zoe@example", "no dot"),
        ("zoe@", "no dot"),
        ("@example.com", "before the @"),
        ("zoe @example.com", "space"),
        (" zoe@example.com", "space"),
        ("zoe@example.com\r\nBcc: all@example.com", "line break"),
        ("zoe@example.com\n", "line break"),
        ("zoe\x00@example.com", "NUL"),
        ("zoe@exam\tple.com", "tab"),
        ("ë" * 33 + "@example.com", "64"),
        ("zo\u202ee@example.com", "unsafe"),
        ("zo\u00a0ë@example.com", "unsafe"),
        ("zo\N{GREEK QUESTION MARK}e@example.com", "';'"),
        ("a@b@example.com", "@"),
        ("zoe..m@example.com", "two periods"),
        ("zoe@-example.com", "hyphen"),
        ("zoe@example.com.", "end with a period"),
        ("zoe@exa_mple.com", "_"),
        ("zoe@192.0.2.1", "not valid"),
        ("zoe@[192.0.2.1]", "IP address"),
        ("Zoe <zoe@example.com>", "space"),
        ("<zoe@example.com>", "display name"),
        ('"z"@example.com', "Quoting"),
        ("x" * 65 + "@example.com", "64"),
        ("zoe@" + "example." * 32 + "com", "long"),
        ("zoe@xn--a.de", "@"),
    ],
)
def test_what_no_mail_can_be_sent_to_is_refused_in_one_sentence(given: str, word: str) -> None:
    with pytest.raises(RefusedAddress) as refused:
        parse(given)
    sentence = str(refused.value)
    assert word in sentence
    assert "\n" not in sentence and not sentence.endswith(".")


@given(st.text(max_size=40))
def test_whatever_is_given_the_answer_is_an_address_fit_for_the_envelope(text: str) -> None:
    for candidate in (text, f"{text}@example.com", f"zoe@{text}", f"zoe@{text}.com"):
        try:
            address = parse(candidate)
        except RefusedAddress:
            continue
        assert address.rpartition("@")[2].isascii()
        assert address.isprintable() and " " not in address
        assert len(address.encode()) <= MOST_OCTETS and address.count("@") == 1
        assert parse(address) == address
        assert Envelope("", address).recipient == address


def test_case_does_not_make_another_subscriber() -> None:
    assert address_hmac(SECRET, parse("Zoe@EXAMPLE.com")) == address_hmac(
        SECRET, parse("zoe@example.com")
    )


def identity(address: str) -> bytes:
    return address_hmac(SECRET, parse(address))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Zoë@example.com", "ZOË@example.com"),
        ("zoë@example.com", "zoe\u0308@example.com"),
        ("ΟΔΟΣ@example.com", "οδος@example.com"),
        ("οδοσ.α@example.com", "ΟΔΟΣ.Α@example.com"),
        ("STRAẞE@example.com", "straße@example.com"),
        ("\N{KELVIN SIGN}@example.com", "k@example.com"),
    ],
)
def test_outside_ascii_case_and_composition_make_no_other_subscriber(one: str, other: str) -> None:
    assert identity(one) == identity(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("straße@example.com", "strasse@example.com"),
        ("zoë@example.com", "zoe@example.com"),
        ("ﬁn@example.com", "fin@example.com"),
        ("ısı@example.com", "isi@example.com"),
    ],
)
def test_letters_that_only_look_alike_are_two_subscribers(one: str, other: str) -> None:
    assert identity(one) != identity(other)


def test_an_ascii_identity_is_what_it_always_was() -> None:
    digest = "f50de610777ccdab95656ffd34c4a83d28690806905547a2ef2764695b0c6134"
    assert identity("Zoe.M+list@Example.COM").hex() == digest


def test_the_identity_depends_on_the_secret() -> None:
    one = address_hmac(SECRET, "zoe@example.com")
    assert len(one) == 32
    assert one != address_hmac(b"another secret", "zoe@example.com")
