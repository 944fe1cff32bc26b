"""The ways in that an operator named, read until there is no more or the time is over."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from models.session import Database
from tasks.track import imap, maildir
from tasks.track.intake import Intake
from tasks.track.settings import InboundSettings, mailbox_of

Way = Literal["maildir", "imap"]


def ways(settings: InboundSettings) -> list[Way]:
    """Those that settings name."""
    found: list[Way] = ["maildir"] if settings.inbound_maildir else []
    return [*found, "imap"] if settings.inbound_imap.get_secret_value() else found


def intake(database: Database, settings: InboundSettings) -> Intake:
    """What takes mails, by the key ring of these settings."""
    return Intake(database, settings.keys, settings.inbound_aside)


def read(
    database: Database, settings: InboundSettings, way: Way, *, budget: float
) -> dict[str, int]:
    """Take what came in by one way; returns how many mails of each outcome.

    Args:
        database: where it is written.
        settings: name the Maildir or the mailbox.
        way: which of them.
        budget: seconds after which no further batch is begun.

    Raises:
        Misconfigured: there is no such Maildir, user or mailbox, or no key ring.
        Transient: the server does not answer.
    """
    until = time.monotonic() + budget
    taking = intake(database, settings)
    while time.monotonic() < until:
        if way == "maildir":
            more = maildir.read(taking, Path(settings.inbound_maildir)) == maildir.BATCH
        else:
            box = mailbox_of(settings.inbound_imap.get_secret_value())
            more = imap.read(taking, box) == imap.BATCH
        if not more:
            break
    return dict(taking.counts)
