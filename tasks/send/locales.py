"""A mail in several languages: a folder a locale inside its own, and which one somebody gets. Pure.

``templates/win-back/hello/de-AT/`` goes before ``de/``, and that before the folder itself, by the
subscriber's locale as the claim froze it. A folder is the whole mail or none of it: nobody gets a subject
in one language over a text in another. All of them are one template version, under one hash.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from schedules.locales import FOLDER as FOLDER
from schedules.locales import choose as choose
from schedules.locales import is_locale, is_meant
from schedules.locales import language_of as language_of
from tasks.errors import Permanent

OWN: Final = ("subject.txt", "body.txt", "body.html")


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
        if is_locale(below.name):
            found.append(below.name)
        elif is_meant(below.name):
            raise Permanent(
                f"{below} is no folder of a locale: expected a language such as de, or de-AT with its"
                " region; rename it"
            )
    return found


def is_one(folder: Path) -> bool:
    """Whether a folder is a locale of the template that it lies in."""
    above = folder.parent
    return is_locale(folder.name) and any((above / own).exists() for own in OWN)


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
