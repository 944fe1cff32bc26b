"""DKIM (RFC 6376, RFC 8301, RFC 8463): whether what is published is what signs here."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tasks.send.dkim import Signer
from workers.doctor.dns.names import Names
from workers.doctor.dns.tags import tags
from workers.doctor.finding import Finding, error, fine, warning

if TYPE_CHECKING:
    from workers.doctor.dns import Asked

LEAST_BITS: Final = 1024
GOOD_BITS: Final = 2048
ED25519_OCTETS: Final = 32


def look(names: Names, asked: Asked) -> Iterator[Finding]:
    """Each key of ours that signs for the domain, and each selector that was asked for."""
    named = {(each.selector, each.domain): each for each in asked.signers}
    wanted: dict[tuple[str, str], Signer | None] = {**named}
    for selector in asked.selectors:
        if not any(selector == known for known, _ in named):
            wanted[selector, asked.domain] = None
    for (selector, domain), signer in wanted.items():
        yield from _one(names, selector, domain, signer)
    if not wanted and asked.relay_signs:
        says = "the relay signs, and its selector is not known here"
        yield warning(
            "dkim", says, "look into a mail's DKIM-Signature, and give --selector NAME (s=)"
        )
    elif not wanted:
        says = f"no key of DRIPFLEET_DKIM_KEYS signs for {asked.domain}"
        hint = (
            f"make one and name it: {asked.domain}/s1=FILE; `dripfleet stream dkim` has its record"
        )
        yield error("dkim", says, hint)
    if named and all(each.algorithm.startswith("ed25519") for each in asked.signers):
        says = "only Ed25519 signs, which Gmail and Microsoft do not verify"
        yield warning("dkim", says, "add an RSA key of 2048 bits under a selector of its own")


def _one(names: Names, selector: str, domain: str, signer: Signer | None) -> Iterator[Finding]:
    check, name = f"dkim {selector}", f"{selector}._domainkey.{domain}"
    publish = f"publish TXT at {name}: {signer.record}" if signer else f"publish TXT at {name}"
    records = names.txt(name)
    if not records:
        yield error(check, f"{name} holds nothing, so no signature of it verifies", publish)
        return
    if len(records) > 1:
        says = f"{name} holds {len(records)} records, and which one is read is nobody's to say"
        yield error(check, says, "leave one")
        return
    said = tags(records[0])
    if said is None or "p" not in said or said.get("v", "DKIM1") != "DKIM1":
        says = f"{name} holds no DKIM key: {records[0][:60]!r}"
        yield error(check, says, publish)
        return
    key = "".join(said["p"].split())
    if not key:
        yield error(check, f"{name} is revoked (p= is empty)", "sign with another selector")
        return
    if signer is not None and key != _key_of(signer):
        says = f"{name} holds another key than the one that signs here, so nothing verifies"
        yield error(check, says, publish)
        return
    fault, bits = _weak(said.get("k", "rsa"), key)
    if fault:
        yield error(
            check, f"{name}: {fault}", "publish the record that `dripfleet stream dkim` shows"
        )
        return
    if "sha256" not in said.get("h", "sha256"):
        yield error(check, f"{name} allows {said['h']} only, and we sign by sha256", "take out h=")
        return
    if bits and bits < GOOD_BITS:
        says = f"{name} has {bits} bits, and {GOOD_BITS} are asked for"
        yield warning(check, says, "make a key of 2048 bits under a new selector")
        return
    if "y" in said.get("t", "").split(":"):
        says = f"{name} says that it is being tested (t=y): some receivers pass it over"
        yield warning(check, says, "take out t=y")
        return
    kind = f"RSA of {bits} bits" if bits else "Ed25519"
    yield fine(check, f"{name}: {kind}" + (", the key that signs here" if signer else ""))


def _key_of(signer: Signer) -> str:
    return signer.record.rpartition("p=")[2]


def _weak(kind: str, key: str) -> tuple[str, int]:
    """What is wrong with a published key, or nothing, and the bits of an RSA key."""
    try:
        octets = b64decode(key, validate=True)
    except ValueError:
        return "its key is no base64", 0
    if kind == "ed25519":
        return ("" if len(octets) == ED25519_OCTETS else "its key is not of 32 octets"), 0
    if kind != "rsa":
        return f"k={kind[:20]} is no kind of key that DKIM knows", 0
    try:
        public = load_der_public_key(octets)
    except (ValueError, UnsupportedAlgorithm):
        return "its key cannot be read", 0
    if not isinstance(public, RSAPublicKey):
        return "its key is not RSA, as it says", 0
    if public.key_size < LEAST_BITS:
        return f"its key has {public.key_size} bits, and receivers refuse it (RFC 8301)", 0
    return "", public.key_size
