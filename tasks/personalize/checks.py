"""What a text must hold before it stands in a mail: pure, and the same for every model.

A model may be told anything by what a subscriber wrote, and may obey. So nothing depends on its good
will: characters that make a link, an address, a header or markup are refused unless the operator's own
words hold them, and figures and words of offers likewise. A link, an offer and an address are the
template's alone.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import Final

from tasks.personalize import spam
from tasks.personalize.engine import Brief, read
from tasks.personalize.language import other_language

LEAST_LIKE: Final = 0.3
"""Cosine of the counts of letter triples, to the brief and its variants; texts about it have more."""

_PUNCTUATION: Final = frozenset(" .,;:!?'\"’‘“”„«»()-–—…")
_OFFERS: Final = frozenset(
    """free freebie gift discount discounts sale off percent coupon coupons voucher vouchers code
    promo refund bonus prize cheap cheaper cash price prices cost costs save deal deals offer offers
    gratis rabatt rabatte gutschein gutscheine geschenk kostenlos umsonst prozent angebot angebote
    nachlass remise réduction soldes gratuit gratuite cadeau offre offres bon pourcent descuento
    regalo oferta ofertas cupón rebaja sconto regalo offerta offerte buono korting gratis aanbieding
    cadeau desconto oferta brinde cupom""".split()
)
_LINK: Final = re.compile(
    r"https?|www\.|\w\.\w{2,}|\bdot\s+(?:com|net|org|io|info|de|co)\b|://|\bmailto\b", re.IGNORECASE
)
_HEADER: Final = re.compile(
    r"\b(?:to|cc|bcc|from|sender|subject|reply-to|date|received|content-type|list-[a-z]+)\s*:",
    re.IGNORECASE,
)
_LEFT: Final = re.compile(
    r"\[[^\]]*\]?|\]|\b(?:lorem ipsum|todo|tbd|xxx|insert (?:your )?name|your name here|as an ai"
    r"|language model)\b",
    re.IGNORECASE,
)
_WORD: Final = re.compile(r"[^\W\d_]+")
_FIGURES: Final = re.compile(r"\d+")
_STOPS: Final = str.maketrans({"。": ".", "｡": ".", "·": "."})
"""Full stops that browsers read as one within a name (RFC 3490 §3.1), and one that looks so."""


def judge(
    content: str, brief: Brief, told: Mapping[str, str | None]
) -> tuple[dict[str, str] | None, list[tuple[str, str]]]:
    """The slots of an answer, and everything that is wrong with it: they are used where that is empty."""
    slots = read(content, brief.slots)
    if isinstance(slots, str):
        return None, [("form", slots)]
    return slots, faults(slots, brief, told)


def faults(
    slots: Mapping[str, str], brief: Brief, told: Mapping[str, str | None]
) -> list[tuple[str, str]]:
    """Everything that is wrong with a text: (check, sentence); empty: it may be used.

    Args:
        slots: as `engine.read` gave them.
        brief: whose words are the measure.
        told: what the model knew.
    """
    own = " ".join([brief.task, *(text for each in brief.variants for text in each.values())])
    named = {f"[{name}]" for name in brief.names if told.get(name)}
    found: list[tuple[str, str]] = []
    for slot, said in slots.items():
        found += [
            (check, f"{slot} {why}") for check, why in _slot(slot, said, brief, own, named, told)
        ]
    if found:
        return found
    whole = _without(" ".join(slots.values()), named)
    # Each slot is its own line: what stands in two of them is not shouted twice.
    points = spam.score(whole)
    if points >= spam.LIMIT:
        names = ", ".join(hit.rule for hit in spam.hits(whole)[:3])
        found.append(("spam", f"the text has {points:g} points of spam ({names})"))
    for said in (whole, *(_without(each, named) for each in slots.values())):
        if why := other_language(said, brief.language):
            found.append(("language", f"the text is wrong: {why}"))
            break
    if (like := likeness(whole, own)) < LEAST_LIKE:
        found.append(("likeness", f"the text is not about the task (likeness {like:.2f})"))
    return found


def _slot(
    slot: str,
    said: str,
    brief: Brief,
    own: str,
    named: set[str],
    told: Mapping[str, str | None],
) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if not 2 <= len(said) <= brief.slots[slot]:
        found.append(("length", f"has {len(said)} characters, at most {brief.slots[slot]} fit"))
    # What looks like another character is held against the rules as that one.
    text = unicodedata.normalize("NFKC", _without(said, named)).translate(_STOPS)
    if _LINK.search(text):
        found.append(("link", "holds a link"))
    if "@" in text:
        found.append(("address", "holds an address"))
    if _HEADER.search(text):
        found.append(("header", "holds the name of a header"))
    if _LEFT.search(text):
        found.append(("placeholder", "holds a placeholder or words of a machine"))
    odd = sorted({c for c in text if not (c.isalnum() or c in _PUNCTUATION or c in own)})
    if odd:
        shown = " ".join(f"U+{ord(c):04X}" for c in odd[:4])
        found.append(("characters", f"holds characters that it may not ({shown})"))
    known = set(_FIGURES.findall(own)) | _bands(told)
    if unseen := [n for n in _FIGURES.findall(text) if n not in known]:
        found.append(("figures", f"holds the figure {unseen[0][:20]}, which nobody gave"))
    words = {word.lower() for word in _WORD.findall(text)}
    said_before = {word.lower() for word in _WORD.findall(own)}
    if unsaid := sorted((words & _OFFERS) - said_before):
        found.append(("offer", f"holds a word of offers ({unsaid[0]}), which the task does not"))
    for banned in brief.banned:
        if re.search(rf"(?<!\w){re.escape(banned)}(?!\w)", text, re.IGNORECASE):
            found.append(("banned", f"holds {banned!r}, which is banned"))
    return found


def offers(text: str) -> list[str]:
    """The words of offers in a text, in their order."""
    return [word for word in map(str.lower, _WORD.findall(text)) if word in _OFFERS]


def likeness(text: str, own: str) -> float:
    """Cosine of two texts by their letter triples: 0 nothing in common, 1 the same."""
    left, right = _triples(text), _triples(own)
    both = sum(n * right[each] for each, n in left.items())
    size = math.sqrt(sum(n * n for n in left.values()) * sum(n * n for n in right.values()))
    return both / size if size else 0.0


def _triples(text: str) -> Counter[str]:
    letters = " ".join(_WORD.findall(text.lower()))
    return Counter(letters[i : i + 3] for i in range(len(letters) - 2))


def _without(said: str, named: set[str]) -> str:
    for each in named:
        said = said.replace(each, "Ada")
    return said


def _bands(told: Mapping[str, str | None]) -> set[str]:
    """Figures of our own bands; those in a text that a subscriber wrote count for nothing."""
    form = re.compile(r"under -?\d+|-?\d+ to -?\d+|-?\d+ or more")
    return {
        figure
        for value in told.values()
        if value is not None and form.fullmatch(value)
        for figure in _FIGURES.findall(value)
    }
