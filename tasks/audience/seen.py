"""Which addresses of a file have come by already, in little memory."""

from __future__ import annotations

from array import array


class Seen:
    """A set of identities by the first eight octets of their HMAC.

    An open-addressing table at most half full: 16 to 32 octets an address, where a `set` of bytes
    takes over a hundred. Two of a million addresses look alike with a chance of 3 in 100 million.
    """

    def __init__(self) -> None:
        self._size = 0
        self._table = array("Q", bytes(8 * 1024))

    def add(self, identity: bytes) -> bool:
        """Put it in; True if it was there before."""
        key = int.from_bytes(identity[:8], "little") or 1
        if not self._put(key):
            return True
        self._size += 1
        if self._size * 2 > len(self._table):
            self._grow()
        return False

    def _put(self, key: int) -> bool:
        table = self._table
        mask = len(table) - 1
        at = key & mask
        while held := table[at]:
            if held == key:
                return False
            at = (at + 1) & mask
        table[at] = key
        return True

    def _grow(self) -> None:
        old = self._table
        self._table = array("Q", bytes(8 * 2 * len(old)))
        for key in old:
            if key:
                self._put(key)
