"""How far the dates of a source are moved: decided by its first import, the same ever after."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Connection, text


def stored_shift(connection: Connection, source: str) -> dt.timedelta | None:
    """How far this source's dates are shifted; None: nothing of it was imported yet."""
    query = text("SELECT shift FROM import_source WHERE source = :source")
    shift: dt.timedelta | None = connection.execute(query, {"source": source}).scalar_one_or_none()
    return shift


def fix_shift(connection: Connection, source: str, last: dt.datetime | None) -> dt.timedelta:
    """The shift of a source, stored by the first caller and the same ever after.

    Args:
        connection: inside a transaction.
        source: name of the source.
        last: its last event, which is to land on yesterday (UTC); None: leave dates as they are.

    Returns:
        Whole days, so that times of day stay; whoever came first has decided it.
    """
    shift = dt.timedelta()
    if last is not None:
        shift = shift_to_yesterday(connection, last)
    connection.execute(
        text(
            "INSERT INTO import_source (source, shift) VALUES (:source, :shift)"
            " ON CONFLICT (source) DO NOTHING"
        ),
        {"source": source, "shift": shift},
    )
    stored = stored_shift(connection, source)
    assert stored is not None
    return stored


def shift_to_yesterday(connection: Connection, last: dt.datetime) -> dt.timedelta:
    """Whole days from the date of `last` to yesterday, by Postgres's clock in UTC."""
    now: dt.datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    yesterday = now.astimezone(dt.UTC).date() - dt.timedelta(days=1)
    return yesterday - last.astimezone(dt.UTC).date()
