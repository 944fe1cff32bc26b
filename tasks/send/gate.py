"""The gate before a marketing stream: what lacks a piece of `compliance` waits, and says for what.

A held stream is a paused one, whose reason begins with `compliance:`. So its messages keep their places,
nobody rings for them, and whoever wonders is told by what tells of every pause: `doctor`, `status`, `explain`,
`message show`, `stream show`. A send worker holds when a doorbell asks it for such a stream, and lets go
when one starts that lacks nothing; of a mixed fleet the last worker to be mended has the last word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from sqlalchemy import text

from models.session import Database
from tasks.moves import pause
from tasks.send.compliance import (
    HELD,
    RELAY_SIGNS,
    Piece,
    Signs,
    is_example,
    missing,
    pieces,
    why_held,
)
from tasks.send.content import Sender
from tasks.send.settings import SendSettings

if TYPE_CHECKING:
    from tasks.send.dkim import Keyring

log = structlog.get_logger()

# What this region's workers may have to hold or let go.
MARKETING = text("""
SELECT key, sender, pause_reason FROM stream
WHERE class = 'marketing' AND region IS NOT DISTINCT FROM CAST(:region AS text)
ORDER BY key FOR NO KEY UPDATE
""")


class Gate:
    """What the settings of this process say of a sender's marketing.

    Args:
        settings: of the send pool.
        keyring: its keys; None where there are none.
    """

    def __init__(self, settings: SendSettings, keyring: Keyring | None) -> None:
        self._settings = settings
        self._keyring = keyring

    @classmethod
    def of(cls, settings: SendSettings) -> Gate:
        """The same from settings alone.

        Raises:
            Misconfigured: a DKIM key cannot be used.
        """
        from tasks.send.dkim import Keyring  # late: 8 MB that not every process needs

        return cls(settings, Keyring.of(settings.dkim_keys))

    def pieces(self, sender: Sender) -> list[Piece]:
        """What is asked of marketing from this sender, and whether it is there."""
        keyring = self._keyring if self._keyring is not None else ()
        own = [] if self._keyring is None else self._keyring.of_sender(sender.address)
        signs = Signs(
            self._settings.dkim_keys == RELAY_SIGNS,
            [each.domain for each in own],
            [each.domain for each in keyring],
        )
        return pieces(sender, self._settings.edge_url, signs)

    def why_held(self, sender: Sender) -> str | None:
        """Why marketing from this sender waits; None: it may go."""
        return why_held(self.pieces(sender), sender, self._settings.compliance)

    def hold(self, database: Database, stream: str, why: str) -> None:
        """Pause the stream for that reason; what is due keeps its place."""
        with database.transaction() as connection:
            new = pause.pause_stream(connection, stream, why)
        if new:
            log.error("stream_held", stream=stream, why=why)

    def let_go(self, database: Database) -> list[str]:
        """Resume what was held and lacks nothing any more, as a starting worker sees it; the keys."""
        gone = []
        with database.transaction() as connection:
            region = self._settings.region or None
            for row in connection.execute(MARKETING, {"region": region}).all():
                sender = self._settings.writes_as(row.sender)
                if (row.pause_reason or "").startswith(HELD) and self.why_held(sender) is None:
                    pause.resume_stream(connection, row.key)
                    gone.append(row.key)
                elif lacking := missing(self.pieces(sender)):
                    if not is_example(sender.address):
                        says = [each.says for each in lacking]
                        log.warning("stream_lacks", stream=row.key, pieces=says)
        for key in gone:
            log.warning("stream_goes_on", stream=key)
        return gone
