"""Of the children of a worker all but one may be at something long; the last one answers the rest.

A prefork worker hands a message to any child that is free. So that a single score never stands
behind a chunk, what is long first takes a lane, of which there is one less than children, and gives
up where none is free: the work is rows, and whoever has the lane goes on to them. Lanes are locks
on a file without a name, opened before the fork: a child that is killed loses its own.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


class Lanes:
    """Locks that the children of this process share; make it before they are forked."""

    def __init__(self) -> None:
        self._file, path = tempfile.mkstemp()
        os.unlink(path)

    @contextmanager
    def take(self, children: int) -> Iterator[bool]:
        """Hold a lane of a worker with so many children; within: whether one was free."""
        for lane in range(max(children - 1, 1)):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, lane)
            except OSError:
                continue
            try:
                yield True
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, lane)
            return
        yield False
