"""What keeps words from being written, as the rows tell it: for the doctor."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import Connection, text

# Somebody waits for these; what nobody waits for any more keeps nobody from anything, nor what comes
# together for a batch or is in one, long before it is needed.
STUCK = text("""
SELECT coalesce(w.why, 'not_ready') AS why, count(*) AS texts,
    clock_timestamp() - min(w.created_at) AS since
FROM wording w
WHERE w.state = 'wanted' AND EXISTS (SELECT FROM asked a WHERE a.key = w.key)
  AND w.created_at < clock_timestamp() - interval '1 minute'
  AND (coalesce(w.why, 'in_batch') <> 'in_batch'
    OR w.needed_at < clock_timestamp() + interval '45 minutes')
GROUP BY 1 ORDER BY 2 DESC
""")
REFUSED = text("""
SELECT w.prompt, count(*) AS texts, max(w.fault) AS fault FROM wording w
WHERE w.state = 'failed' AND w.ended_at > clock_timestamp() - interval '1 day'
GROUP BY 1 ORDER BY 2 DESC
""")
CIRCUITS = text("""
SELECT c.model, c.faults, c.why, c.open_until FROM model_circuit c
WHERE c.faults > 0 AND c.open_until > clock_timestamp() - interval '10 minutes'
ORDER BY 1
""")


@dataclass(frozen=True, slots=True)
class Waiting:
    """Texts that are wanted for over a minute, for one reason; the oldest since so long."""

    why: str
    texts: int
    since: dt.timedelta


@dataclass(frozen=True, slots=True)
class Refused:
    """Texts of a prompt that failed within a day, and why one of them did."""

    prompt: str
    texts: int
    fault: str | None


@dataclass(frozen=True, slots=True)
class Circuit:
    """A model that has been failing: faults in a row, the last one, and until when nobody asks."""

    model: str
    faults: int
    why: str | None
    open_until: dt.datetime


def waiting(connection: Connection) -> list[Waiting]:
    """The most of a reason first."""
    return [Waiting(*row) for row in connection.execute(STUCK)]


def refused(connection: Connection) -> list[Refused]:
    """The most of a prompt first."""
    return [Refused(*row) for row in connection.execute(REFUSED)]


def circuits(connection: Connection) -> list[Circuit]:
    """Models that failed lately."""
    return [Circuit(*row) for row in connection.execute(CIRCUITS)]
