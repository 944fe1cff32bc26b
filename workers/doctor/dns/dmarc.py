"""DMARC (RFC 7489): what the domain asks receivers to do, and whether our mail is aligned with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from workers.doctor.dns.names import Names
from workers.doctor.dns.tags import begins, tags
from workers.doctor.finding import Finding, error, fine, warning

if TYPE_CHECKING:
    from workers.doctor.dns import Asked

POLICIES: Final = ("none", "quarantine", "reject")


def look(names: Names, asked: Asked) -> Iterator[Finding]:
    """The record that holds for the domain: its own, else of the nearest domain above that has one."""
    place, records = _nearest(names, asked.domain)
    if not records:
        says = f"neither {asked.domain} nor a domain above it publishes any, and Gmail and Yahoo ask for one"
        hint = f'publish TXT at _dmarc.{asked.domain}: "v=DMARC1; p=none; rua=mailto:…"'
        yield error("dmarc", says, hint)
        return
    at = f"_dmarc.{place}"
    said = tags(records[0])
    if len(records) > 1 or said is None:
        says = f"{at} holds {len(records)} records" if len(records) > 1 else f"{at} cannot be read"
        yield error(
            "dmarc", f"{says}, and receivers pass it over", "leave one, of the form tag=value;"
        )
        return
    policy = said.get("p", "")
    if place != asked.domain:
        policy = said.get("sp", policy)
    if policy not in POLICIES:
        says = f"{at} has the policy {policy[:20]!r}, and receivers pass it over"
        yield error("dmarc", says, f"expected p= of {', '.join(POLICIES)}")
        return
    clean = True
    for finding in (*_alignment(asked, said, at), *_reports(names, place, said, at)):
        clean = False
        yield finding
    if policy == "none":
        says = f"{at}: policy none, which only watches"
        yield warning(
            "dmarc", says, "when the reports show your mail aligned: p=quarantine, later reject"
        )
    elif said.get("pct", "100") != "100":
        says = f"{at}: policy {policy} for {said['pct'][:5]} per cent"
        yield warning("dmarc", says, "when the reports are clean, take out pct")
    elif clean:
        yield fine("dmarc", f"{at}: policy {policy}, reports to {said['rua']}")


def _nearest(names: Names, domain: str) -> tuple[str, list[str]]:
    labels = domain.split(".")
    for start in range(max(len(labels) - 1, 1)):
        place = ".".join(labels[start:])
        found = [each for each in names.txt(f"_dmarc.{place}") if begins(each, "DMARC1")]
        if found:
            return place, found
    return domain, []


def _alignment(asked: Asked, said: dict[str, str], at: str) -> Iterator[Finding]:
    """Strict alignment asks for the very domain of From, where relaxed takes any below it."""
    if said.get("adkim", "r") == "s":
        others = sorted({each.domain for each in asked.signers} - {asked.domain})
        if others:
            says = f"{at} asks for strict DKIM alignment, and {', '.join(others)} signs for {asked.domain}"
            yield error("dmarc", says, f"sign with a key of {asked.domain}, or take out adkim=s")
    if said.get("aspf", "r") == "s" and asked.bounces_to != asked.domain:
        says = f"{at} asks for strict SPF alignment, and mail bounces to {asked.bounces_to}"
        yield warning("dmarc", says, "take out aspf=s: DMARC rests on DKIM alone else")


def _reports(names: Names, place: str, said: dict[str, str], at: str) -> Iterator[Finding]:
    """Whether somebody hears what receivers found; another domain has to agree (§7.1)."""
    if not said.get("rua"):
        yield warning(
            "dmarc", f"{at} names nobody for reports", "add rua=mailto:… of a mailbox of yours"
        )
        return
    for uri in said["rua"].split(","):
        address = uri.strip().partition("!")[0]
        host = address.rpartition("@")[2].lower()
        if not address.lower().startswith("mailto:") or not host:
            yield warning(
                "dmarc", f"{at} reports to {address[:60]!r}", "expected rua=mailto:name@host"
            )
        elif f".{host}".endswith(f".{place}") or f".{place}".endswith(f".{host}"):
            continue
        elif not any(begins(r, "DMARC1") for r in names.txt(f"{place}._report._dmarc.{host}")):
            says = f"{host} does not say that it takes reports for {place}, so none are sent there"
            hint = f'let {host} publish TXT "v=DMARC1" at {place}._report._dmarc.{host}'
            yield warning("dmarc", says, hint)
