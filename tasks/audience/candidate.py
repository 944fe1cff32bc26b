"""What a row of a subscribers file says about a subscriber; values in, values out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from schedules.localtime import zones
from tasks.audience.address import RefusedAddress, address_hmac, parse
from tasks.audience.csvfile import Row

Attribute: TypeAlias = str | int | float | bool

FIELDS = ("email", "external_id", "first_name", "locale", "zone")
TOPIC_PREFIX = "topic:"
ANSWERS = {
    "yes": True, "y": True, "true": True, "1": True,
    "no": False, "n": False, "false": False, "0": False,
}  # fmt: skip
TYPES: dict[str, tuple[Callable[[str], Attribute], str]] = {
    "int": (int, "a whole number"),
    "number": (lambda text: _finite(float(text)), "a number"),
    "bool": (lambda text: ANSWERS[text.strip().lower()], "yes or no"),
}
"""What may stand behind the name of an attribute's column, as in `spent:number`; else it is text."""
_LOCALE = re.compile(r"([a-z]{2,3})(?:-([a-z]{4}))?(?:-([a-z]{2}|[0-9]{3}))?")


def _finite(number: float) -> float:
    # JSON has no words for these, and neither has a template.
    if not math.isfinite(number):
        raise ValueError
    return number


class BadRow(ValueError):
    """A row that cannot become a subscriber; its text is the reason."""


@dataclass(slots=True)
class Candidate:
    """One subscriber as the file has it; None and {} where it says nothing."""

    line: int
    raw: str
    address: str
    address_hmac: bytes
    external_id: str | None
    first_name: str | None
    locale: str | None
    zone: str | None
    attributes: dict[str, Attribute]
    topics: dict[str, bool]
    again: bool = False

    def absorb(self, later: Candidate) -> None:
        """Let a later row of the same address speak: what it leaves empty stays."""
        self.line, self.raw = later.line, later.raw
        self.external_id = later.external_id or self.external_id
        self.first_name = later.first_name or self.first_name
        self.locale = later.locale or self.locale
        self.zone = later.zone or self.zone
        self.attributes |= later.attributes
        self.topics |= later.topics


@lru_cache(10_000)
def locale(text: str) -> str | None:
    """A language tag in its usual spelling (BCP 47: `de-AT`, `zh-Hant-TW`); None: it is none."""
    found = _LOCALE.fullmatch(text.lower().replace("_", "-"))
    if found is None:
        return None
    language, script, region = found.groups()
    parts = (language, script and script.title(), region and region.upper())
    return "-".join(part for part in parts if part)


class Interpreter:
    """Turns rows into candidates, by the header of their file.

    Args:
        columns: the header. Known are those of `FIELDS` and `topic:KEY` with yes or no; every other
            column becomes an attribute: text, or what one of `TYPES` behind its name says.
        secret: key of the identities.

    `unknown_zones` and `unknown_locales` count the values that were left out as unknown.
    """

    def __init__(self, columns: Sequence[str], secret: bytes) -> None:
        self.unknown_zones = 0
        self.unknown_locales = 0
        self._secret = secret
        self._zones = zones()
        at = {column: index for index, column in enumerate(columns)}
        # A column that is not there points behind the row, where `read` puts an empty text.
        self._at = tuple(at.get(name, len(columns)) for name in FIELDS)
        self._topics = [
            (index, column.removeprefix(TOPIC_PREFIX).strip())
            for column, index in at.items()
            if column.startswith(TOPIC_PREFIX)
        ]
        self._attributes = [
            (index, *_typed(column))
            for column, index in at.items()
            if column not in FIELDS and not column.startswith(TOPIC_PREFIX)
        ]

    @property
    def topics(self) -> list[str]:
        """Keys of the topics that the file has columns for."""
        return [key for _, key in self._topics]

    def read(self, row: Row) -> Candidate:
        """The candidate that a row describes.

        Raises:
            BadRow: the row has a fault, an address that is refused, or an answer on a topic that
                is neither yes nor no.
        """
        if row.fault is not None:
            raise BadRow(row.fault)
        fields = [*row.fields, ""]
        email, external_id, first_name, tag, zone = [fields[i].strip(" \t") for i in self._at]
        try:
            address = parse(email)
        except RefusedAddress as error:
            raise BadRow(str(error)) from None
        if zone and zone not in self._zones:
            self.unknown_zones += 1
            zone = ""
        if tag:
            known = locale(tag)
            self.unknown_locales += known is None
            tag = known or ""
        return Candidate(
            row.line,
            row.raw,
            address,
            address_hmac(self._secret, address),
            external_id or None,
            # A name goes into subject lines: whatever white space it has becomes one space.
            " ".join(first_name.split()) or None,
            tag or None,
            zone or None,
            {
                name: fields[i] if kind is None else self._value(name, kind, fields[i])
                for i, name, kind in self._attributes
                if fields[i]
            },
            {key: self._answer(fields[i]) for i, key in self._topics if fields[i].strip()},
        )

    def _value(self, name: str, kind: str, text: str) -> Attribute:
        convert, expected = TYPES[kind]
        try:
            return convert(text)
        except (ValueError, KeyError):
            raise BadRow(f"column {name}:{kind} holds something that is not {expected}") from None

    def _answer(self, text: str) -> bool:
        answer = ANSWERS.get(text.strip().lower())
        if answer is None:
            raise BadRow("a topic column holds neither yes nor no")
        return answer


def _typed(column: str) -> tuple[str, str | None]:
    name, colon, kind = column.rpartition(":")
    return (name, kind) if colon and name and kind in TYPES else (column, None)
