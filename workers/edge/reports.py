"""What webhooks report, acted upon in groups: each is committed before it is answered.

While one group is on its way the next gathers. A group that fails as a whole is tried one by one, so that
nobody's webhook waits for another's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
from sqlalchemy import Connection, text
from starlette.concurrency import run_in_threadpool

from models.session import Database
from tasks.track import feedback
from tasks.track.feedback import MOST, Taken
from tasks.track.report import Report

log = structlog.get_logger()

GATHER: Final = 0.003
"""Seconds that the first of a group waits for others."""
KEPT_DAYS: Final = 2

USE = text("""
INSERT INTO webhook_seen (provider, token) VALUES (:provider, :token)
ON CONFLICT (provider, token) DO NOTHING RETURNING 1
""")
FORGET = text("""
DELETE FROM webhook_seen WHERE at < clock_timestamp() - make_interval(days => :days)
""")


class Used(Exception):
    """A token that may be used once was used before."""


@dataclass(slots=True, eq=False)
class _Asked:
    reports: Sequence[Report]
    once: tuple[str, str] | None
    done: asyncio.Future[Taken] = field(repr=False)


class Reports:
    """The writer of one process; `start` it in its event loop.

    Args:
        database: where they are written.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[_Asked] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End; who waits is told that it was not written."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for each in self._waiting:
            each.done.cancel()

    async def take(self, reports: Sequence[Report], once: tuple[str, str] | None = None) -> Taken:
        """Act upon what one request reports; committed when this returns.

        Args:
            reports: in any number.
            once: provider and token, where a request counts only the first time.

        Raises:
            Used: that token was used.
            SQLAlchemyError: Postgres does not take it.
        """
        asked = _Asked(reports, once, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        self._wake.set()
        return await asked.done

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER)
            self._wake.clear()
            group, self._waiting = self._group(), self._waiting
            if self._waiting:
                self._wake.set()
            answers = await run_in_threadpool(self._write, group)
            for asked, answer in zip(group, answers, strict=True):
                if asked.done.done():
                    continue
                if isinstance(answer, BaseException):
                    asked.done.set_exception(answer)
                else:
                    asked.done.set_result(answer)

    def _group(self) -> list[_Asked]:
        """The next ones that fit into a transaction; one that does not stands alone."""
        group: list[_Asked] = []
        n = 0
        while self._waiting and (not group or n + len(self._waiting[0].reports) <= MOST):
            group.append(self._waiting.pop(0))
            n += len(group[-1].reports)
        return group

    def _write(self, group: list[_Asked]) -> list[Taken | Exception]:
        if len(group) > 1:
            try:
                with self._database.transaction() as connection:
                    fresh = [asked for asked in group if _fresh(connection, asked)]
                    feedback.take(connection, [r for asked in fresh for r in asked.reports])
                return [Taken(len(a.reports)) if a in fresh else Used() for a in group]
            except Exception as fault:  # one of them may be to blame, and is found below
                log.info("reports_one_by_one", kind=type(fault).__name__)
        return [self._alone(asked) for asked in group]

    def _alone(self, asked: _Asked) -> Taken | Exception:
        told = Taken()
        try:
            # What is used up is used with the first part; the others come again and do nothing twice.
            for start in range(0, max(1, len(asked.reports)), MOST):
                with self._database.transaction() as connection:
                    if start == 0 and not _fresh(connection, asked):
                        return Used()
                    part = asked.reports[start : start + MOST]
                    told = told.plus(feedback.take(connection, part))
        except Exception as fault:
            return fault
        return told


def _fresh(connection: Connection, asked: _Asked) -> bool:
    if asked.once is None:
        return True
    values = {"provider": asked.once[0], "token": asked.once[1]}
    return connection.execute(USE, values).one_or_none() is not None


def forget(database: Database) -> int:
    """Drop tokens that are too old to be taken again anyway; returns how many."""
    with database.transaction() as connection:
        return connection.execute(FORGET, {"days": KEPT_DAYS}).rowcount
