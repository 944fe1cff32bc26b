"""What this machine has sent for a fleet, so that it notices a database that does not know of it.

A database restored from a dump calls scheduled what has gone out since; whoever starts on it sends it
again. So beside its journals a send worker keeps the latest message that it was permitted to send,
and a worker that starts looks for it: `<identity of the fleet>.seen`, written once a second at most.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from models.session import Database
from tasks.errors import Misconfigured
from tasks.moves import quarantine

EVERY = 1.0  # seconds between two writes

IDENTITY = text("SELECT identity::text FROM fleet")

# Known to this database: the message is past that epoch, or was armed at it. Or what it does not know
# was put in doubt since. (Not by the time: rows of one ARM may be armed some moments apart, where one
# of them was changed by somebody else meanwhile.)
ACCOUNTED = text("""
SELECT EXISTS (SELECT 1 FROM message m
               WHERE m.id = :message AND (m.epoch > :epoch OR (m.epoch = :epoch
                 AND (m.state = 'armed' OR EXISTS (
                     SELECT 1 FROM attempt a WHERE a.message_id = m.id AND a.epoch = m.epoch)))))
    OR EXISTS (SELECT 1 FROM quarantine q WHERE q.begun_at >= CAST(:armed_at AS timestamptz))
""")


class OlderThanSent(Misconfigured):
    """The database lacks a message that this machine has sent for its fleet."""


def identity(database: Database) -> str:
    """Which fleet this database is of, wherever it is reached and however often it was restored."""
    with database.transaction() as connection:
        return str(connection.execute(IDENTITY).scalar_one())


@dataclass
class Seen:
    """The file of one fleet in a folder of journals; used by one thread."""

    path: Path
    _written: float = -EVERY

    @classmethod
    def of(cls, folder: Path, fleet: str) -> Seen:
        """The file for the fleet of that identity."""
        return cls(folder / f"{fleet}.seen")

    def note(self, message: int, epoch: int, armed_at: str) -> None:
        """Remember that this message was armed then (Postgres's text), if a second has gone by."""
        now = time.monotonic()
        if now - self._written < EVERY:
            return
        self._written = now
        told = {"v": 1, "message": message, "epoch": epoch, "armed_at": armed_at}
        fresh = self.path.with_suffix(f".{os.getpid()}.new")
        # A full disk stops the journal, and so the dots; this file alone is no reason to.
        with contextlib.suppress(OSError):
            fresh.write_text(json.dumps(told), encoding="utf-8")
            fresh.replace(self.path)

    def require_known_to(self, database: Database) -> None:
        """See that the database knows what was sent from here.

        Raises:
            OlderThanSent: it does not, and no quarantine was begun since.
        """
        try:
            told = json.loads(self.path.read_text(encoding="utf-8"))
            values = {key: told[key] for key in ("message", "epoch", "armed_at")}
        except (OSError, ValueError, KeyError, TypeError):
            return
        with database.transaction() as connection:
            if connection.execute(ACCOUNTED, values).scalar_one():
                return
            last = quarantine.last_seen(connection)
        since = "TIME" if last is None else last.isoformat(timespec="seconds")
        raise OlderThanSent(
            f"the database is older than what this machine has sent for it: message"
            f" {values['message']} went out at {values['armed_at']}, and is not known there. Nothing"
            f" is sent. If it was restored from a dump, run `dripfleet quarantine --since {since}`"
        )
