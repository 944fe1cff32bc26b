"""How durations and times of day are written in a definition: ``3d``, ``09:30``."""

from __future__ import annotations

import re
from datetime import time, timedelta
from typing import Final

LONGEST: Final = timedelta(days=3650)
"""No duration of a definition is longer: far below what a timestamp overflows at."""

_UNITS: Final = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION: Final = re.compile(r"([0-9]{1,12})([smhdw])", re.ASCII)
_SPOKEN: Final = re.compile(r"([0-9]{1,12}) *([a-z]+)", re.ASCII)
_OFFSET: Final = re.compile(r"([+-]?)([0-9]{1,4})([dw])", re.ASCII)
_CLOCK: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])", re.ASCII)


def parse_duration(text: str) -> timedelta:
    """Read ``20s``, ``5m``, ``2h``, ``3d`` or ``1w``: elapsed time, a day being 24 hours.

    Raises:
        ValueError: another form, zero, or longer than ten years.
    """
    match = _DURATION.fullmatch(text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= LONGEST.total_seconds():
        raise ValueError(
            f"{text[:40]!r} is not a duration: expected a number and a unit such as 20s, 5m, 2h, 3d"
            f" or 1w, above zero and at most ten years; {_meant(text) or 'write it so'}"
        )
    return timedelta(seconds=seconds)


def _meant(text: str) -> str | None:
    """What ``3 days`` or ``90min`` is in this form; None where that is not clear."""
    match = _SPOKEN.fullmatch(text.strip().lower())
    word = match[2] if match else ""
    for unit, said in _SAID.items():
        if match and any(word in (each, f"{each}s") for each in said):
            return f"did you mean '{int(match[1])}{unit}'?"
    return None


_SAID: Final = {
    "w": ("week", "wk"), "d": ("d", "day"), "h": ("h", "hour", "hr"), "m": ("m", "min", "minute"),
    "s": ("s", "sec", "second"),
}  # fmt: skip


def format_duration(duration: timedelta) -> str:
    """Write a duration of whole seconds in the largest unit that needs no fraction: ``2d``."""
    seconds = int(duration.total_seconds())
    unit = next(unit for unit, size in _UNITS.items() if seconds % size == 0)
    return f"{seconds // _UNITS[unit]}{unit}"


def parse_offset(text: str) -> int:
    """Read ``-3d``, ``2w`` or ``+1d`` as calendar days before or after a date.

    Raises:
        ValueError: another form, zero, or more than ten years.
    """
    match = _OFFSET.fullmatch(text)
    days = int(match[2]) * (7 if match[3] == "w" else 1) if match else 0
    if not match or not 0 < days <= LONGEST.days:
        raise ValueError(
            f"{text[:40]!r} is no offset: expected calendar days such as -3d, 2d or 1w, not zero"
            " and at most ten years; write it so"
        )
    return -days if match[1] == "-" else days


def format_offset(days: int) -> str:
    """Write what `parse_offset` reads: ``-3d``."""
    return f"{days}d"


def parse_clock(text: str) -> time:
    """Read a time of day, ``00:00`` to ``23:59``.

    Raises:
        ValueError: another form, such as ``9:30`` or ``24:00``.
    """
    match = _CLOCK.fullmatch(text)
    if not match:
        raise ValueError(
            f"{text[:40]!r} is not a time of day: expected four digits such as 09:30 or 21:00; write it so"
        )
    return time(int(match[1]), int(match[2]))
