"""What a row of an events file says; values in, values out."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from tasks.audience.address import RefusedAddress, address_hmac, parse
from tasks.audience.csvfile import Row

REQUIRED = ("name", "occurred_at", "source_id")
KNOWN = ("email", "external_id", *REQUIRED)
OUTSIDE = "occurred_at lies outside the years 1 to 9999"


@dataclass(slots=True)
class Found:
    """One event as the file has it; its subscriber by HMAC, else by external id."""

    line: int
    raw: str
    address_hmac: bytes | None
    external_id: str | None
    name: str
    occurred_at: dt.datetime
    source_id: str
    properties: dict[str, str]


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
    properties = {c: fields[i] for c, i in at.items() if c not in KNOWN and fields[i]}
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
