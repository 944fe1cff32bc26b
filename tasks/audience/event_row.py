"""What a row of an events file, or an event of a producer, says; values in, values out."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from tasks.audience.address import RefusedAddress, address_hmac, parse
from tasks.audience.candidate import TYPES
from tasks.audience.csvfile import Row

REQUIRED = ("name", "occurred_at", "source_id")
KNOWN = ("email", "external_id", *REQUIRED)
PROPERTIES: Final = "properties:json"
"""A column that holds an object of properties, as JSON."""
OUTSIDE = "occurred_at lies outside the years 1 to 9999"
LONGEST_NAME: Final = 200
LONGEST_ID: Final = 500
MOST_PROPERTIES: Final = 100_000
"""Characters of an event's properties, as JSON."""


@dataclass(slots=True)
class Found:
    """One event as the file has it; its subscriber by HMAC, else by external id."""

    line: int
    raw: str
    address_hmac: bytes | None
    external_id: str | None
    name: str
    occurred_at: dt.datetime | None
    source_id: str
    properties: dict[str, Any]


class BadEvent(ValueError):
    """A row that is no event; its text is the reason."""


def moment(text: str) -> dt.datetime:
    """An ISO 8601 date or time as an instant in UTC; without an offset it is UTC already.

    Raises:
        BadEvent: it is no date, or lies outside the years 1 to 9999.
    """
    try:
        found = dt.datetime.fromisoformat(text.strip())
    except ValueError:
        raise BadEvent(
            "occurred_at is no date: expected ISO 8601, 2026-02-28T14:30:00+01:00"
        ) from None
    try:
        return found.replace(tzinfo=dt.UTC) if found.tzinfo is None else found.astimezone(dt.UTC)
    except OverflowError:
        raise BadEvent(OUTSIDE) from None


def _shifted(instant: dt.datetime, shift: dt.timedelta) -> dt.datetime:
    try:
        return instant + shift
    except OverflowError:
        raise BadEvent(OUTSIDE) from None


def read_event(row: Row, at: Mapping[str, int], secret: bytes, shift: dt.timedelta) -> Found:
    """The event that a row describes, its date moved by `shift`.

    Args:
        row: one row of the file.
        at: where its columns are.
        secret: key of the identities.
        shift: added to the date.

    Raises:
        BadEvent: the row has a fault, or lacks a name, a date, a source_id or a subscriber.
    """
    if row.fault is not None:
        raise BadEvent(row.fault)
    fields = row.fields
    value = {column: fields[index].strip() for column, index in at.items() if column in KNOWN}
    for column in ("name", "source_id"):
        if not value[column]:
            raise BadEvent(f"{column} is empty")
    identity = None
    if email := value.get("email"):
        try:
            identity = address_hmac(secret, parse(email))
        except RefusedAddress as error:
            raise BadEvent(str(error)) from None
    elif not value.get("external_id"):
        raise BadEvent("neither email nor external_id says whose event it is")
    _bounded(value["name"], value["source_id"])
    properties: dict[str, Any] = {}
    for column, index in at.items():
        if column not in KNOWN and fields[index]:
            properties |= _property(column, fields[index])
    return Found(
        row.line,
        row.raw,
        identity,
        value.get("external_id") or None,
        value["name"],
        _shifted(moment(value["occurred_at"]), shift),
        value["source_id"],
        properties,
    )


def read_object(event: Any, line: int, secret: bytes) -> Found:
    """The event that an object of a producer describes; without `occurred_at` it has no time yet.

    Args:
        event: keys `email` or `external_id`, `name`, `source_id`, `occurred_at`, `properties`.
        line: its place, kept in what is returned.
        secret: key of the identities.

    Raises:
        BadEvent: it is no such object, or holds what Postgres cannot.
    """
    if not isinstance(event, dict):
        raise BadEvent("the event is no object: expected name, source_id and email or external_id")
    if odd := sorted(str(key) for key in event.keys() - {*KNOWN, "properties"}):
        raise BadEvent(
            f"the event has a key {odd[0][:60]!r}: expected {', '.join(KNOWN)} and properties"
        )
    fields = [_text(event, column) for column in KNOWN]
    properties = event.get("properties") or {}
    _storable(properties)
    at = {column: index for index, column in enumerate(KNOWN)}
    timeless = not fields[at["occurred_at"]]
    if timeless:
        fields[at["occurred_at"]] = "2000-01-01"
    found = read_event(Row(line, "", fields), at, secret, dt.timedelta())
    found.properties = properties
    if timeless:
        found.occurred_at = None
    return found


def _text(event: Mapping[str, Any], key: str) -> str:
    value = event.get(key)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadEvent(f"{key} is neither text nor a whole number")
    text = str(value)
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise BadEvent(f"{key} holds something that is not text")
    return text


def _bounded(name: str, source_id: str) -> None:
    for what, text, longest in (
        ("name", name, LONGEST_NAME),
        ("source_id", source_id, LONGEST_ID),
    ):
        if len(text) > longest:
            raise BadEvent(f"{what} is longer than {longest} characters")


def _property(column: str, text: str) -> dict[str, Any]:
    """What one column says: properties by name."""
    if column == PROPERTIES:
        try:
            held = json.loads(text)
        except (ValueError, RecursionError):
            raise BadEvent(f"{PROPERTIES} is no readable JSON") from None
        _storable(held)
        return dict(held)
    name, kind = _typed(column)
    if kind is None:
        return {name: text}
    convert, expected = TYPES[kind]
    try:
        return {name: convert(text)}
    except (ValueError, KeyError):
        raise BadEvent(f"column {column} holds something that is not {expected}") from None


@lru_cache(1000)
def _typed(column: str) -> tuple[str, str | None]:
    name, colon, kind = column.rpartition(":")
    return (name, kind) if colon and name and kind in TYPES else (column, None)


def _storable(properties: Any) -> None:
    """Refuse what is no object, or what jsonb cannot hold."""
    if not isinstance(properties, dict):
        raise BadEvent("properties is no object of names and values")
    try:
        size = len(json.dumps(properties, allow_nan=False))
    except (ValueError, RecursionError):
        raise BadEvent("properties hold NaN, an infinity, or are nested too deeply") from None
    if size > MOST_PROPERTIES:
        raise BadEvent(f"properties are longer than {MOST_PROPERTIES} characters")
    for value in _leaves(properties):
        if isinstance(value, str):
            if "\x00" in value or any("\ud800" <= each <= "\udfff" for each in value):
                raise BadEvent("properties hold something that is not text")
        elif isinstance(value, float) and not math.isfinite(value):
            raise BadEvent("properties hold a number that is none")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    else:
        yield value
