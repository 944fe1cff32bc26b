"""Through which of its relays a stream's next mails go: by weight, past those that are closed.

``main`` names one relay, ``main=3,second=1`` shares mails out three to one, and ``main=1,spare=0``
keeps one for the time when the others are closed or paused. A claim goes through one relay as a whole.

Whatever the relay: a mail whose reply never came stays in doubt and goes nowhere, unless the policy of
its stream is to send it once more; then the copy goes through whichever relay is open by then.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from tasks.errors import Misconfigured

Route: TypeAlias = tuple[tuple[str, int], ...]
"""Relays and their weights, in the order in which they stand."""

_PART: Final = re.compile(r"([a-z0-9_]{1,60})(?:=(\d{1,4}))?", re.ASCII)


def parse(text: str) -> Route:
    """Read what a stream's `relay` says.

    Raises:
        Misconfigured: with what was expected.
    """
    found: dict[str, int] = {}
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None or match[1] in found:
            raise Misconfigured(
                f"{text[:200]!r} names no relays; expected such as `default`, or"
                " `main=3,spare=0`, each relay once, in small letters"
            )
        found[match[1]] = 1 if match[2] is None else int(match[2])
    return tuple(found.items())


def choose(
    route: Route, is_open: Callable[[str], bool], draw: Callable[[], float] = random.random
) -> str | None:
    """The relay for the next mails; None: each is closed or paused.

    Args:
        route: as `parse` reads it.
        is_open: whether a relay takes mails now.
        draw: a number in [0, 1).
    """
    if len(route) == 1:
        name = route[0][0]
        return name if is_open(name) else None
    ready = [(name, weight) for name, weight in route if is_open(name)]
    if not ready:
        return None
    total = sum(weight for _, weight in ready)
    at = draw() * total
    for name, weight in ready:
        if at < weight:
            return name
        at -= weight
    # Only spares are open: the first of them.
    return ready[0][0]


def names(text: str) -> Sequence[str]:
    """The relays that a stream's `relay` names; what cannot be read is named as it stands."""
    try:
        return [name for name, _ in parse(text)]
    except Misconfigured:
        return [text]
