"""What counts as a date in an attribute: ISO 8601, read alike here and in SQL."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from typing import Any, Final

PATTERN: Final = (
    "^(19|20|21)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    "([T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.][0-9]{1,6})?)?"
    "(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])?)?$"
)
"""For Python and Postgres alike; a day that its month does not have still fits it."""

_MATCH: Final = re.compile(PATTERN, re.ASCII)


def read_date(value: Any) -> date | datetime | None:
    """Return the date or, where a time stands with it, the instant; None: it is no date.

    A time without an offset is UTC. Years 1900 to 2199.
    """
    if not isinstance(value, str) or not _MATCH.fullmatch(value):
        return None
    try:
        if len(value) == 10:
            return date.fromisoformat(value)
        instant = datetime.fromisoformat(value)
    except ValueError:
        return None
    return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)


def instant_of(value: Any) -> datetime | None:
    """Return when that date begins, in UTC; None: it is no date."""
    if isinstance(value, datetime):
        return value
    found = read_date(value)
    if found is None or isinstance(found, datetime):
        return found
    return datetime.combine(found, time(), UTC)
