"""Where mail for the domain goes, and what the addresses are called by which our mail leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from workers.doctor.dns.names import Names
from workers.doctor.finding import Finding, error, fine, warning

if TYPE_CHECKING:
    from workers.doctor.dns import Asked


def mx(names: Names, asked: Asked) -> Iterator[Finding]:
    """Whether replies and bounces arrive: a domain that takes no mail is refused by many (RFC 7505 §4.2)."""
    for domain in dict.fromkeys((asked.domain, asked.bounces_to)):
        found = names.mx(domain)
        if any(host == "" for _, host in found):
            says = f"{domain} says that it takes no mail (null MX), and many refuse mail from such a one"
            yield error(
                "mx", says, "publish the MX of what takes its mail, or send from another domain"
            )
            continue
        if not found:
            some = names.addresses(domain)
            says = f"{domain} has no MX" + ("; its address is taken for one" if some else "")
            tell = warning if some else error
            yield tell(
                "mx", f"{says}: bounces and replies are lost", "publish the MX of its mailboxes"
            )
            continue
        dead = [host for _, host in found if not names.addresses(host)]
        if dead:
            says = f"{', '.join(dead)} is an MX of {domain} and has no address"
            yield error("mx", says, "correct the MX, or give that host an address")
        else:
            yield fine("mx", f"{domain}: {', '.join(host for _, host in found)}")


def ptr(names: Names, asked: Asked) -> Iterator[Finding]:
    """Each address by which mail leaves has a name, and that name leads back to it."""
    if not asked.addresses:
        yield Finding(
            "ptr",
            "fine",
            "not looked at: which address mail leaves by is the relay's to know",
            "name it: --ip ADDRESS",
        )
    for address in asked.addresses:
        called = names.pointers(address)
        if not called:
            says = f"{address} has no PTR record, and Gmail and others refuse mail from it"
            yield error(
                "ptr", says, "ask whom the address is of (host or provider) to set its reverse name"
            )
            continue
        back = [host for host in called if address in names.addresses(host)]
        if back:
            yield fine("ptr", f"{address} is {back[0]}, and back")
        else:
            says = f"{address} is called {', '.join(called)}, which does not lead back to it"
            yield error("ptr", says, f"give {called[0]} that address, or correct the PTR record")
