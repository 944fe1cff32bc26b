"""`dripfleet` without its promise, for `price_of_safety` alone: what a send worker would cost without it.

    python -P tests/bench/unguarded.py worker send

Runs as the program of a fleet in the place of `python -m workers`. Of the send pool ARM is left out (no
lock of the subscriber, no permission, no content frozen), so are the journal and the row of `attempt`;
RECORD is one UPDATE of what was answered, counters and hand-back as they are, past the triggers that
would refuse it. Whatever dies in it loses mails or sends them twice.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.moves.pipeline import Pipeline, integers
from tasks.moves.statement import AFTERMATH
from tasks.send import cycles
from tasks.send.transport import boottime
from workers.cli import main

if TYPE_CHECKING:
    from tasks.send.cycles import Cycles, Reply
    from tasks.send.mail import Mail

RECORD = f"""
WITH moved AS (
    UPDATE message m SET state = 'sent', owner = NULL, watch_at = NULL, reason = 'accepted',
        terminal_at = clock_timestamp(), last_code = 250, last_stage = 'dot'
    WHERE m.id = ANY($1::bigint[]) AND m.state = 'working'
    RETURNING m.id, m.enrollment_id, m.sequence_key, m.step_id,
        'working'::message_state AS was, m.state AS now),
{AFTERMATH}
SELECT count(*) FROM moved
"""


async def permit(self: Cycles, mail: Mail) -> float | None:
    """Every dot, at once."""
    return boottime() + self._settings.dot_within


async def record(self: Cycles, answers: list[tuple[Mail, Reply]], ready: Sequence[Mail]) -> None:
    """All that was answered in one statement."""
    await self._pipeline.run([("unguarded", [integers(sorted(mail.id for mail, _ in answers))])])
    self._holder.recorded([(mail, "sent") for mail, _ in answers])


def connect(self: Cycles) -> Pipeline:
    """A connection on which no trigger asks whether a move is legal."""
    connection = self._database.raw()
    connection.execute("SET session_replication_role = replica")
    return Pipeline(connection, {"unguarded": RECORD})


if __name__ == "__main__":
    cycles.Cycles.permit = permit  # type: ignore[method-assign]
    cycles.Cycles._cycle = record  # type: ignore[method-assign]
    cycles.Cycles._connect = connect  # type: ignore[method-assign]
    sys.exit(main())
