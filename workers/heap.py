"""One heap a process, where its threads would have one each."""

from __future__ import annotations

import ctypes
from typing import Final

_ARENA_MAX: Final = -8
"""M_ARENA_MAX of glibc's malloc.h, as `mallopt(3)` has it."""


def one_heap() -> bool:
    """Let all threads allocate from one heap; call it before there are any.

    glibc gives a thread a heap of its own so that two need not wait for each other; in Python one of
    them runs at a time, and what one of them has freed no other gets.

    Returns:
        False where there is no glibc.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(_ARENA_MAX, 1))
    except (OSError, AttributeError):
        return False
