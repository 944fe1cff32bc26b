"""Whether marketing holds what providers ask for (`tasks.send.compliance`), and which keys sign."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import SecretStr
from sqlalchemy import Connection, text

from tasks.send.compliance import RELAY_SIGNS, is_example, missing
from tasks.send.dkim import Keyring
from tasks.send.gate import Gate
from tasks.send.settings import SendSettings
from workers.doctor.finding import Finding, error, fine, warning

STREAMS = text("SELECT key, sender FROM stream WHERE class = 'marketing' ORDER BY key")
ONWARDS = "then start the send workers again, and held mails go; `DRIPFLEET_COMPLIANCE=warn` sends without"


def signatures(connection: Connection) -> Iterator[Finding]:
    """Each marketing stream that lacks a piece, as this environment has it, and the keys there are.

    Raises:
        Misconfigured: a key cannot be used.
    """
    settings = send_settings()
    gate = Gate.of(settings)
    whole = True
    for stream in connection.execute(STREAMS):
        sender = settings.writes_as(stream.sender)
        lacking = missing(gate.pieces(sender))
        # Nobody but servers of this machine takes what goes out as example.com.
        if not lacking or is_example(sender.address):
            continue
        whole = False
        says = "; ".join(each.says for each in lacking)
        move = "; ".join(each.next for each in lacking)
        if settings.compliance == "hold":
            yield error(f"stream {stream.key}", f"is held: {says}", f"{move}; {ONWARDS}")
        else:
            says = f"sends what large mailbox providers refuse or bury: {says}"
            yield warning(f"stream {stream.key}", says, move)
    if whole:
        yield fine("compliance", "marketing has an address, one-click and an aligned signature")
    if settings.dkim_keys == RELAY_SIGNS:
        yield fine("signatures", "the relay signs, says DRIPFLEET_DKIM_KEYS")
        return
    who = ", ".join(
        f"{each.selector}._domainkey.{each.domain}" for each in Keyring.of(settings.dkim_keys)
    )
    yield fine("signatures", f"keys: {who}" if who else "no key signs here")


def send_settings() -> SendSettings:
    """Those of the send pool, for looks that need neither relay nor secret."""
    unused = SecretStr("smtp://unused")
    return SendSettings(smtp_url=unused, secret_token=unused)
