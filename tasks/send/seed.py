"""A mail looked at in a real mailbox before anybody gets it: to a seed list, over the real relay.

It is nobody's message: no row is written, no figure counts it, its link to leave opens nothing, and its
subject begins with `[Test]`. It is made, signed and handed over as every other mail is.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Sequence
from typing import Final

from tasks.errors import Misconfigured
from tasks.send.attached import Files
from tasks.send.compliance import is_example
from tasks.send.content import Facts, Sender, compose, unsubscribe_url
from tasks.send.dkim import Keyring
from tasks.send.edge import unsubscribe
from tasks.send.envelope import Envelope, WireBody, wire_body
from tasks.send.outcome import NotSent, Outcome
from tasks.send.relay import Relay
from tasks.send.render import Rendered
from tasks.send.settings import SendSettings
from tasks.send.tokens import sign
from tasks.send.transport import Connection

MARK: Final = "[Test] "
NOBODYS: Final = 0
"""The message that the link of such a mail names: there is none of that id."""
MOST: Final = 50
"""Addresses of one seed list."""
REPLY_WAIT: Final = 60.0


class Seeder:
    """Makes test mails of one stream, and hands them to its relay.

    Args:
        settings: of the send pool.
        relay: the stream's.
        sender: who it writes as.
        marketing: its mails carry the pair of headers to leave by.

    Raises:
        Misconfigured: a DKIM key cannot be used, or mail would leave this machine as example.com.
    """

    def __init__(
        self, settings: SendSettings, relay: Relay, sender: Sender, *, marketing: bool
    ) -> None:
        if is_example(sender.address) and not relay.is_loopback:
            raise Misconfigured(
                f"mail would leave through {relay} as {sender.address}; set"
                " DRIPFLEET_SENDER_ADDRESS to an address of yours"
            )
        self._settings = settings
        self._relay = relay
        self._sender = sender
        self._keyring = Keyring.of(settings.dkim_keys)
        self._token = sign(settings.keys, "unsubscribe", NOBODYS)
        self._url = f"{settings.edge_url}/u/{self._token}" if settings.edge_url else None
        self._one_click = self._url if marketing else None

    @property
    def leaving(self) -> dict[str, str]:
        """What templates see as `unsubscribe`; it leads to the page, and takes nobody off."""
        mailto = unsubscribe_url(self._sender, self._token)
        return unsubscribe(self._settings.edge_url, mailto, self._token)

    def mail(self, made: Rendered, to: str, files: Files) -> tuple[Envelope, WireBody]:
        """One test mail, signed, with what is attached to it.

        Raises:
            Permanent: the words or the address make no mail.
        """
        key = secrets.token_bytes(32)
        now = dt.datetime.now(dt.UTC)
        domain = self._sender.address.rpartition("@")[2]
        facts = Facts(
            f"<test.{key.hex()[:32]}@{domain}>", to, now, key, self._token, self._one_click
        )
        marked = Rendered(MARK + made.subject, made.text, made.html)
        octets = compose(marked, message=facts, sender=self._sender, files=files).octets
        signed = self._keyring.sign(octets, self._sender.address, now) + octets
        bounces = self._settings.bounce_address or self._sender.address
        return Envelope(bounces, to), wire_body(signed)

    async def deliver(self, mails: Sequence[tuple[Envelope, WireBody]]) -> list[Outcome]:
        """Hand them over one behind the other; what became of each."""
        told: list[Outcome] = []
        connection: Connection | None = None
        try:
            for envelope, body in mails:
                if connection is None or not connection.usable:
                    opened = await Connection.open(self._relay, helo_name=self._settings.helo_name)
                    if isinstance(opened, NotSent):
                        told.append(opened)
                        continue
                    connection = opened
                offered = await connection.offer(envelope, body)
                if isinstance(offered, NotSent):
                    told.append(offered)
                else:
                    told.append(await connection.finish(REPLY_WAIT))
        finally:
            if connection is not None:
                await connection.quit(timeout=1.0)
        return told
