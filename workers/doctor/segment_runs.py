"""Segment runs that stand still, or came to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection

from tasks import names
from tasks.quantum import store
from workers.doctor.finding import Finding, fine, warning

STILL: Final = 360.0
"""Seconds after which a run that waits has been passed over: it is rung for every second."""


def runs(connection: Connection) -> Iterator[Finding]:
    """Every run of the quantum pool; no mail waits for one, so that none of them is an error."""
    from workers.doctor.standing import words

    bad = False
    for row in store.standing(connection, STILL):
        bad = True
        queue = names.QUEUE_OF[names.CUT_NOISY] if row.noisy else "quantum"
        yield warning(
            f"segment {row.segment}",
            f"run {row.id} has stood at stage {row.stage} for {words(row.ago)}"
            + (f" (put off {row.faults} times: {row.why})" if row.faults else ""),
            f"look whether a worker takes queue {queue}: `{names.worker_of('quantum')}`"
            + ("; noisy runs go one at a time" if row.noisy else ""),
        )
    for row in store.refused(connection):
        bad = True
        yield warning(
            f"segment {row.segment}",
            f"run {row.id} was refused: {row.why}",
            f"when that is mended: `dripfleet quantum segment run {row.segment}`",
        )
    if not bad:
        yield fine("segment runs", "no run stands still, none was refused lately")
