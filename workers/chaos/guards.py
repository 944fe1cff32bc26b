"""The negative control: a guard taken out, to show that the judge sees what it guards against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, text

from tasks.moves import doubt
from tasks.moves.settings import DeliverySettings
from tasks.moves.statement import move

# What many queues do: whoever has not been heard of for a lease has not sent.
BACK_TO_THE_QUEUE = text(
    move(
        """
    SELECT m.id, m.enrollment_id FROM message m
    WHERE m.watch_at <= (SELECT clock_timestamp()) - make_interval(secs => :grace)
      AND m.state = 'armed'
    ORDER BY m.watch_at LIMIT :n""",
        "m.state = 'armed'",
        """
        state = 'scheduled', owner = NULL, watch_at = NULL, run_at = clock_timestamp(),
        reason = 'armed_lease_expired'""",
        wait=False,
    )
)


def forget_the_dot() -> None:
    """Let the reaper put armed rows back into their queue, as if no dot had been written."""

    def reap_armed(connection: Connection, settings: DeliverySettings, n: int = 500) -> int:
        parameters = {"grace": settings.reaper_grace, "n": n}
        return int(connection.execute(BACK_TO_THE_QUEUE, parameters).scalar_one())

    doubt.reap_armed = reap_armed


OFF: Final[dict[str, Callable[[], None]]] = {"armed-lease": forget_the_dot}
"""Guard → how a process of a control run loses it."""
