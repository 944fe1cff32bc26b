"""What a send worker remembers on its own disk of dots written and replies heard.

One file a process incarnation, held under ``flock`` for its life, so that whoever gets the lock
knows its owner dead (a stopped process keeps it). One append before the dots of a group, one after
its replies; no fsync: the page cache outlives a kill, and a journal of another boot is believed in
what it says, never in its silence.

::

    {"v": 1, "owner": "3f0c…/9a1b…", "database": "7431…/16384", "at": "2026-01-01T00:00:00+00:00"}
    d MESSAGE EPOCH                               before the dot
    r MESSAGE EPOCH CODE ENHANCED|- TEXT          after the reply
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import weakref
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from tasks.errors import Transient
from tasks.send.abandoned import AbandonedJournal, Effect, abandoned
from tasks.send.owner import Owner, owner

__all__ = ["AbandonedJournal", "Journal", "JournalFull", "Owner", "abandoned", "owner"]

LIMIT = 8 * 1024 * 1024


class JournalFull(Transient):
    """The journal takes no more; no dot may be written until it does."""


class Journal:
    """The journal of this process; every method is called from one thread."""

    def __init__(self, path: Path, owner: Owner, fd: int, header: bytes) -> None:
        self.path = path
        self.owner = owner
        self._fd = fd
        self._header = header
        self._size = len(header)
        self._broken = False
        # Dots without a settled row, each with the line of its reply once that was heard.
        self._open: dict[Effect, str] = {}
        _open_journals.add(self)

    @classmethod
    def create(cls, folder: Path, owner: Owner, database: str = "") -> Journal:
        """Make and lock ``<instance>.journal``, mode 0600, in a folder on a local disk.

        ``database`` names the one whose rows these are: no other may be told of them.

        Raises:
            JournalFull: if it cannot be made.
        """
        header = _header(owner, database)
        path = folder / f"{owner.instance}.journal"
        return cls(path, owner, _made(path, header), header)

    @property
    def torn(self) -> bool:
        """Whether nothing can be noted any more; a restart makes a new one."""
        return self._broken or self._fd < 0

    @property
    def size(self) -> int:
        """Its length, in octets."""
        return self._size

    def append_dots(self, dots: Iterable[Effect]) -> None:
        """Note, in one write, the dots that are about to be written.

        Raises:
            JournalFull: nothing was noted; the dots must not be written.
        """
        noted = list(dots)
        self._append("".join([f"d {message} {epoch}\n" for message, epoch in noted]))
        self._open.update(dict.fromkeys(noted, ""))

    def append_replies(self, replies: Iterable[tuple[int, int, int, str | None, str]]) -> None:
        """Note, in one write, what was heard: (message id, epoch, code, enhanced code, text).

        Raises:
            JournalFull: nothing was noted; the outcome still goes into the database.
        """
        lines = {(reply[0], reply[1]): _reply_line(*reply) for reply in replies}
        self._append("".join(lines.values()))
        self._open.update(lines)

    def settled(self, message: int, epoch: int) -> None:
        """Forget a dot whose outcome stands in the database.

        Never one in doubt: its row stays open to what this file knows, and without its line the
        file would say that the dot was not written.
        """
        self._open.pop((message, epoch), None)

    def compact(self, *, limit: int = LIMIT) -> bool:
        """Begin anew with what is not settled yet, once it is over its limit.

        The old file stays in force until the new one, locked and complete, takes its name.

        Raises:
            JournalFull: the new one cannot be written; the old one stands.
        """
        if self._size <= limit:
            return False
        lines = "".join(
            [f"d {message} {epoch}\n{reply}" for (message, epoch), reply in self._open.items()]
        )
        fd = _made(self.path, self._header + lines.encode("utf-8", "replace"))
        # From here the old file has no name; its lock goes with its descriptor.
        os.close(self._fd)
        self._fd, self._size = fd, os.fstat(fd).st_size
        self._broken = False
        return True

    def close(self, *, remove: bool) -> None:
        """Let go of the lock; remove the file only when nothing in it is open."""
        if self._fd < 0:
            return
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1

    def _append(self, lines: str) -> None:
        if not lines:
            return
        if self._broken or self._fd < 0:
            raise JournalFull("The journal is closed or torn; restart this send worker.")
        data = lines.encode("utf-8", "replace")
        try:
            _write(self._fd, data)
        except OSError as error:
            # Half a group would be taken for dots that were written.
            self._broken = not self._cut(self._size)
            raise _full(error) from error
        self._size += len(data)

    def _cut(self, size: int) -> bool:
        try:
            os.ftruncate(self._fd, size)
        except OSError:
            return False
        self._size = size
        return True

    def _let_go(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _made(path: Path, content: bytes) -> int:
    """A new journal under its name; its descriptor, locked."""
    # Locked and whole before it has its name: a replay that looks in between finds nothing to take.
    new = path.with_suffix(".new")
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(new, flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write(fd, content)
            new.rename(path)
        except BaseException:
            os.close(fd)
            new.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _full(error) from error
    return fd


def _reply_line(message: int, epoch: int, code: int, enhanced: str | None, text: str) -> str:
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return f"r {message} {epoch} {code} {enhanced or '-'} {text}\n"


def _header(owner: Owner, database: str) -> bytes:
    at = datetime.now(UTC).isoformat(timespec="seconds")
    told = {"v": 1, "owner": str(owner), "database": database, "at": at}
    return (json.dumps(told) + "\n").encode()


def _write(fd: int, data: bytes) -> None:
    """One write; a short one counts as a full disk, which is what the next one would meet."""
    if os.write(fd, data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _full(error: OSError) -> JournalFull:
    return JournalFull(
        f"The journal cannot be written ({error.strerror}); no mail is handed over until its disk "
        "takes writes again. Free space there, or point DRIPFLEET_HOME at another local disk."
    )


_open_journals: weakref.WeakSet[Journal] = weakref.WeakSet()


def _let_go_of_all() -> None:
    # A forked child that kept the descriptor would keep the lock of a dead parent.
    for journal in list(_open_journals):
        journal._let_go()


os.register_at_fork(after_in_child=_let_go_of_all)
