"""What `doctor dns` makes of a domain's records, asked of a real DNS server on this machine."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tasks.send.dkim import Signer, read_key
from tests.unit.name_server import Zone, quoted, serving
from workers.cli import main
from workers.doctor.dns import Asked, look, transport
from workers.doctor.dns.names import Names, Unanswered
from workers.doctor.finding import Finding

IP = "192.0.2.25"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("keys") / "s1.pem"
    key = rsa.generate_private_key(65537, 2048)
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    file.chmod(0o600)
    return f"shop.example/s1={file}"


@lru_cache
def signer(place: str) -> Signer:
    """Its key is checked as it is read, which takes a while."""
    return read_key(place)


def sound(place: str) -> Zone:
    """A domain at which nothing is to be said."""
    return {
        "shop.example": {
            "TXT": [quoted("v=spf1 include:relay.example -all"), quoted("something else")],
            "MX": ["10 mx.shop.example."],
        },
        "relay.example": {"TXT": [quoted(f"v=spf1 ip4:{IP} a:out.relay.example ?all")]},
        "out.relay.example": {"A": [IP]},
        "mx.shop.example": {"A": ["192.0.2.9"]},
        "s1._domainkey.shop.example": {"TXT": [quoted(signer(place).record)]},
        "_dmarc.shop.example": {
            "TXT": [quoted("v=DMARC1; p=reject; rua=mailto:dmarc@shop.example")]
        },
        "25.2.0.192.in-addr.arpa": {"PTR": ["out.relay.example."]},
    }


def told(
    zone: Zone, place: str, domain: str = "shop.example", selectors: Sequence[str] = ()
) -> list[Finding]:
    signers = [] if place in ("", "relay") else [signer(place)]
    asked = Asked(domain, f"bounce@{domain}", signers, place == "relay", selectors, (IP,))
    with serving(zone) as port:
        return look(Names("127.0.0.1", port, 2.0), asked)


def of(found: list[Finding], check: str) -> tuple[str, str]:
    """Severity and sentence of the one finding of a check, which names a next move if it is bad."""
    (one,) = [each for each in found if each.check.split()[0] == check]
    assert one.severity == "fine" or one.next
    return one.severity, one.says


def test_a_domain_that_says_everything_is_fine(place: str) -> None:
    found = told(sound(place), place)
    assert {each.severity for each in found} == {"fine"}
    assert of(found, "spf") == ("fine", "shop.example: 2 of 10 questions, ends in -all")
    assert of(found, "dkim")[1].endswith("RSA of 2048 bits, the key that signs here")
    assert of(found, "ptr") == ("fine", f"{IP} is out.relay.example, and back")


@pytest.mark.parametrize(
    ("record", "severity", "says"),
    [
        ("v=spf1 +all", "error", "anybody may send"),
        ("v=spf1 all", "error", "anybody may send"),
        (f"v=spf1 ip4:{IP}", "warning", "it has no end"),
        (f"v=spf1 ip4:{IP} ?all", "warning", "ends in ?all"),
        ("v=spf1 ip4:192.0.2.0/28 -all", "error", f"does not allow {IP}"),
        (f"v=spf1 -ip4:{IP} -all", "error", f"does not allow {IP}"),
        (f"v=spf1 ip4:{IP} include:gone.example -all", "error", "publishes no record"),
        (f"v=spf1 ip4:{IP} ipv4:1.2.3.4 -all", "error", "no mechanism of SPF"),
        (f"v=spf1 ip4:{IP}/99 -all", "error", "is no address"),
        ("v=spf1 redirect=relay.example", "warning", "ends in ?all"),
        ("v=spf1 a:out.relay.example/24 ~all", "fine", "1 of 10"),
        ("v=spf1 exists:%{i}.list.example ~all", "fine", "1 of 10"),
        (f"v=spf1 ip4:{IP} " + " ".join(f"a:h{n}.example" for n in range(11)) + " -all",
         "error", "takes 11 questions"),
        (f"v=spf1 ip4:{IP} include:ring.example -all", "error", "takes"),
        (f"v=spf1 ip4:{IP} a:x.example a:y.example a:z.example -all", "error", "3 of its names"),
    ],
)  # fmt: skip
def test_spf_is_followed_as_receivers_follow_it(
    place: str, record: str, severity: str, says: str
) -> None:
    zone = sound(place)
    zone["shop.example"] = {**zone["shop.example"], "TXT": [quoted(record)]}
    zone["ring.example"] = {"TXT": [quoted("v=spf1 include:ring.example -all")]}
    for n in range(11):
        zone[f"h{n}.example"] = {"A": ["192.0.2.77"]}
    found = [each for each in told(zone, place) if each.check == "spf"]
    assert any(each.severity == severity and says in each.says for each in found), found


def test_two_spf_records_are_as_bad_as_none(place: str) -> None:
    zone = sound(place)
    zone["shop.example"] = {"TXT": [quoted("v=spf1 -all"), quoted("v=spf1 ~all")], "MX": []}
    assert of(told(zone, place), "spf")[0] == "error"
    del zone["shop.example"]
    assert "publishes none" in of(told(zone, place), "spf")[1]


def _rsa(bits: int) -> str:
    public = rsa.generate_private_key(65537, bits).public_key()
    return b64encode(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


@pytest.mark.parametrize(
    ("record", "severity", "says"),
    [
        (None, "error", "holds nothing"),
        ("v=DKIM1; p=", "error", "revoked"),
        ("v=DKIM1; k=rsa", "error", "holds no DKIM key"),
        ("v=DKIM1; k=rsa; p=" + _rsa(2048), "error", "another key than the one that signs here"),
    ],
)
def test_dkim_compares_what_is_published_with_what_signs(
    place: str, record: str | None, severity: str, says: str
) -> None:
    zone = sound(place)
    del zone["s1._domainkey.shop.example"]
    if record is not None:
        zone["s1._domainkey.shop.example"] = {"TXT": [quoted(record)]}
    found = of(told(zone, place), "dkim")
    assert found[0] == severity and says in found[1]


def test_selectors_that_are_named_are_looked_at_without_a_key(place: str) -> None:
    zone = sound(place)
    zone["old._domainkey.shop.example"] = {"TXT": [quoted("k=rsa; p=" + _rsa(1024))]}
    found = told(zone, "relay", selectors=("old", "gone"))
    by_check = {each.check: (each.severity, each.says) for each in found}
    assert by_check["dkim old"][0] == "warning" and "1024 bits" in by_check["dkim old"][1]
    assert by_check["dkim gone"][0] == "error"
    assert "its selector is not known here" in of(told(zone, "relay"), "dkim")[1]
    assert "no key of DRIPFLEET_DKIM_KEYS" in of(told(zone, ""), "dkim")[1]


@pytest.mark.parametrize(
    ("record", "severity", "says"),
    [
        (None, "error", "publishes any"),
        ("v=DMARC1; p=none; rua=mailto:d@shop.example", "warning", "only watches"),
        ("v=DMARC1; p=reject", "warning", "names nobody for reports"),
        ("v=DMARC1; p=later", "error", "policy 'later'"),
        ("v=DMARC1; p=reject; pct=20; rua=mailto:d@shop.example", "warning", "20 per cent"),
        ("v=DMARC1; p=reject; rua=mailto:d@reports.example", "warning", "does not say that it takes"),
    ],
)  # fmt: skip
def test_dmarc_is_read_to_its_reports(
    place: str, record: str | None, severity: str, says: str
) -> None:
    zone = sound(place)
    del zone["_dmarc.shop.example"]
    if record is not None:
        zone["_dmarc.shop.example"] = {"TXT": [quoted(record)]}
    found = of(told(zone, place), "dmarc")
    assert found[0] == severity and says in found[1]


def test_dmarc_of_a_subdomain_is_its_parents_and_strict_alignment_is_held_to(place: str) -> None:
    zone = sound(place)
    zone["_dmarc.shop.example"] = {
        "TXT": [quoted("v=DMARC1; p=reject; sp=quarantine; adkim=s; rua=mailto:d@shop.example")]
    }
    found = [each for each in told(zone, place, "news.shop.example") if each.check == "dmarc"]
    assert [each.severity for each in found] == ["error"]
    assert "shop.example signs for news.shop.example" in found[0].says


def test_mx_and_ptr_lead_somewhere_and_back(place: str) -> None:
    zone = sound(place)
    zone["25.2.0.192.in-addr.arpa"] = {"PTR": ["elsewhere.example."]}
    zone["shop.example"] = {**zone["shop.example"], "MX": ["0 ."]}
    found = told(zone, place)
    assert of(found, "ptr")[0] == "error" and "null MX" in of(found, "mx")[1]
    del zone["25.2.0.192.in-addr.arpa"]
    zone["shop.example"] = {**zone["shop.example"], "MX": ["5 gone.example."]}
    found = told(zone, place)
    assert "no PTR record" in of(found, "ptr")[1] and "has no address" in of(found, "mx")[1]


POLICY = "version: STSv1\nmode: enforce\nmx: *.shop.example\nmax_age: 604800\n"


@pytest.mark.parametrize(
    ("policy", "severity", "says"),
    [
        (POLICY, "fine", "enforced for *.shop.example"),
        (POLICY.replace("*.shop", "*.other"), "error", "mx.shop.example is an MX"),
        (POLICY.replace("enforce", "testing"), "warning", "nothing is enforced"),
        (POLICY.replace("604800", "60"), "warning", "max_age is 60"),
        ("<html>", "error", "holds no policy"),
        (None, "warning", "could not be fetched from here (no route)"),
    ],
)
def test_mta_sts_is_held_against_the_mx(
    place: str, monkeypatch: pytest.MonkeyPatch, policy: str | None, severity: str, says: str
) -> None:
    zone = sound(place)
    zone["_mta-sts.shop.example"] = {"TXT": [quoted("v=STSv1; id=20260101;")]}
    zone["_smtp._tls.shop.example"] = {"TXT": [quoted("v=TLSRPTv1; rua=mailto:t@shop.example")]}
    monkeypatch.setattr(transport, "_fetch", lambda url: (policy, "no route"))
    found = told(zone, place)
    assert of(found, "mta-sts")[0] == severity and says in of(found, "mta-sts")[1]
    assert of(found, "tls-rpt") == ("fine", "reports go to mailto:t@shop.example")


def test_a_name_that_fails_hides_nothing_and_silence_is_no_answer(place: str) -> None:
    zone = sound(place)
    zone["_dmarc.shop.example"] = {}
    found = told(zone, place)
    assert of(found, "dmarc")[0] == "warning" and "SERVFAIL" in of(found, "dmarc")[1]
    assert of(found, "spf")[0] == "fine"
    with pytest.raises(Unanswered):
        look(Names("127.0.0.1", 9, 0.05), Asked("shop.example"))


def test_the_command_tells_by_its_exit_code(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("DRIPFLEET_DKIM_KEYS", place)
    monkeypatch.setenv("DRIPFLEET_BOUNCE_ADDRESS", "bounce@shop.example")
    monkeypatch.setenv("DRIPFLEET_HOME", str(tmp_path))
    with serving(sound(place)) as port:
        asked = ["--resolver", f"127.0.0.1:{port}", "--ip", IP]
        assert main(["doctor", "dns", "shop.example", *asked]) == 0
        assert {each["severity"] for each in json.loads(capsys.readouterr().out)} == {"fine"}
        assert main(["doctor", "dns", "shop.example", *asked, "--bounce", "b.other.example"]) == 3
        assert "b.other.example publishes none" in capsys.readouterr().out
        assert main(["doctor", "dns", "other.example", *asked]) == 3
        assert main(["doctor", "dns", "nonsense", *asked]) == 2
        assert main(["doctor", "dns", "shop.example", "--ip", "here"]) == 2
        assert "is no IP address" in capsys.readouterr().err
    monkeypatch.setattr("workers.cli.doctor_dns.PATIENCE", 0.05)
    assert main(["doctor", "dns", "shop.example", "--resolver", "127.0.0.1:9"]) == 4
    assert "the DNS does not answer" in capsys.readouterr().err
