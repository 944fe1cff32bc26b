"""Whether people who signed up were asked to confirm it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection

from tasks.moves import opt_in
from tasks.sequence.outlook import span
from workers.doctor.finding import Finding, error, fine

SOON: Final = 600.0  # seconds; whoever takes a sign-up asks at once


def sign_ups(connection: Connection) -> Iterator[Finding]:
    """Sign-ups for which no mail was made."""
    row = connection.execute(opt_in.STANDING).one()
    if row.unasked and (row.now - row.since).total_seconds() > SOON:
        yield error(
            "sign-ups",
            f"{row.unasked} wait to be asked for a confirmation, since {span(row.now - row.since)}",
            "set DRIPFLEET_EDGE_URL (the link leads there), then `dripfleet topic ask KEY`",
        )
    else:
        yield fine("sign-ups", "nobody waits to be asked for a confirmation")
