"""Which of some locales somebody gets, by their own: for a mail's folders and a prompt's files alike."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final

FOLDER: Final = r"(?:[a-z]{2}|[a-z]{3}(?=-))(?:-[A-Z][a-z]{3})?(?:-(?:[A-Z]{2}|[0-9]{3}))?"
"""Pattern of a locale's folder (BCP 47): language, script, region, as ``de``, ``de-AT``, ``zh-Hant-TW``."""
_LOCALE: Final = re.compile(FOLDER)
# No name of a template has these, or begins with one of these languages by chance.
_MEANT: Final = re.compile(
    r"[A-Z]{2}|[A-Za-z]{2,3}[-_][A-Za-z0-9_-]*[A-Z_][A-Za-z0-9_-]*|[a-z]{2}_[a-z]{2}"
    r"|(?:ar|bg|cs|da|de|el|en|es|et|fi|fr|he|hi|hr|hu|id|it|ja|ko|lt|lv|nb|nl|pl|pt|ro|ru|sk|sl|sr|sv"
    r"|th|tr|uk|vi|zh)-[a-z]{2}"
)


def choose(locales: Collection[str], wanted: Any) -> str | None:
    """The one for a subscriber's locale; None: what there is for everybody else.

    Args:
        locales: those that there are.
        wanted: as the subscriber has it: ``de-AT``, ``de_AT.UTF-8``, null.
    """
    if not locales or not isinstance(wanted, str):
        return None
    known = {each.lower(): each for each in locales}
    parts = re.split(r"[.@]", wanted)[0].replace("_", "-").lower().split("-")
    for n in range(len(parts), 0, -1):
        if (found := known.get("-".join(parts[:n]))) is not None:
            return found
    return None


def language_of(locale: str) -> str:
    """Its language: ``de`` of ``de-AT``."""
    return locale.split("-")[0]


def is_locale(name: str) -> bool:
    """Whether a name is written as a locale's is."""
    return _LOCALE.fullmatch(name) is not None


def is_meant(name: str) -> bool:
    """Whether a name that is no locale was meant for one, such as ``de_at``."""
    return not is_locale(name) and _MEANT.fullmatch(name) is not None
