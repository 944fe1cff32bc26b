"""What large mailbox providers ask of bulk mail, and which of it a stream's mails would lack.

Gmail and Yahoo (since February 2024) and Microsoft (since May 2025) refuse or bury marketing without
one-click unsubscribe (RFC 8058: both headers, an https address, and a DKIM signature over both), without a
signature that is aligned with From (RFC 7489 §3.1.1), and the law of most countries asks for the sender's
postal address. What a mail holds by construction is listed too, so that nobody has to look for it.

A stream that writes as example.com is an example: that name is reserved (RFC 2606), and whoever mails as it
reaches nobody but servers of this machine, so it is judged more mildly and never held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tasks.send.content import Sender

Mode = Literal["hold", "warn"]

EXAMPLE_POSTAL: Final = "Example Company, 1 Example Street, Example City"
"""What a fleet that was told nothing prints at the foot of a mail."""
RELAY_SIGNS: Final = "relay"
"""What `DRIPFLEET_DKIM_KEYS` says where no key is needed here."""
HELD: Final = "compliance: "
"""How the reason of a pause begins that the gate made, and that it takes back by itself."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One thing that is asked of marketing mail: whether it is there, what is, and the next move."""

    name: str
    met: bool
    says: str
    next: str = ""


@dataclass(frozen=True, slots=True)
class Signs:
    """Who signs: `relay` says that it does; `domains` are those of our keys that sign for From."""

    relay: bool = False
    domains: Sequence[str] = ()
    others: Sequence[str] = ()


def is_example(address: str) -> bool:
    """Whether an address is at example.com, or below it."""
    return f".{address.rpartition('@')[2].lower()}".endswith(".example.com")


def pieces(sender: Sender, edge_url: str, signs: Signs) -> list[Piece]:
    """Each piece of a marketing stream's mails, in the order in which one mends them.

    Args:
        sender: who the stream writes as.
        edge_url: where readers reach the edge; empty: nowhere.
        signs: who signs for the sender.
    """
    mild = is_example(sender.address)
    return [
        _postal(sender, mild),
        _one_click(sender, edge_url, mild),
        _signature(sender, signs),
        Piece("text part", True, "every mail has one: no template is published without body.txt"),
    ]


def missing(found: Sequence[Piece]) -> list[Piece]:
    """Those that are not there."""
    return [each for each in found if not each.met]


def why_held(found: Sequence[Piece], sender: Sender, mode: Mode) -> str | None:
    """The reason for which a stream waits, in one line with the next moves; None: it may send.

    Args:
        found: its pieces.
        sender: who it writes as.
        mode: what DRIPFLEET_COMPLIANCE says.
    """
    lacking = missing(found)
    if mode == "warn" or not lacking or is_example(sender.address):
        return None
    return HELD + "; ".join(f"{each.says} ({each.next})" for each in lacking)


def _postal(sender: Sender, mild: bool) -> Piece:
    name, move = "postal address", "set DRIPFLEET_POSTAL_ADDRESS to where the sender has its seat"
    address = " ".join(sender.postal_address.split())
    if not address:
        return Piece(name, False, "no postal address stands at the foot of its mails", move)
    if address == EXAMPLE_POSTAL and not mild:
        return Piece(name, False, "the postal address at the foot is the example's", move)
    return Piece(name, True, address)


def _one_click(sender: Sender, edge_url: str, mild: bool) -> Piece:
    name = "one-click unsubscribe"
    if not edge_url:
        return Piece(
            name,
            False,
            "no List-Unsubscribe-Post, since mails name no edge",
            "run `dripfleet api` behind TLS, and set DRIPFLEET_EDGE_URL for the send workers",
        )
    if mild:
        return Piece(name, True, f"both headers, by {edge_url}")
    if not edge_url.startswith("https://"):
        return Piece(
            name,
            False,
            f"the one click leads to {edge_url}, which no reader reaches",
            "set DRIPFLEET_EDGE_URL to the https address of `dripfleet api`",
        )
    if is_example(sender.unsubscribe_mailto):
        return Piece(
            name,
            False,
            f"List-Unsubscribe names the mailbox {sender.unsubscribe_mailto}, which is nobody's",
            "set DRIPFLEET_UNSUBSCRIBE_MAILTO to a mailbox that is read",
        )
    return Piece(name, True, f"both headers, by {edge_url}")


def _signature(sender: Sender, signs: Signs) -> Piece:
    name, domain = "aligned DKIM signature", sender.address.rpartition("@")[2]
    move = f"name a key of {domain} in DRIPFLEET_DKIM_KEYS, or say `relay` there if the relay signs"
    if signs.relay:
        says = "the relay signs, says DRIPFLEET_DKIM_KEYS; `dripfleet doctor dns` looks what it publishes"
        return Piece(name, True, says)
    if signs.domains:
        of = ", ".join(dict.fromkeys(signs.domains))
        return Piece(name, True, f"by {of}, over both List-Unsubscribe headers")
    if signs.others:
        of = ", ".join(dict.fromkeys(signs.others))
        return Piece(name, False, f"no DKIM key is aligned with From: {domain}, keys of {of}", move)
    return Piece(name, False, f"nobody signs what goes out as {sender.address}", move)
