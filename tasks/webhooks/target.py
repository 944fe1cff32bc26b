"""Which addresses may be called: none inside a network, whatever name leads there (SSRF).

A name is looked up once for each connection, *every* address that it has must be a public one, and the
connection goes to the address that was looked at: a second answer of the name server changes nothing.
Sources: the IANA registries of special-purpose addresses (RFC 6890), by `ipaddress`; RFC 6052 and 3056
for IPv4 inside IPv6; the metadata services of clouds, of which one stands at a public address.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final
from urllib.parse import urlsplit

import idna

from tasks.errors import Misconfigured, Permanent

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LONGEST_URL: Final = 2000
_GLOBAL: Final = IPv6Network("2000::/3")
# Of these the last octets are another address: where they lead is not ours to guess.
_WRAPPED: Final = (IPv6Network("2001::/32"), IPv6Network("2002::/16"))
# Where Azure's host and Oracle's answer virtual machines, their keys among it; and relays of 6to4.
# `is_global` of some of Python's releases takes them for public.
_NEVER: Final = tuple(map(IPv4Network, ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24")))


class Refused(Exception):
    """An address that is not called; the text says which, and why."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a webhook goes: `host` is ASCII, `path` has its query."""

    scheme: str
    host: str
    port: int
    path: str


def parse(url: str, *, plain: bool = False) -> Target:
    """Read the URL of an endpoint.

    Args:
        url: as somebody gave it.
        plain: http is permitted (inside networks that the operator named).

    Raises:
        Permanent: it is none that may be called.
    """
    expected = "expected https://HOST/PATH, without user, password or fragment"
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").rstrip(".")
        host = host if ":" in host else idna.encode(host, uts46=True).decode()
    except (ValueError, idna.IDNAError):
        raise Permanent(f"{url!r} is no URL: {expected}") from None
    if len(url) > LONGEST_URL or not url.isascii() or any(c <= " " for c in url):
        raise Permanent(
            f"a URL has at most {LONGEST_URL} ASCII characters and no space: {expected}"
        )
    if parts.scheme not in (("https", "http") if plain else ("https",)):
        raise Permanent(
            f"{url!r} is not https, and what is told would be read on its way: {expected}"
            " (http only inside DRIPFLEET_WEBHOOK_NETWORKS)"
        )
    if not host or parts.username is not None or parts.fragment or port == 0:
        raise Permanent(f"{url!r} cannot be called: {expected}")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), path)


def networks(given: str) -> tuple[Network, ...]:
    """Networks as the setting has them, divided by spaces.

    Raises:
        Misconfigured: one is none.
    """
    try:
        return tuple(ip_network(each) for each in given.split())
    except ValueError as fault:
        raise Misconfigured(
            f"DRIPFLEET_WEBHOOK_NETWORKS: {fault}; expected networks divided by spaces, such as"
            " 10.1.0.0/16"
        ) from None


def public(address: Address) -> bool:
    """Whether everybody reaches this address alike, and nobody's inside stands behind it."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return public(address.ipv4_mapped)
        if address not in _GLOBAL or any(address in each for each in _WRAPPED):
            return False
    elif any(address in each for each in _NEVER):
        return False
    return address.is_global and not address.is_multicast


def permitted(
    host: str, found: Iterable[str], allowed: Sequence[Network] = (), *, inside: bool = False
) -> list[Address]:
    """The addresses of a name, if each of them may be called.

    Args:
        host: the name, for what is said.
        found: its addresses, as text.
        allowed: networks of the operator's own that may be called.
        inside: only those may (plain http).

    Raises:
        Refused: there is none, or one of them may not.
    """
    addresses = [ip_address(each.partition("%")[0]) for each in dict.fromkeys(found)]
    if not addresses:
        raise Refused(f"{host} has no address")
    for each in addresses:
        own = any(each.version == network.version and each in network for network in allowed)
        if not own and (inside or not public(each)):
            raise Refused(f"{host} leads to {each}, which is not public")
    return addresses
