"""The send pool's entry point: answer a doorbell."""

from __future__ import annotations

from celery import shared_task

from tasks import names
from tasks.base import FleetTask
from tasks.send import service

# After this the task says how many are still open: from the claim on, leases guard the rows.
LONGEST_WAIT = 20.0


@shared_task(base=FleetTask, name=names.DELIVER)
def deliver(stream: str, n: int, region: str | None = None) -> dict[str, int | str]:
    """Claim up to `n` due messages of `stream`, hand them to the loop, say what became of them.

    `region` brought the doorbell here; what may be claimed here the stream's row says.
    """
    ticket = service.current().store.answer(stream, n)
    counts = ticket.wait(LONGEST_WAIT) if ticket is not None else {"claimed": 0}
    return {"stream": stream, **counts}
