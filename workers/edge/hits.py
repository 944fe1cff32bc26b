"""Clicks and opens into Postgres, in groups: each is committed before it is answered.

While one group is on its way the next one gathers, so a group is as large as the traffic makes it, and
nobody waits much longer than for one commit. What was answered is in Postgres, whatever dies then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final, TypeAlias

import psycopg
import structlog

from tasks import hits
from workers.metrics.edge import EdgeMeter

log = structlog.get_logger()

GATHER: Final = 0.002
"""Seconds that the first of a group waits for others."""
PATIENCE: Final = 3.0
"""Seconds that a hit waits for a Postgres that does not answer."""
MOST: Final = 2_000
"""Hits of one statement."""
WAITING: Final = 50_000
"""Hits that may wait; beyond them Postgres has been away for long, and a process must not grow."""

HitRow: TypeAlias = tuple[int, int | None, str]
"""Message, link (None: an open) and the word for the program."""
_agent = itemgetter(2)
Write: TypeAlias = Callable[[Sequence[HitRow]], Awaitable[None]]


@dataclass(slots=True)
class _Group:
    rows: list[HitRow] = field(default_factory=list)
    written: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Hits:
    """The writer of one process; `start` it in its event loop.

    Args:
        write: commits some rows, or raises `psycopg.Error`; it is tried again.
        meter: counts them.
    """

    def __init__(self, write: Write, meter: EdgeMeter | None = None) -> None:
        self._write = write
        self._meter = meter or EdgeMeter()
        self._group = _Group()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run())

    async def add(self, message: int, link: int | None, agent: str) -> bool:
        """Write a hit; whether it was, when this returns."""
        group = self._group
        if len(group.rows) >= WAITING:
            self._meter.lost()
            return False
        group.rows.append((message, link, agent))
        if len(group.rows) == 1:
            self._wake.set()
        try:
            async with asyncio.timeout(PATIENCE):
                await group.done.wait()
        except TimeoutError:
            log.warning("hit_not_written", next="look whether Postgres answers")
            self._meter.lost()
            return False
        return group.written

    async def stop(self) -> None:
        """Write what waits, for a few seconds at most, and end."""
        if self._task is None:
            return
        group = self._group
        if group.rows:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await group.done.wait()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER)
            self._wake.clear()
            group, self._group = self._group, _Group()
            await self._put(group)
            group.done.set()

    async def _put(self, group: _Group) -> None:
        now = asyncio.get_running_loop().time
        began = now()
        rows = group.rows
        while rows:
            try:
                tried, part = now(), rows[:MOST]
                await self._write(part)
                self._meter.group(map(_agent, part), len(part), now() - tried)
                rows = rows[MOST:]
            except (psycopg.Error, OSError) as fault:
                if now() - began > PATIENCE:
                    kind = type(fault).__name__
                    log.error("hits_lost", n=len(rows), kind=kind, next="start Postgres")
                    return
                await asyncio.sleep(0.1)
        group.written = True


class Pen:
    """One connection of its own that writes groups; it is opened when it is first needed, and again.

    Args:
        url: of the database.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def write(self, rows: Sequence[HitRow]) -> None:
        """Commit rows, in one statement."""
        connection = self._connection
        if connection is None or connection.closed:
            connection = self._connection = await psycopg.AsyncConnection.connect(
                self._url, autocommit=True, application_name="dripfleet-edge", connect_timeout=5
            )
        values = [[row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]]
        async with psycopg.AsyncRawCursor(connection) as cursor:
            await cursor.execute(hits.WRITE, values, prepare=True)

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()
