"""A small score of what filters dislike, in the manner of SpamAssassin: rules, each with its points.

The rules are ours, few, and about words alone; what a relay adds (authentication, reputation) is not
to be seen from here. Five points are too many, as there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

LIMIT: Final = 5.0


@dataclass(frozen=True, slots=True)
class Hit:
    """A rule that matched: its name, its points, and the first thing that it matched."""

    rule: str
    points: float
    found: str


_PHRASES: Final = (
    "act now", "apply now", "as seen on", "best price", "buy now", "call now", "cash bonus",
    "click below", "click here", "congratulations", "credit card", "dear friend", "double your",
    "earn money", "exclusive deal", "extra income", "for free", "free gift", "free money",
    "free trial", "get paid", "guaranteed", "incredible deal", "increase sales", "limited time",
    "lowest price", "make money", "million dollars", "money back", "no catch", "no cost", "no fees",
    "no obligation", "no risk", "once in a lifetime", "only today", "order now", "pre-approved",
    "risk free", "risk-free", "satisfaction guaranteed", "special promotion", "this is not spam",
    "urgent", "what are you waiting for", "while supplies last", "winner", "work from home",
    "you have been selected", "you won",
)  # fmt: skip
_SINGLE: Final = re.compile(r"\b(?:" + "|".join(map(re.escape, _PHRASES)) + r")\b", re.IGNORECASE)
_RULES: Final[tuple[tuple[str, float, re.Pattern[str]], ...]] = (
    ("several exclamation marks", 2.0, re.compile(r"!{2,}|!.*!.*!")),
    ("several question marks", 1.0, re.compile(r"\?{2,}")),
    ("an amount of money", 1.0, re.compile(r"[$€£¥]\s?\d|\d\s?[$€£¥]|\b\d+\s?(?:USD|EUR|GBP)\b")),
    ("a share in per cent", 1.5, re.compile(r"\b\d{1,3}\s?%")),
    ("letters drawn apart", 2.5, re.compile(r"\b(?:\w[ .*_-]){4,}\w\b")),
    ("figures for letters", 2.0, re.compile(r"\b(?:fr33|v1agra|m0ney|cl1ck|0ffer)\b", re.I)),
)


def hits(text: str) -> list[Hit]:
    """The rules that a text meets, most points first."""
    found = [
        Hit(name, points, match[0]) for name, points, rule in _RULES if (match := rule.search(text))
    ]
    phrases = list(dict.fromkeys(each.lower() for each in _SINGLE.findall(text)))
    found += [Hit("a phrase of spam", 1.5, phrase) for phrase in phrases]
    words = [word for word in re.findall(r"[^\W\d_]{3,}", text)]
    shouted = [word for word in words if word.isupper()]
    if len(shouted) >= 3 or (words and len(shouted) * 2 > len(words)):
        found.append(Hit("shouted words", 2.5, " ".join(shouted[:4])))
    return sorted(found, key=lambda hit: -hit.points)


def score(text: str) -> float:
    """The points of a text together."""
    return sum(hit.points for hit in hits(text))
