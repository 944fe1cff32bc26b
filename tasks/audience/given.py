"""Subscribers as another system gives them, object by object: brought in as a file's rows are."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from models.session import Database
from tasks.audience.candidate import FIELDS, TOPIC_PREFIX, BadRow, Candidate, Interpreter
from tasks.audience.confirming import record_pending
from tasks.audience.consent import record_consents
from tasks.audience.csvfile import Row
from tasks.audience.importer import TAKEN, bring_in

MOST: Final = 1_000
"""Subscribers of one call."""
LONGEST: Final = 1_000
MOST_ATTRIBUTES: Final = 50_000
"""Characters of a subscriber's attributes, as JSON."""
KNOWN: Final = frozenset({*FIELDS, "attributes", "topics"})


@dataclass(slots=True)
class Brought:
    """What became of them: each is new, updated, unchanged, the same as another one, or refused."""

    new: int = 0
    updated: int = 0
    unchanged: int = 0
    duplicates: int = 0
    consents: int = 0
    pending: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)


def bring(
    database: Database, objects: Sequence[Mapping[str, Any]], *, secret: bytes, source: str
) -> Brought:
    """Bring subscribers in, or up to date; what is refused is told, and stops none of the others.

    What is empty overwrites nothing, a stop stays a stop, and a consent that its subscriber took back
    stays taken back: all as by `subscribers import`.

    Args:
        database: where to.
        objects: keys of `KNOWN`; `email` is obliged.
        secret: key of the identities.
        source: who gives them, for the record of consents.
    """
    told = Brought()
    candidates: dict[bytes, Candidate] = {}
    owners: dict[str, bytes] = {}
    for index, each in enumerate(objects):
        try:
            found = _candidate(each, index, secret)
            if found.external_id is not None:
                owner = owners.setdefault(found.external_id, found.address_hmac)
                if owner != found.address_hmac:
                    raise BadRow(TAKEN)
        except BadRow as fault:
            told.refused.append({"index": index, "reason": str(fault)})
            continue
        earlier = candidates.setdefault(found.address_hmac, found)
        if earlier is not found:
            earlier.absorb(found)
            told.duplicates += 1
    rows = list(candidates.values())
    if rows:
        tally, taken = bring_in(database, rows)
        told.new, told.updated, told.unchanged = tally.new, tally.updated, tally.unchanged
        told.refused += [{"index": line, "reason": TAKEN} for line in sorted(taken)]
        with database.raw() as connection:
            kept = [row for row in rows if row.line not in taken]
            told.consents = record_consents(connection, kept, source)
            told.pending = record_pending(connection, kept, source)
    return told


def _candidate(given: Mapping[str, Any], index: int, secret: bytes) -> Candidate:
    """One object as a row of a file would say it.

    Raises:
        BadRow: it is no subscriber, or holds what Postgres or a template cannot.
    """
    if odd := sorted(str(key) for key in given.keys() - KNOWN):
        raise BadRow(f"there is no field {odd[0][:60]!r}: expected {', '.join(sorted(KNOWN))}")
    texts = [_text(given, name) for name in FIELDS]
    topics, attributes = given.get("topics") or {}, given.get("attributes") or {}
    if not isinstance(topics, Mapping) or not all(isinstance(v, bool) for v in topics.values()):
        raise BadRow("topics is no object of topics and true or false")
    for key in topics:
        if not isinstance(key, str) or not key.strip() or len(key) > 200 or not _storable(key):
            raise BadRow("topics names a topic that is no short text")
    found = Interpreter(FIELDS, secret).read(Row(index, "", texts))
    found.topics = {key.strip(): answer for key, answer in topics.items()}
    found.attributes = _attributes(attributes)
    return found


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRow(f"{name} is no text")
    if len(value) > LONGEST or not _storable(value):
        raise BadRow(f"{name} is longer than {LONGEST} characters, or holds what is no text")
    return value


def _attributes(given: Any) -> dict[str, str | int | float | bool]:
    if not isinstance(given, Mapping):
        raise BadRow("attributes is no object of names and values")
    for name, value in given.items():
        if not isinstance(name, str) or not name or not _storable(name) or len(name) > 200:
            raise BadRow("an attribute has no name, or a long one")
        if name in FIELDS or name.startswith(TOPIC_PREFIX):
            raise BadRow(f"{name!r} is a field of its own, and no attribute")
        if not isinstance(value, str | int | float | bool):
            raise BadRow(f"attribute {name!r} is neither text, a number, true nor false")
        if isinstance(value, float) and not math.isfinite(value):
            raise BadRow(f"attribute {name!r} is no number")
        if isinstance(value, str) and not _storable(value):
            raise BadRow(f"attribute {name!r} holds what is no text")
    if len(json.dumps(dict(given))) > MOST_ATTRIBUTES:
        raise BadRow(f"its attributes are longer than {MOST_ATTRIBUTES} characters")
    return dict(given)


def unfit(data: Any, most: int) -> str | None:
    """What is wrong with JSON data that Postgres is to keep; None: it can be kept.

    Args:
        data: as `json.loads` gives it.
        most: characters that it may have, written out.
    """
    try:
        said = json.dumps(data, allow_nan=False)
    except (ValueError, RecursionError):
        return "holds NaN or an infinity, or is nested too deeply"
    if len(said) > most:
        return f"is longer than {most} characters"
    if not all(map(_storable, _texts(data))):
        return "holds something that is not text"
    return None


def _texts(value: Any) -> Iterator[str]:
    """Every text in JSON data, names among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _storable(text: str) -> bool:
    return "\x00" not in text and not any("\ud800" <= each <= "\udfff" for each in text)
