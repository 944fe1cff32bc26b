"""Whether clicks and opens of a mail were a person's: by the program, and by what it did.

A scanner that calls itself a browser gives itself away by following everything: the link that no
human sees, or three links within seconds. What else came in those seconds was its too. The same link again
within seconds is the same click: whoever hammers on one makes no thousand events of it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

SWEEP: Final = dt.timedelta(seconds=10)
"""A person reads between two links; what follows several within this time does not."""
MANY: Final = 3
"""Different links within that time which nobody follows by hand."""
HONEYPOT: Final = 0
"""Row id of the link that no human sees."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One click (with its link) or open (`link` None) of one message, and what program it was."""

    id: int
    link: int | None
    agent: str
    at: dt.datetime


def judge(hits: Sequence[Hit]) -> dict[int, str | None]:
    """Why a hit was a machine's, by its id; None where it was a person's. Repeated ones are left out.

    Args:
        hits: all of one message that came close together, in any order.
    """
    once = list(_once(sorted(hits, key=lambda hit: (hit.at, hit.id))))
    clicks = [hit for hit in once if hit.link is not None]
    swept: list[tuple[dt.datetime, dt.datetime, str]] = [
        (hit.at - SWEEP, hit.at + SWEEP, "hidden_link") for hit in clicks if hit.link == HONEYPOT
    ]
    for first, hit in enumerate(clicks):
        within = [each for each in clicks[first:] if each.at - hit.at <= SWEEP]
        if len({each.link for each in within}) >= MANY:
            swept.append((hit.at, within[-1].at, "all_links"))
    return {hit.id: _why(hit, swept) for hit in once}


def _once(hits: Iterable[Hit]) -> Iterator[Hit]:
    """Hits in their order, without those that repeat one of the same program within `SWEEP`."""
    last: dict[tuple[int | None, str], dt.datetime] = {}
    for hit in hits:
        before = last.get((hit.link, hit.agent))
        if before is None or hit.at - before > SWEEP:
            last[hit.link, hit.agent] = hit.at
            yield hit


def _why(hit: Hit, swept: Iterable[tuple[dt.datetime, dt.datetime, str]]) -> str | None:
    if hit.agent != "browser":
        return hit.agent
    return next((why for begin, end, why in swept if begin <= hit.at <= end), None)
