"""Whether a short text is in the language that it should be: by its function words, and its script.

A few sentences decide little, so the judge speaks only where another language is clearly ahead. The
words are the most frequent of each language that are not frequent in another one of the list.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

WORDS: Final[dict[str, frozenset[str]]] = {
    "de": frozenset(
        "und der das ist nicht ein eine sie wir mit auf dich dir für sich haben uns auch schon ihr"
        " sehr wieder noch etwas bei zu vom dem den".split()
    ),
    "en": frozenset(
        "the and you we to of is for your have been it that with would our this be not are from"
        " again see there was has".split()
    ),
    "es": frozenset(
        "el los las una por para con que usted nos es está muy pero su más como ha nuestra nuestro"
        " gracias del hola".split()
    ),
    "fr": frozenset(
        "le les des une vous nous est pas pour dans avec que sur votre notre avez cette plus depuis"
        " du et au".split()
    ),
    "it": frozenset(
        "il gli della una per con che non siamo è sono anche più come nostro tuo ci di hai grazie"
        " questo da".split()
    ),
    "nl": frozenset(
        "het een en van wij niet je ons voor met dat is op naar zijn heeft hebben ook weer uw te"
        " graag bij".split()
    ),
    "pt": frozenset(
        "os uma para com que você nós não está muito mais seu sua como nosso obrigado foi ao dos"
        " pelo em".split()
    ),
}
_LETTERS: Final = re.compile(r"[^\W\d_]+")


def other_language(text: str, wanted: str) -> str | None:
    """Why `text` is not in the language `wanted`, in words; None: it may well be."""
    words = [word.lower() for word in _LETTERS.findall(text)]
    letters = "".join(words)
    foreign = sum(not unicodedata.name(each, "").startswith("LATIN") for each in letters)
    if foreign * 5 > len(letters):
        return "it is not written in Latin letters"
    counts = {language: sum(word in known for word in words) for language, known in WORDS.items()}
    best = max(counts, key=lambda language: (counts[language], language == wanted))
    if counts[best] >= 3 and counts[best] > 2 * counts[wanted]:
        return f"it is in the language {best}, not in {wanted}"
    if counts[wanted] == 0 and len(words) >= 12:
        return f"it holds none of the common words of the language {wanted}"
    return None
