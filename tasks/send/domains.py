"""Which recipients share a fate: the domains of one mailbox provider are one group.

A provider that has had enough of us has had enough of us for all the domains whose mail it takes:
its own, and those of customers whose MX records lead to it. What neither table knows is a group of
its own, named by its domain.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

EACH: Final = "*"
"""The limit of every group that has none of its own."""

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "gmail": ("gmail.com", "googlemail.com"),
    "microsoft": (
        "outlook.com", "hotmail.com", "live.com", "msn.com", "hotmail.co.uk", "hotmail.fr",
        "hotmail.de", "hotmail.it", "hotmail.es", "live.co.uk", "live.fr", "live.nl", "outlook.fr",
        "outlook.de", "outlook.es", "outlook.it", "outlook.jp",
    ),
    "yahoo": (
        "yahoo.com", "ymail.com", "rocketmail.com", "aol.com", "yahoo.co.uk", "yahoo.fr", "yahoo.de",
        "yahoo.it", "yahoo.es", "yahoo.ca", "yahoo.com.br", "yahoo.co.in", "verizon.net", "aim.com",
    ),
    "icloud": ("icloud.com", "me.com", "mac.com"),
    "comcast": ("comcast.net",),
    "proton": ("proton.me", "protonmail.com", "pm.me"),
    "gmx": (
        "gmx.de", "gmx.net", "gmx.at", "gmx.ch", "gmx.com", "web.de", "mail.com", "email.de",
    ),
    "t-online": ("t-online.de", "magenta.de"),
    "orange": ("orange.fr", "wanadoo.fr"),
    "laposte": ("laposte.net",),
    "free": ("free.fr",),
    "mailru": ("mail.ru", "bk.ru", "inbox.ru", "list.ru", "internet.ru"),
    "yandex": ("yandex.ru", "yandex.com", "ya.ru"),
    "netease": ("163.com", "126.com", "yeah.net"),
    "qq": ("qq.com", "foxmail.com"),
    "zoho": ("zoho.com", "zohomail.com"),
    "fastmail": ("fastmail.com", "fastmail.fm"),
}  # fmt: skip
"""Group → the domains whose provider is known without asking anybody."""

MX: Final[tuple[tuple[str, str], ...]] = (
    ("google.com", "gmail"),
    ("googlemail.com", "gmail"),
    ("smtp.goog", "gmail"),
    ("outlook.com", "microsoft"),  # Microsoft 365: …mail.protection.outlook.com
    ("mx.microsoft", "microsoft"),
    ("hotmail.com", "microsoft"),
    ("yahoodns.net", "yahoo"),
    ("icloud.com", "icloud"),
    ("comcast.net", "comcast"),
    ("protonmail.ch", "proton"),
    ("gmx.net", "gmx"),
    ("gmx.com", "gmx"),
    ("web.de", "gmx"),
    ("t-online.de", "t-online"),
    ("orange.fr", "orange"),
    ("laposte.net", "laposte"),
    ("free.fr", "free"),
    ("mail.ru", "mailru"),
    ("yandex.net", "yandex"),
    ("yandex.ru", "yandex"),
    ("netease.com", "netease"),
    ("qq.com", "qq"),
    ("zoho.com", "zoho"),
    ("zoho.eu", "zoho"),
    ("messagingengine.com", "fastmail"),
    ("mimecast.com", "mimecast"),
    ("pphosted.com", "proofpoint"),
    ("ppe-hosted.com", "proofpoint"),
    ("barracudanetworks.com", "barracuda"),
    ("secureserver.net", "godaddy"),
    ("ovh.net", "ovh"),
    ("ionos.com", "ionos"),
    ("kundenserver.de", "ionos"),
    ("emailsrvr.com", "rackspace"),
)
"""How the name of an MX host ends → the group whose limits hold for it."""

NAMES: Final = frozenset(GROUPS) | {group for _, group in MX}
"""Every group that has a name of its own."""

_BY_DOMAIN: Final = {domain: group for group, domains in GROUPS.items() for domain in domains}
# Nothing answers for these (RFC 2606, RFC 6761): to ask would only cost time.
_RESERVED: Final = (".test", ".example", ".invalid", ".localhost")
_RESERVED_DOMAINS: Final = frozenset({"example.com", "example.net", "example.org", "localhost"})


def known(domain: str) -> str | None:
    """The group of a domain (lower case) that need not be looked up; None: its MX tells."""
    found = _BY_DOMAIN.get(domain)
    if found is not None:
        return found
    if domain in _RESERVED_DOMAINS or domain.endswith(_RESERVED) or "." not in domain:
        return domain
    return domain if domain.endswith((".example.com", ".example.net", ".example.org")) else None


def by_mx(domain: str, hosts: Iterable[str]) -> str:
    """The group of a domain whose mail these hosts take, the preferred one first; else the domain."""
    for host in hosts:
        name = host.rstrip(".").lower()
        for ending, group in MX:
            if name == ending or name.endswith("." + ending):
                return group
    return domain
