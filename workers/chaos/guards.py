"""A guard taken out: to show that the judge sees what it stands against, and to measure its price."""

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


def write_no_journal() -> None:
    """Let the journal remember nothing: after a kill every armed row is in doubt."""
    from tasks.send.journal import Journal

    def append(self: Journal, lines: str) -> None:
        return None

    Journal._append = append  # type: ignore[method-assign]


def cycle_one_by_one() -> None:
    """Give each mail a transaction for its ARM and another for its RECORD."""
    from tasks.send.cycles import Cycles, Reply
    from tasks.send.mail import Mail

    grouped = Cycles._cycle

    async def cycle(self: Cycles, answers: list[tuple[Mail, Reply]], ready: list[Mail]) -> None:
        for answer in answers:
            await grouped(self, [answer], [])
        for mail in ready:
            await grouped(self, [], [mail])

    Cycles._cycle = cycle  # type: ignore[method-assign]


OFF: Final[dict[str, Callable[[], None]]] = {
    "armed-lease": forget_the_dot,
    "journal": write_no_journal,
    "grouping": cycle_one_by_one,
}
"""Guard → how a process loses it; `grouping` is none, and has a price all the same."""
