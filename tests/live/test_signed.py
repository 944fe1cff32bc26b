"""Mail that leaves the fleet signed, and what doctor says of mail that does not."""

from __future__ import annotations

from email import message_from_bytes
from pathlib import Path

import dkim as dkimpy
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import text

from models.session import Database
from tasks.errors import Misconfigured
from tasks.send.dkim import read_key
from tasks.send.prepare import Preparer
from tests.live.fleet import Make
from workers.doctor import signatures
from workers.doctor.finding import Finding
from workers.embedded.sink import read_mail


def key(folder: Path) -> Path:
    file = folder / "s.pem"
    octets = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    file.write_bytes(octets)
    file.chmod(0o600)
    return file


def said(database: Database) -> dict[str, Finding]:
    with database.transaction() as connection:
        return {finding.check: finding for finding in signatures.signatures(connection)}


def test_a_mail_arrives_signed_and_is_frozen_without_its_signature(
    fleet_with: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"example.com/s={key(tmp_path)}"
    monkeypatch.setenv("DRIPFLEET_DKIM_KEYS", place)
    fleet = fleet_with()
    fleet.enrolled(1)
    assert fleet.send()["sent"] == 1
    (line,) = fleet.sink.lines()
    octets = read_mail(tmp_path / "mail", line)
    record = read_key(place).record.encode()
    assert dkimpy.verify(octets, dnsfunc=lambda name, timeout=5: record)
    frozen = fleet.one("SELECT content_sha256, frozen_at, rfc_message_id FROM message")
    assert line.message_id == frozen.rfc_message_id
    signature = message_from_bytes(octets)["DKIM-Signature"]
    assert f" t={int(frozen.frozen_at.timestamp())};" in signature
    # What was frozen is the mail without the header on top of it.
    unsigned = octets[octets.index(b"\r\nDate: ") + 2 :]
    assert fleet.one("SELECT sha256(CAST(:mail AS bytea))", mail=unsigned)[0] == frozen[0]


def test_doctor_names_marketing_that_nobody_signs_for_and_keys_that_cannot_sign(
    fleet_with: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_with()
    assert said(fleet.database)["signatures"].severity == "fine"
    with fleet.database.transaction() as connection:
        connection.execute(
            text("UPDATE stream SET sender = 'Shop <news@shop.example>' WHERE key = 'marketing'")
        )
    bare = said(fleet.database)["stream marketing"]
    assert bare.severity == "error"
    assert "nobody signs what goes out as news@shop.example" in bare.says
    assert "name a key of shop.example in DRIPFLEET_DKIM_KEYS" in bare.next
    monkeypatch.setenv("DRIPFLEET_COMPLIANCE", "warn")
    assert said(fleet.database)["stream marketing"].severity == "warning"
    monkeypatch.setenv("DRIPFLEET_DKIM_KEYS", f"shop.example/s={key(tmp_path)}")
    assert "s._domainkey.shop.example" in said(fleet.database)["signatures"].says
    monkeypatch.setenv("DRIPFLEET_DKIM_KEYS", "relay")
    assert said(fleet.database)["signatures"].severity == "fine"
    monkeypatch.setenv("DRIPFLEET_DKIM_KEYS", f"shop.example/s={tmp_path}/none.pem")
    with pytest.raises(Misconfigured, match="cannot be read"):
        said(fleet.database)
    with pytest.raises(Misconfigured, match="cannot be read"):
        Preparer(fleet.database, fleet.settings.model_copy(update={"dkim_keys": "a.com/s=/none"}))
