"""One mail that came in, whichever way: read, acted upon, committed; or put aside with its reason.

What is no report of ours is never lost and stops nothing: it goes into a Maildir of its own, with a line
in front that says why. The same octets are put aside once.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy.exc import DataError, IntegrityError

from models.session import Database
from tasks.tokens import Keys
from tasks.track import feedback, inbound
from tasks.track.report import Aside, line

LARGEST: Final = 30_000_000
"""Octets of a mail; what is larger is put aside without being read."""
WHY: Final = "X-Dripfleet-Aside"

log = structlog.get_logger()


class Intake:
    """What every way in hands its mails to; safe to call from many threads.

    Args:
        database: where it is written.
        keys: of our tokens.
        aside: a Maildir; made where there is none.
    """

    def __init__(self, database: Database, keys: Keys, aside: Path) -> None:
        self.database = database
        self.counts: Counter[str] = Counter()
        self._keys = keys
        self._aside = aside

    def take(self, octets: bytes, came_to: Sequence[str] = ()) -> str:
        """Take one mail; when this returns it is in Postgres or aside, on disk.

        Args:
            octets: as it came.
            came_to: the envelope's recipients, where they are known.

        Returns:
            `bounced`, `complained`, … of a report that was new, else `known`, or `aside`.
        """
        if len(octets) > LARGEST:
            return self._put_aside(octets, f"it is larger than {LARGEST} octets")
        found = inbound.read(octets, self._keys, came_to)
        if isinstance(found, Aside):
            return self._put_aside(octets, found.why)
        try:
            with self.database.transaction() as connection:
                taken = feedback.take(connection, [found])
        except (DataError, IntegrityError):
            return self._put_aside(octets, "it holds something that Postgres cannot hold")
        if taken.unknown:
            return self._put_aside(octets, "the mail that it names is none of this database")
        word = found.kind if taken.new else "known"
        self.counts[word] += 1
        return word

    def _put_aside(self, octets: bytes, why: str) -> str:
        put_aside(self._aside, octets, why)
        self.counts["aside"] += 1
        log.info("mail_put_aside", why=why)
        return "aside"


def put_aside(folder: Path, octets: bytes, why: str) -> Path:
    """Keep a mail in a Maildir, on disk when this returns; the same octets have one name."""
    for name in ("tmp", "new", "cur"):
        (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
    name = f"{sha256(octets).hexdigest()[:40]}.aside"
    there = folder / "new" / name
    if there.exists() or next((folder / "cur").glob(f"{name}*"), None) is not None:
        return there
    made = folder / "tmp" / f"{name}.{os.getpid()}"
    with made.open("wb") as out:
        out.write(f"{WHY}: {line(why)[:400]}\n".encode())
        out.write(octets)
        out.flush()
        os.fsync(out.fileno())
    made.rename(there)
    return there
