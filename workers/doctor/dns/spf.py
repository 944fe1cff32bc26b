"""SPF (RFC 7208): who may send as the envelope's domain, followed through its includes as receivers do.

Receivers stop after ten questions and call what is beyond them a fault (§4.6.4): the whole record is
then worth nothing, for everybody who sends by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final

from workers.doctor.dns.names import Names
from workers.doctor.finding import Finding, error, fine, warning

if TYPE_CHECKING:
    from workers.doctor.dns import Asked

MOST: Final = 10
MOST_VOID: Final = 2
DEEPEST: Final = 20  # a chain that long is a ring, or far beyond ten questions anyway
ASKS: Final = frozenset(("include", "a", "mx", "ptr", "exists", "redirect"))


@dataclass(slots=True)
class Walk:
    """What following a record came to: questions, empty answers, faults, and whose records were read."""

    addresses: Sequence[str]
    lookups: int = 0
    void: int = 0
    faults: list[str] = field(default_factory=list)
    chain: list[str] = field(default_factory=list)
    allowed: set[str] = field(default_factory=set)
    unknown: bool = False


def look(names: Names, asked: Asked) -> Iterator[Finding]:
    """The record of the envelope's domain: there, one, within ten questions, closed at its end."""
    domain = asked.bounces_to
    records = _records(names, domain)
    if not records:
        says = f"{domain} publishes none, so receivers cannot tell who may send for it"
        hint = f'publish TXT at {domain}: "v=spf1 include:… -all", with what your relay names'
        yield error("spf", says, hint)
        return
    if len(records) > 1:
        says = f"{domain} publishes {len(records)} records, and receivers take that for a fault"
        yield error("spf", says, "join them into one TXT record")
        return
    walk = Walk(asked.addresses)
    end = _follow(names, domain, records[0], walk, DEEPEST)
    for fault in dict.fromkeys(walk.faults):
        yield error("spf", fault, f"correct the TXT record at {domain}, or at whom it includes")
    if walk.lookups > MOST:
        says = f"{domain} takes {walk.lookups} questions, and receivers stop after {MOST}: it fails"
        hint = "take out includes that send nothing, or write ip4: and ip6: in place of some"
        yield error("spf", f"{says} ({' > '.join(walk.chain)})", hint)
    if walk.void > MOST_VOID:
        says = f"{walk.void} of its names are not there, and receivers stop after {MOST_VOID}"
        yield error("spf", says, "take the names out that are gone")
    if end == "+":
        yield error("spf", "it ends in +all: anybody may send for it", "end it in ~all or -all")
    elif end in ("?", ""):
        says = "it has no end" if not end else "it ends in ?all"
        yield warning("spf", f"{says}, so it refuses nobody", "end it in ~all or -all")
    missing = [each for each in asked.addresses if each not in walk.allowed]
    if missing and not walk.unknown:
        hint = f"add ip4:{missing[0]} or the include of your relay" if ":" not in missing[0] else (
            f"add ip6:{missing[0]} or the include of your relay"
        )  # fmt: skip
        yield error("spf", f"it does not allow {', '.join(missing)}, by which mail leaves", hint)
    elif not walk.faults and walk.lookups <= MOST and walk.void <= MOST_VOID and end in ("~", "-"):
        yield fine("spf", f"{domain}: {walk.lookups} of {MOST} questions, ends in {end}all")
    if _organization(domain) != _organization(asked.domain):
        says = f"mail bounces to {domain}, which is not aligned with {asked.domain}: DMARC rests on DKIM"
        yield warning("spf", says, f"give DRIPFLEET_BOUNCE_ADDRESS an address at {asked.domain}")


def _organization(domain: str) -> str:
    """The part of a domain that one registers, near enough: two labels, three below such as co.uk."""
    labels = domain.split(".")
    short = len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3
    return ".".join(labels[-3 if short else -2 :])


def _records(names: Names, domain: str) -> list[str]:
    return [each for each in names.txt(domain) if each.lower().split(" ")[0] == "v=spf1"]


def _follow(names: Names, domain: str, record: str, walk: Walk, depth: int) -> str:
    """Read a record and whom it includes; the sign before `all`, that of its redirect, or none."""
    walk.chain.append(domain)
    end, redirect = "", ""
    for term in record.split()[1:]:
        sign = term[0] if term[0] in "+-~?" else ""
        name, _, value = term.removeprefix(sign).partition(":")
        if "=" in name:
            name, _, value = term.partition("=")
        mechanism, _, bits = name.partition("/")
        mechanism = mechanism.lower()
        if mechanism == "all":
            end = sign or "+"
            break
        if mechanism in ("ip4", "ip6"):
            _network(value, domain, walk, sign or "+")
            continue
        if mechanism == "redirect":
            redirect = value
            continue
        if mechanism not in ASKS:
            if "=" not in term:
                walk.faults.append(f"{domain} says {term[:60]!r}, which is no mechanism of SPF")
            continue
        walk.lookups += 1
        if "%" in value or mechanism in ("ptr", "exists"):
            walk.unknown = True  # it depends on each mail
            continue
        if walk.lookups > MOST + DEEPEST or depth <= 0:
            continue
        target, _, more = (value or domain).partition("/")
        if mechanism == "include":
            before = set(walk.allowed)
            _include(names, target, walk, depth)
            if sign not in ("", "+"):
                walk.allowed = before
        else:
            _hosts(names, mechanism, target, bits or more, walk, sign or "+")
    if not end and redirect:
        walk.lookups += 1
        found = _records(names, redirect) if "%" not in redirect and depth > 0 else []
        if len(found) == 1:
            return _follow(names, redirect, found[0], walk, depth - 1)
        walk.faults.append(f"{domain} redirects to {redirect}, which publishes no record")
    return end


def _include(names: Names, target: str, walk: Walk, depth: int) -> None:
    found = _records(names, target)
    if len(found) == 1:
        _follow(names, target, found[0], walk, depth - 1)
    else:
        some = "no record" if not found else f"{len(found)} records"
        walk.faults.append(f"it includes {target}, which publishes {some}: the whole of it fails")


def _hosts(names: Names, mechanism: str, target: str, bits: str, walk: Walk, sign: str) -> None:
    hosts = [host for _, host in names.mx(target) if host] if mechanism == "mx" else [target]
    if len(hosts) > MOST:
        walk.faults.append(f"{target} has {len(hosts)} MX hosts, and SPF allows {MOST} for mx")
    found = [address for host in hosts[:MOST] for address in names.addresses(host)]
    walk.void += not found
    bits = bits.partition("//")[0]  # of IPv4 alone: nobody writes the other one
    for address in found:
        size = bits if bits.isdecimal() and ":" not in address else ""
        _network(f"{address}/{size}" if size else address, target, walk, sign)


def _network(given: str, domain: str, walk: Walk, sign: str) -> None:
    try:
        network = ip_network(given, strict=False)
    except ValueError:
        walk.faults.append(f"{domain} names {given[:60]!r}, which is no address")
        return
    if sign == "+":
        walk.allowed |= {each for each in walk.addresses if ip_address(each) in network}
