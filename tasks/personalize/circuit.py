"""Whether a model is asked now, over all workers: after faults nobody asks for a while, then one does."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, text

PATIENCE: Final = 3
"""Faults in a row before everybody stops asking; what the server asks for itself is done at once."""
LONGEST: Final = 60.0

FAULT = text("""
INSERT INTO model_circuit AS c (model, faults, why, open_until)
VALUES (:model, 1, :why, clock_timestamp() + make_interval(secs => :pause))
ON CONFLICT (model) DO UPDATE SET
    faults = c.faults + 1, why = excluded.why,
    open_until = greatest(c.open_until, clock_timestamp() + make_interval(secs => greatest(:pause,
        CASE WHEN c.faults + 1 >= :patience
             THEN least(power(2, least(c.faults + 1 - :patience, 10)), :longest) ELSE 0 END)))
""")
FINE = text("""
UPDATE model_circuit SET faults = 0, open_until = '-infinity', why = NULL
WHERE model = :model AND faults > 0
""")


def fault(connection: Connection, model: str, why: str, pause: float | None) -> None:
    """A call had no answer: `pause` seconds are what the server asked for.

    The pauses after `PATIENCE` faults in a row are 1, 2, 4, … 60 s.
    """
    values = {"model": model, "why": why, "pause": pause or 0.0}
    connection.execute(FAULT, values | {"patience": PATIENCE, "longest": LONGEST})


def fine(connection: Connection, model: str) -> None:
    """A call had an answer."""
    connection.execute(FINE, {"model": model})
