"""Questions to a resolver, and answers as plain values: none is an empty list, silence an exception."""

from __future__ import annotations

from typing import Any

import dns.exception
import dns.name
import dns.resolver
import dns.reversename


class Unanswered(Exception):
    """The resolver did not answer, or said that it cannot (SERVFAIL): not the same as "there is none"."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name = name
        self.why = why


class Names:
    """A resolver: the system's, or one by its address.

    Args:
        resolver: IP address to ask; None: what /etc/resolv.conf names.
        port: of that address.
        patience: seconds a question.

    Raises:
        Unanswered: the system names no resolver.
    """

    def __init__(self, resolver: str | None = None, port: int = 53, patience: float = 5.0) -> None:
        try:
            self._resolver = dns.resolver.Resolver(configure=resolver is None)
        except dns.resolver.NoResolverConfiguration:
            raise Unanswered("the system", "it names no resolver") from None
        if resolver is not None:
            self._resolver.nameservers = [resolver]
            self._resolver.port = port
        self._resolver.lifetime = patience
        self.answered = 0

    def txt(self, name: str) -> list[str]:
        """The TXT records of a name, the strings of each joined as SPF and DKIM ask (RFC 7208 §3.3)."""
        return [
            b"".join(record.strings).decode("utf-8", "replace") for record in self._ask(name, "TXT")
        ]

    def mx(self, name: str) -> list[tuple[int, str]]:
        """Preference and host, the most wanted first; the host "" says "no mail" (RFC 7505)."""
        return sorted((r.preference, _host(r.exchange)) for r in self._ask(name, "MX"))

    def addresses(self, name: str) -> list[str]:
        """IPv4 and IPv6 addresses of a host."""
        return [r.address for kind in ("A", "AAAA") for r in self._ask(name, kind)]

    def pointers(self, address: str) -> list[str]:
        """The names that an address points to."""
        return [
            _host(r.target) for r in self._ask(str(dns.reversename.from_address(address)), "PTR")
        ]

    def _ask(self, name: str, kind: str) -> list[Any]:
        try:
            found = list(self._resolver.resolve(name, kind, search=False))
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            found = []
        except dns.resolver.NoNameservers:
            raise Unanswered(name, "the resolver failed (SERVFAIL)") from None
        except dns.resolver.LifetimeTimeout:
            raise Unanswered(name, "no answer in time") from None
        except dns.name.LabelTooLong as fault:
            raise Unanswered(name, f"it is no name: {fault}") from None
        except (dns.exception.DNSException, OSError) as fault:
            raise Unanswered(name, type(fault).__name__) from None
        self.answered += 1
        return found


def _host(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower().rstrip(".")
