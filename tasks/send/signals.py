"""What a relay's reply says about the pace: too fast, and for how long to stay away.

Slow down is what these say, by their operators' own pages: 421 at any stage (RFC 5321 §3.8); Gmail
421 and 450 4.7.28 ("unusual rate of unsolicited mail"); Yahoo and AOL 421 4.7.0 [TSS04]
("temporarily deferred due to unexpected volume or user complaints"); Microsoft 451 4.7.500 to
4.7.650 ("server busy", "temporarily rate limited due to IP reputation"); iCloud and Comcast 421 and
450 4.7.x. Not so: greylisting, which asks this one mail to come again, and 4.2.x and 4.1.x, which
speak of one mailbox (Gmail's 450 4.2.1: "the user … is receiving mail at a rate").
"""

from __future__ import annotations

import re
from typing import Final

from tasks.send.reply import Reply

LONGEST: Final = 4 * 3600.0
"""Seconds that a reply may ask us to stay away at most: beyond that it is taken for a slip."""

_CODES: Final = frozenset({450, 451, 452, 454})
_WORDS: Final = re.compile(
    r"rate.?limit|throttl|too (?:many|much|fast)|unusual|unexpected volume|server busy|"
    r"temporarily deferred|reputation|slow down|connection limit|exceeded",
    re.IGNORECASE,
)
_GREY: Final = re.compile(r"gr[ea]y.?list", re.IGNORECASE)
_WAIT: Final = re.compile(
    r"(?:try|retry|retrying|come back|wait)\s+(?:again\s+)?(?:in|after|for)?\s*"
    r"(?P<n>\d{1,6})\s*(?P<unit>s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?)?\b",
    re.IGNORECASE,
)
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}


def slows(reply: Reply | None) -> bool:
    """Whether this reply asks us to send less to where that mail was going."""
    if reply is None:
        return False
    if reply.code == 421:
        return True
    if reply.code not in _CODES or _GREY.search(reply.text):
        return False
    enhanced = reply.enhanced or ""
    if enhanced.startswith("4.7."):
        return True
    if enhanced.startswith(("4.1.", "4.2.")):
        return False
    return _WORDS.search(reply.text) is not None


def asked_wait(reply: Reply | None) -> float | None:
    """The seconds of "try again in N"; None where the reply names no time."""
    found = None if reply is None else _WAIT.search(reply.text)
    if found is None:
        return None
    seconds = float(found["n"]) * _UNITS[(found["unit"] or "s")[0].lower()]
    return min(seconds, LONGEST) if seconds > 0 else None
