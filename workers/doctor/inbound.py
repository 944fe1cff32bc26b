"""Whether what comes back is heard: return paths lead somewhere, and somebody reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, text

from tasks import names
from tasks.track import read
from tasks.track.settings import InboundSettings
from tasks.upkeep.returned import of_the_last_day, return_paths
from workers.doctor.finding import Finding, error, fine, warning

TICK = text("SELECT detail FROM tick WHERE name = :name")
MANY: Final = 3


def inbound(connection: Connection) -> Iterator[Finding]:
    """Streams whose bounces nobody reads, readers that fail, and what was said of a day's mails."""
    settings = InboundSettings()
    paths, ways = return_paths(connection), read.ways(settings)
    told = connection.execute(TICK, {"name": names.INBOUND}).scalar_one_or_none() or {}
    if told.get("faults"):
        yield error(
            "bounces",
            "a Maildir or mailbox cannot be read; the log of the upkeep pool says why",
            "mend DRIPFLEET_INBOUND_MAILDIR or DRIPFLEET_INBOUND_IMAP; nothing is lost meanwhile",
        )
    elif paths and not ways:
        yield warning(
            "bounces",
            f"mails of {', '.join(paths)} come back to {', '.join(sorted({*paths.values()}))}, and no"
            " Maildir or mailbox is named here",
            "set DRIPFLEET_INBOUND_MAILDIR or DRIPFLEET_INBOUND_IMAP for the upkeep pool, or run"
            " `dripfleet inbound lmtp`",
        )
    elif ways:
        yield fine("bounces", f"read by {' and '.join(ways)}")
    complained = sum(
        n for (_, kind, _), n in of_the_last_day(connection).items() if kind == "complained"
    )
    if complained >= MANY:
        yield warning(
            "complaints",
            f"{complained} mails were called spam within a day; providers want less than 1 of 1 000",
            "`dripfleet inbound list` says of which stream; look who was written to, and why",
        )
