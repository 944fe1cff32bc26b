"""The journals of dead workers: who may read them, and what they prove."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tasks.send.owner import Owner, boot_id

Effect = tuple[int, int]
"""(message id, epoch)"""
Heard = tuple[int, str | None, str]
"""(code, enhanced code, text) of the reply to a dot"""

_INSTANCE = re.compile("[0-9a-f]{16}")
_DOT = re.compile(r"d (\d{1,19}) (\d{1,10})", re.ASCII)
_REPLY = re.compile(r"r (\d{1,19}) (\d{1,10}) ([2-5]\d\d) (-|\d(?:\.\d{1,3}){2}) ?(.*)", re.ASCII)
_UNKNOWN_BOOT = "0" * 12


@dataclass
class AbandonedJournal:
    """The journal of a dead process, locked by us while it is looked at.

    A pair in ``replies`` had that reply. A pair in ``dots`` alone is in doubt. A pair in neither
    was not sent, but only if ``silence_counts``.
    """

    path: Path
    owner: Owner
    same_boot: bool
    database: str = ""
    corrupt: bool = False
    dots: set[Effect] = field(default_factory=set)
    replies: dict[Effect, Heard] = field(default_factory=dict)

    @property
    def silence_counts(self) -> bool:
        """True if a dot that is not in here was not written."""
        return self.same_boot and not self.corrupt

    def discard(self) -> None:
        """Remove it, once all it says is in the database; the lock is still held."""
        self.path.unlink(missing_ok=True)


def abandoned(folder: Path) -> Iterator[AbandonedJournal]:
    """The journals in a folder whose owner is dead, each locked until the next is asked for.

    Never our own, nor that of a stopped process, nor one that somebody else is replaying.
    """
    for path in sorted(folder.glob("*.journal")):
        if not _INSTANCE.fullmatch(path.stem):
            continue
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            # Who held it before us may have discarded it, or put a new one in its place.
            if _still_named(fd, path):
                with open(fd, "rb", closefd=False) as file:
                    content = file.read()
                yield _read(path, content)
        finally:
            os.close(fd)


def _still_named(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


def _read(path: Path, content: bytes) -> AbandonedJournal:
    head, *lines = content.decode("utf-8", "replace").split("\n")
    try:
        said = json.loads(head)
        who = Owner.parse(said["owner"])
        database = str(said.get("database", ""))
        whole = said["v"] == 1 and who.instance == path.stem and bool(lines)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        whole = False
    if not whole:
        # Without its header the file's name still tells the instance, and nothing tells the boot.
        who, database = Owner(_UNKNOWN_BOOT, path.stem), ""
    known = who.boot_id == boot_id() != _UNKNOWN_BOOT
    journal = AbandonedJournal(path, who, same_boot=known, database=database, corrupt=not whole)
    # What follows the last line end is torn: its write never returned, so no dot followed it.
    for line in lines[:-1]:
        if dot := _DOT.fullmatch(line):
            journal.dots.add((int(dot[1]), int(dot[2])))
        elif reply := _REPLY.fullmatch(line):
            effect = int(reply[1]), int(reply[2])
            enhanced = None if reply[4] == "-" else reply[4]
            journal.replies[effect] = int(reply[3]), enhanced, reply[5]
        else:
            journal.corrupt = True
    return journal
