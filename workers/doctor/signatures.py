"""Whether mail is signed, and whether its keys can be used."""

from __future__ import annotations

from collections.abc import Iterator
from email.utils import parseaddr

from pydantic import SecretStr
from sqlalchemy import Connection, text

from tasks.send.dkim import RELAY_SIGNS, Keyring
from tasks.send.settings import SendSettings
from workers.doctor.finding import Finding, fine, warning

STREAMS = text("SELECT key, class, sender FROM stream ORDER BY key")


def signatures(connection: Connection) -> Iterator[Finding]:
    """Each marketing stream that nobody signs for; what a key is missing is an error of its own.

    Raises:
        Misconfigured: a key cannot be used.
    """
    unused = SecretStr("smtp://unused")
    settings = SendSettings(smtp_url=unused, secret_token=unused)
    if settings.dkim_keys == RELAY_SIGNS:
        yield fine("signatures", "the relay signs, says DRIPFLEET_DKIM_KEYS")
        return
    keyring = Keyring.of(settings.dkim_keys)
    bare = False
    for stream in connection.execute(STREAMS):
        address = parseaddr(stream.sender or "")[1] or settings.sender_address
        # Nothing leaves this machine as example.com, so it needs no signature either.
        if stream[1] != "marketing" or address.endswith("@example.com"):
            continue
        if not keyring.of_sender(address):
            bare = True
            yield warning(
                f"stream {stream.key}",
                f"its mails, from {address}, go out without a DKIM signature; large mailbox"
                " providers ask for one",
                f"name a key of {address.rpartition('@')[2]} in DRIPFLEET_DKIM_KEYS, or say"
                f" `{RELAY_SIGNS}` there if the relay signs",
            )
    if not bare:
        who = ", ".join(f"{each.selector}._domainkey.{each.domain}" for each in keyring)
        yield fine("signatures", f"keys: {who}" if who else "no stream needs any")
