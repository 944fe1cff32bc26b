"""Segment runs brought on: who takes one, keeps it while a stage lasts, and what a fault means for it.

What the stages themselves do is in `stages`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from models.session import Database
from tasks.errors import Misconfigured, Permanent
from tasks.quantum import stages, store
from tasks.quantum.backends import JobLost
from tasks.quantum.settings import QuantumSettings
from tasks.quantum.stages import Lost
from tasks.quantum.store import Taken

log = structlog.get_logger(__name__)

HOPELESS: Final = (
    "it was begun again and again and never ended: its worker died each time; see the log"
)


def work(
    database: Database, waiting: tuple[str, ...], *, noisy: bool, budget: float
) -> dict[str, int]:
    """Take runs that wait in these stages and bring each one on, for `budget` seconds.

    Returns:
        How many stages ended, by name; `refused`, `put_off` and `lost` beside them.
    """
    told: dict[str, int] = {}
    until = time.monotonic() + budget
    while time.monotonic() < until:
        with database.transaction() as connection:
            run = store.take(connection, waiting, noisy=noisy)
        if run is None:
            break
        end = advance(database, run)
        told[end] = told.get(end, 0) + 1
    return told


def advance(database: Database, run: Taken) -> str:
    """Do the stage that a run is in; how it ended."""
    bound = log.bind(run=run.id, segment=run.request.segment, stage=run.stage)
    if run.epoch > store.TAKES:
        _refuse(database, run, HOPELESS)
        return "refused"
    began = time.monotonic()
    try:
        with _held(database, run):
            stages.BY_NAME[run.stage](database, run)
    except Lost:
        bound.info("segment_run_lost")
        return "lost"
    except (Permanent, Misconfigured, JobLost) as fault:
        # A job that was lost may have been paid for: whether it is sent again, people decide.
        bound.warning("segment_run_refused", why=str(fault))
        _refuse(database, run, str(fault))
        return "refused"
    except Exception as fault:
        # A soft time limit is one of these.
        why = f"{type(fault).__name__}: {str(fault)[:300]}"
        if run.faults + 1 >= store.FAULTS:
            bound.exception("segment_run_failed")
            _refuse(database, run, f"{store.FAULTS} times: {why}")
            return "refused"
        bound.warning("segment_run_put_off", why=why)
        with database.transaction() as connection:
            store.let_go(connection, run, why)
        return "put_off"
    bound.info("segment_run_advanced", seconds=round(time.monotonic() - began, 2))
    return run.stage


def _refuse(database: Database, run: Taken, why: str) -> None:
    with database.transaction() as connection:
        store.move(connection, run, "refused", why=why)


@contextmanager
def _held(database: Database, run: Taken) -> Iterator[None]:
    """Keep the lease while a stage lasts, however long a vendor's queue is; a kill ends it."""
    over = threading.Event()
    every = QuantumSettings().quantum_lease / 4

    def keep() -> None:
        while not over.wait(every):
            try:
                with database.transaction() as connection:
                    if not store.keep(connection, run):
                        return  # whatever the stage still writes is refused
            except SQLAlchemyError as fault:
                log.warning("segment_lease_not_kept", run=run.id, kind=type(fault).__name__)

    thread = threading.Thread(target=keep, daemon=True, name=f"keeps segment run {run.id}")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
