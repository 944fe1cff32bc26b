"""The send pool's entry point: answer a doorbell."""

from __future__ import annotations

import time
from collections import Counter

from celery import shared_task

from tasks import names
from tasks.base import FleetTask
from tasks.send import service

# After this the task says how many are still open: from the claim on, leases guard the rows.
LONGEST_WAIT = 20.0
LAG = 0.5  # seconds that nothing has moved, with a tenth still open: those go on without a task


@shared_task(base=FleetTask, name=names.DELIVER)
def deliver(stream: str, n: int, region: str | None = None) -> dict[str, int | str]:
    """Claim up to `n` due messages of `stream`, hand them to the loop, say what became of them.

    `region` brought the doorbell here; what may be claimed here the stream's row says. Suspects,
    which a process holds one at a time, are gone on with at once: at one a doorbell those of three
    killed workers would creep for minutes.
    """
    until = time.monotonic() + LONGEST_WAIT
    counts: Counter[str] = Counter(claimed=0)
    while (ticket := service.current().store.answer(stream, n)) is not None:
        counts.update(ticket.wait(max(0.0, until - time.monotonic()), LAG))
        if not ticket.suspect or time.monotonic() >= until:
            break
    return {"stream": stream, **counts}
