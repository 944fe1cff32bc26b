"""A mail in several languages: a folder a locale inside its own, and which one somebody gets. Pure.

``templates/win-back/hello/de-AT/`` goes before ``de/``, and that before the folder itself, by the
subscriber's locale as the claim froze it. A folder is the whole mail or none of it: nobody gets a subject
in one language over a text in another. All of them are one template version, under one hash.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tasks.errors import Permanent

FOLDER: Final = r"(?:[a-z]{2}|[a-z]{3}(?=-))(?:-[A-Z][a-z]{3})?(?:-(?:[A-Z]{2}|[0-9]{3}))?"
"""Pattern of a locale's folder (BCP 47): language, script, region, as ``de``, ``de-AT``, ``zh-Hant-TW``."""
OWN: Final = ("subject.txt", "body.txt", "body.html")
_LOCALE: Final = re.compile(FOLDER)
# No name of a template has these, or begins with one of these languages by chance.
_MEANT: Final = re.compile(
    r"[A-Z]{2}|[A-Za-z]{2,3}[-_][A-Za-z0-9_-]*[A-Z_][A-Za-z0-9_-]*|[a-z]{2}_[a-z]{2}"
    r"|(?:ar|bg|cs|da|de|el|en|es|et|fi|fr|he|hi|hr|hu|id|it|ja|ko|lt|lv|nb|nl|pl|pt|ro|ru|sk|sl|sr|sv"
    r"|th|tr|uk|vi|zh)-[a-z]{2}"
)


def choose(locales: Collection[str], wanted: Any) -> str | None:
    """The folder for a subscriber's locale; None: the mail's own.

    Args:
        locales: the folders that there are.
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


def in_parts(parts: Collection[str]) -> tuple[str, ...]:
    """The locales that paths of a mail are of, sorted."""
    found = {path.partition("/")[0] for path in parts if "/" in path}
    return tuple(sorted(found - {"_base"}))


def in_folder(folder: Path) -> list[str]:
    """The locales below a template's folder.

    Raises:
        Permanent: a folder is meant for one, and is not written as one.
    """
    found = []
    for below in sorted(path for path in folder.iterdir() if path.is_dir()):
        if not any((below / own).exists() for own in OWN):
            continue
        if _LOCALE.fullmatch(below.name):
            found.append(below.name)
        elif _MEANT.fullmatch(below.name):
            raise Permanent(
                f"{below} is no folder of a locale: expected a language such as de, or de-AT with its"
                " region; rename it"
            )
    return found


def is_one(folder: Path) -> bool:
    """Whether a folder is a locale of the template that it lies in."""
    above = folder.parent
    return _LOCALE.fullmatch(folder.name) is not None and any((above / own).exists() for own in OWN)


def require_whole(name: str, parts: Mapping[str, str]) -> None:
    """Hold every locale to the parts that the mail itself has.

    Raises:
        Permanent: one lacks a part, or has one more.
    """
    for said in _odd(name, parts):
        raise Permanent(said)


def _odd(name: str, parts: Mapping[str, str]) -> Iterator[str]:
    meant = [own for own in OWN if own in parts]
    for locale in in_parts(parts):
        for own in OWN:
            there = f"{locale}/{own}" in parts
            if own in meant and not there:
                yield (
                    f"template {name} has no {locale}/{own}, and a mail is in one language as a whole:"
                    f" add it, or take the folder {locale} away"
                )
            elif there and own not in meant:
                yield f"template {name} has {locale}/{own} and no {own}: add it for everybody else"
