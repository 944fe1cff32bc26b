"""Signatures, as somebody else's verifier reads them."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import dkim as dkimpy
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateKey,
)
from cryptography.hazmat.primitives.asymmetric.rsa import (
    generate_private_key as generate_rsa_key,
)
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import Misconfigured
from tasks.send.content import HEADERS, Facts, Sender, compose
from tasks.send.dkim import SIGNED, Digests, Keyring, Signer, read_key
from tasks.send.envelope import stuffed
from tasks.send.render import Rendered

AT = datetime(2026, 3, 1, 12, 0, 5, 999, tzinfo=UTC)
KEY = sha256(b"effect").digest()
SENDER = Sender("Records & Co", "shop@example.com", "1 Example Street", "off@example.com")
RSA = generate_rsa_key(65537, 2048)
ED25519 = Ed25519PrivateKey.generate()
SIGNERS = [Signer("example.com", "s2026", RSA), Signer("example.com", "ed", ED25519)]
RING = Keyring(SIGNERS)

ONE_LINE = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1).filter(
    lambda text: not text.isspace()
)
BODIES = st.lists(
    st.sampled_from(
        ["", " ", "\t", ".", "..", "From me", "é" * 90, "👩🏽‍🚀", "مرحبا", "a  b ", "=", "\r"]
    )
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
).map("\n".join)


def mail(subject: str = "s", text: str = "t\n", html: str | None = None, to: str = "ada") -> bytes:
    facts = Facts("<x@example.com>", f"{to}@example.org", AT, KEY, "k1.AAAA.bbbb")
    return compose(Rendered(subject, text, html), message=facts, sender=SENDER).octets


def published(name: bytes, timeout: int = 5) -> bytes | None:
    """What DNS says of a name."""
    records = {f"{s.selector}._domainkey.{s.domain}.": s.record.encode() for s in SIGNERS}
    return records.get(name.decode())


def verified(octets: bytes) -> list[bool]:
    """What dkimpy says of each signature, topmost first."""
    checker = dkimpy.DKIM(octets)
    count = len(re.findall(rb"(?im)^dkim-signature:", octets.partition(b"\r\n\r\n")[0]))
    said = []
    for number in range(count):
        try:
            said.append(checker.verify(idx=number, dnsfunc=published))
        except dkimpy.DKIMException:
            said.append(False)
    return said


def signed(octets: bytes) -> bytes:
    return RING.sign(octets, "shop@example.com", AT) + octets


# Signatures


@given(subject=ONE_LINE, text=BODIES, html=st.none() | BODIES)
@settings(max_examples=60, deadline=None)
def test_dkimpy_verifies_both_signatures_of_any_mail(
    subject: str, text: str, html: str | None
) -> None:
    octets = signed(mail(subject[:300], text, html))
    assert verified(octets) == [True, True]
    assert max(map(len, octets.split(b"\r\n"))) <= 78 or len(subject) > 20


def test_a_mail_for_an_address_outside_ascii_is_verified_too() -> None:
    assert verified(signed(mail(to="zoë"))) == [True, True]


def test_dots_are_stuffed_after_signing_and_taken_out_before_verifying() -> None:
    octets = signed(mail(text=".\n..\nplain\n"))
    wire = stuffed(octets)
    assert wire != octets
    assert verified(wire.replace(b"\r\n..", b"\r\n.")) == [True, True]


@pytest.mark.parametrize(
    "forged",
    [
        b"From: eve@example.com\r\n",
        b"Subject: another\r\n",
        b"Reply-To: eve@example.com\r\n",
        b"Cc: eve@example.com\r\n",
        b"List-Unsubscribe: <https://example.org/>\r\n",
        b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
        b"Content-Type: text/html\r\n",
        b"Content-Transfer-Encoding: base64\r\n",
    ],
)
def test_no_signed_header_can_be_added_on_the_way(forged: bytes) -> None:
    octets = signed(mail(html="<p>h</p>"))
    assert verified(forged + octets) == [False, False]
    head, gap, body = octets.partition(b"\r\n\r\n")
    assert verified(head + b"\r\n" + forged[:-2] + gap + body) == [False, False]


@pytest.mark.parametrize(
    "change",
    [
        lambda octets: octets.replace(b"List-Unsubscribe: <", b"List-Unsubscribe: <x"),
        lambda octets: octets.replace(b"Subject: s", b"Subject: t"),
        lambda octets: octets.replace(b"\r\n\r\nt\r\n", b"\r\n\r\nu\r\n"),
        lambda octets: octets + b"more\r\n",
    ],
)
def test_what_changes_on_the_way_is_noticed(change: Callable[[bytes], bytes]) -> None:
    assert verified(change(signed(mail()))) == [False, False]
    assert verified(signed(mail()) + b"\r\n\r\n") == [True, True]  # empty lines do not count


def test_every_header_that_a_mail_may_have_is_signed_and_from_twice() -> None:
    assert set(SIGNED) >= HEADERS
    assert {"List-Unsubscribe", "List-Unsubscribe-Post"} <= set(SIGNED)
    assert SIGNED.count("From") == 2


def test_a_retry_has_the_same_signature_and_another_time_another_one() -> None:
    octets = mail()
    one = RING.sign(octets, "shop@example.com", AT)
    assert one == RING.sign(octets, "shop@example.com", AT.replace(microsecond=0))
    later = AT.replace(second=6)
    assert one != RING.sign(octets, "shop@example.com", later)
    assert b" t=1772366405;" in one


def test_digests_are_those_of_the_standard() -> None:
    # RFC 6376 §3.4.5: relaxed headers; §3.4.3: an empty body is one CRLF.
    digests = Digests.of(b"From: X \r\nSubject : Y\t\r\n\tZ  \r\n\r\n")
    assert digests.headers == b"from:X\r\nsubject:Y Z\r\n"
    assert digests.body == base64.b64encode(sha256(b"\r\n").digest())


# Keys


def stored(folder: Path, key: object, mode: int = 0o600, passphrase: bytes | None = None) -> Path:
    file = folder / "key.pem"
    how = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how))  # type: ignore[attr-defined]
    file.chmod(mode)
    return file


@pytest.mark.parametrize("key", [RSA, ED25519], ids=["rsa", "ed25519"])
def test_a_key_is_read_from_a_file_of_its_owner(
    tmp_path: Path, key: RSAPrivateKey | Ed25519PrivateKey
) -> None:
    signer = read_key(f"example.com/s.1={stored(tmp_path, key)}")
    assert (signer.domain, signer.selector) == ("example.com", "s.1")
    assert signer.record == Signer("example.com", "s.1", key).record


def refused(place: str) -> str:
    with pytest.raises(Misconfigured) as caught:
        Keyring.of(place)
    return str(caught.value)


def test_a_key_that_cannot_sign_is_one_clear_sentence(tmp_path: Path) -> None:
    file = stored(tmp_path, RSA, 0o640)
    assert "mode 0640); expected 0600: run `chmod 600" in refused(f"example.com/s={file}")
    assert "cannot be read (FileNotFoundError)" in refused(f"example.com/s={tmp_path}/none")
    assert "cannot be read (IsADirectoryError)" in refused(f"example.com/s={tmp_path}")
    for place in ("example.com=x", "Example.com/s=x", "example.com/s", "x/s=x", "a.com/s="):
        assert "expected DOMAIN/SELECTOR=FILE" in refused(place)
    said = refused(f"example.com/s={stored(tmp_path, RSA, passphrase=b'hush')}")
    assert "no private key in PEM without a passphrase" in said and "hush" not in said
    short = generate_rsa_key(65537, 1024)
    assert "has 1024 bits" in refused(f"example.com/s={stored(tmp_path, short)}")
    curve = generate_private_key(SECP256R1())
    assert "neither RSA nor Ed25519" in refused(f"example.com/s={stored(tmp_path, curve)}")
    file.write_text("-----BEGIN NONSENSE-----")
    assert "no private key in PEM" in refused(f"example.com/s={file}")


def test_the_keys_of_the_nearest_domain_sign() -> None:
    news = Signer("news.example.com", "n", ED25519)
    ring = Keyring([*SIGNERS, news])
    assert ring.of_sender("a@example.com") == SIGNERS
    assert ring.of_sender("a@mail.example.com") == SIGNERS
    assert ring.of_sender("a@NEWS.example.com") == [news]
    assert ring.of_sender("a@notexample.com") == [] == Keyring.of("").of_sender("a@example.com")
    assert Keyring.of("").sign(mail(), "a@example.com", AT) == b""
    assert list(Keyring.of("relay")) == []
