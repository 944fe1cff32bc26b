"""What `dripfleet content draft` is asked for, with all that no model could put right."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import typer

if TYPE_CHECKING:
    from tasks.personalize.draft import Draft

# What a prompt needs beside the one field that is tried.
_REST = "slots: {opening: {max: 60}}\nvariants: [{opening: x}]\n"


def checked(
    key: str, brief: str, language: str, mails: int, topic: str, link: str | None,
    goal: str | None, zone: str,
) -> Draft:  # fmt: skip
    """What is asked for, with all that no model could put right.

    Raises:
        BadParameter: an option cannot be used.
    """
    from schedules.localtime import is_zone
    from schedules.reading import SLUG
    from schedules.waits import EVENT
    from tasks.personalize.draft import LONGEST_BRIEF, Draft
    from tasks.personalize.drafted import LANGUAGES
    from tasks.personalize.frames import LANGUAGES as FRAMED
    from tasks.personalize.settings import ModelSettings

    def refuse(option: str, said: str) -> typer.BadParameter:
        return typer.BadParameter(said, param_hint=option)

    if not re.fullmatch(SLUG, key, re.ASCII):
        raise refuse("SEQUENCE", f"{key!r}: expected small letters, digits and '-', such as spring")
    if not re.fullmatch(SLUG, topic, re.ASCII):
        raise refuse("--topic", f"{topic!r}: expected a key such as product-news")
    if language not in LANGUAGES:
        raise refuse("--language", f"{language!r}: expected one of {', '.join(LANGUAGES)}")
    if goal is not None and not re.fullmatch(EVENT, goal, re.ASCII):
        raise refuse("--goal", f"{goal!r}: expected the name of an event such as purchase")
    if not is_zone(zone):
        raise refuse("--zone", f"{zone!r}: expected an IANA name such as Europe/Berlin")
    if link is not None and (
        urlsplit(link).scheme != "https" or not urlsplit(link).hostname or not link.isprintable()
        or " " in link
    ):  # fmt: skip
        raise refuse("--link", f"{link!r}: expected an https address")
    if language not in FRAMED and not ModelSettings().url:
        said = (
            f"no DRIPFLEET_MODEL_URL is set, and the server that ships drafts in {' and '.join(FRAMED)}"
            " only: name a model's server, or another language"
        )
        raise refuse("--language", said)
    if not 10 <= len(brief) <= LONGEST_BRIEF:
        said = f"it has {len(brief)} characters: expected 10 to {LONGEST_BRIEF}"
        raise refuse("--brief", said)
    return Draft(key, brief, language, mails, topic, link, goal, zone)


def with_ways(
    asked: Draft, subjects: int, branch: str | None, reader: str | None, fields: list[str]
) -> Draft:
    """The same with an experiment, a branch and prompts.

    Raises:
        BadParameter: an option cannot be used.
    """
    from schedules.expression import read
    from schedules.findings import DefinitionError
    from schedules.prompt_file import loads_prompt

    if subjects > 1 and asked.goal is None:
        said = "subjects that are tried need what they are counted by: name an event with --goal"
        raise typer.BadParameter(said, param_hint="--subjects")
    if reader is not None and branch is None:
        raise typer.BadParameter("expected --branch beside it", param_hint="--reader")
    stale = False
    if branch is not None:
        try:
            stale = read(branch).needs.stale_at is not None
        except ValueError as fault:
            raise typer.BadParameter(f"{branch!r}: {fault}", param_hint="--branch") from None
    declared: dict[str, str] = {}
    for each in fields:
        name, colon, how = each.partition(":")
        if not colon or "\n" in each:
            said = f"{each!r}: expected such as 'orders: {{from: sub.orders, bands: [2, 5]}}'"
            raise typer.BadParameter(said, param_hint="--field")
        declared[name.strip()] = how.strip()
        trial = f"task: x\nlanguage: en\nfields:\n  {name.strip()}: {how.strip()}\n"
        try:
            loads_prompt(f"{trial}{_REST}", "draft", "--field")
        except DefinitionError as error:
            told = "; ".join(finding.message for finding in error.findings)
            raise typer.BadParameter(f"{each!r}: {told}", param_hint="--field") from None
    return dataclasses.replace(
        asked, subjects=subjects, branch=branch, reader=reader, stale=stale, fields=declared
    )


def brief_of(brief: str) -> str:
    """A brief as it was given, or of the file that it names."""
    if brief == "-":
        return sys.stdin.read().strip()
    named = len(brief) < 250 and "\n" not in brief
    if named and Path(brief).is_file():
        try:
            return Path(brief).read_text("utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as fault:
            said = f"{brief} cannot be read as UTF-8 text ({type(fault).__name__})"
            raise typer.BadParameter(said, param_hint="--brief") from None
    if named and re.fullmatch(r"\S+\.(?:txt|md)", brief):
        raise typer.BadParameter(f"there is no file {brief}", param_hint="--brief")
    return brief.strip()
