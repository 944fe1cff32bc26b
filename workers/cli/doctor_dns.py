"""`dripfleet doctor dns`: what a domain that sends says of itself in the DNS, and the next move."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import typer

from workers.cli.render import ExitCode, say

if TYPE_CHECKING:
    from workers.doctor.dns.names import Names

PATIENCE = 5.0  # seconds a question, all its tries together


def dns(
    domain: str = typer.Argument(help="The domain in From, such as mail.example.com."),
    ip: list[str] | None = typer.Option(
        None,
        help="An address by which mail leaves: SPF has to allow it, PTR to name it; repeatable.",
    ),
    selector: list[str] | None = typer.Option(
        None, help="A DKIM selector beside those of DRIPFLEET_DKIM_KEYS; repeatable."
    ),
    bounce: str | None = typer.Option(
        None,
        help="Domain of the envelope's sender, where a stream has a return path of its own;"
        " by default that of DRIPFLEET_BOUNCE_ADDRESS.",
    ),
    resolver: str | None = typer.Option(
        None, help="ADDRESS or ADDRESS:PORT of whom to ask; by default the system's resolver."
    ),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> int:
    """Look at SPF, DKIM, DMARC, MX, PTR, MTA-STS and TLS-RPT of a domain.

    Each finding is fine, a warning or an error, with the next move. Exit 3 if there is an error, 4 if
    no resolver answered. Keys and bounce address are those of this environment.
    """
    import idna

    from workers.cli.doctor import tell
    from workers.doctor.dns import Asked, look
    from workers.doctor.dns.names import Unanswered
    from workers.doctor.signatures import send_settings

    try:
        name = idna.encode(domain.strip().rstrip(".").lower(), uts46=True).decode("ascii")
    except idna.IDNAError:
        name = ""
    if "." not in name:
        raise typer.BadParameter(
            f"{domain[:64]!r} is no domain: expected such as mail.example.com", param_hint="DOMAIN"
        )
    addresses = [_address(each, "--ip") for each in ip or ()]
    settings = send_settings()
    if bounce is not None:
        settings = settings.model_copy(
            update={"bounce_address": f"bounce@{bounce.strip().lower()}"}
        )
    asked = Asked.of(name, settings, selector or (), addresses)
    try:
        found = look(_names(resolver), asked)
    except Unanswered as fault:
        say(
            f"the DNS does not answer ({fault}); check the resolver of this machine, or name one:"
            " --resolver ADDRESS",
            style="red",
        )
        return ExitCode.UNREACHABLE
    return tell(found, as_json)


def _names(resolver: str | None) -> Names:
    """Whom to ask; an IPv6 address with a port stands in brackets."""
    from workers.doctor.dns.names import Names

    if resolver is None:
        return Names(patience=PATIENCE)
    host, port = resolver.strip(), "53"
    if host.startswith("["):
        host, _, port = host[1:].partition("]:")
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise typer.BadParameter(
            f"{port[:20]!r} is no port: expected such as 192.0.2.1:53", param_hint="--resolver"
        )
    return Names(_address(host.rstrip("]"), "--resolver"), int(port), PATIENCE)


def _address(given: str, option: str) -> str:
    try:
        return str(ip_address(given.strip()))
    except ValueError:
        raise typer.BadParameter(
            f"{given[:64]!r} is no IP address: expected such as 192.0.2.1", param_hint=option
        ) from None
