"""Endpoints side by side, for as long as a doorbell works: a slow one keeps nobody waiting.

Each has at most `WIDE` requests in the air. One that fails again and again is asked one thing at a time,
and left alone in between, so that what piled up is not thrown at it a thousand times.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import structlog
from sqlalchemy import Connection

from models.session import Database
from tasks.errors import Permanent
from tasks.webhooks import engine, store, target
from tasks.webhooks.engine import Answer, Verdict
from tasks.webhooks.settings import WebhookSettings
from tasks.webhooks.store import Due, Endpoint
from tasks.webhooks.wire import Caller, now

log = structlog.get_logger()

BATCH: Final = 32
WIDE: Final = 8
"""Requests in the air to one endpoint."""
LOOK_EVERY: Final = 0.5
"""Seconds after which endpoints are looked for again while others are being served."""
T = TypeVar("T")


class Post:
    """Delivers what is due.

    Args:
        database: where it is.
        settings: of this process.
        draw: a number from 0 to 1, for the time of the next attempt.
        trust: as of `Caller`.
    """

    def __init__(
        self,
        database: Database,
        settings: WebhookSettings,
        *,
        draw: Callable[[], float] = random.random,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._draw = draw
        self._trust = trust
        self._told: Counter[str] = Counter()

    def work(self, budget: float) -> dict[str, int]:
        """Deliver for `budget` seconds at most, and to the end of what is in the air then.

        Returns:
            How many were delivered, are to be tried again, or became dead letters.
        """
        self._told = Counter()
        asyncio.run(self._work(budget))
        return {kind: self._told[kind] for kind in ("delivered", "again", "dead", "gone")}

    async def _work(self, budget: float) -> None:
        until = asyncio.get_running_loop().time() + budget
        busy: dict[int, asyncio.Task[None]] = {}
        desk = _Desk(self._database)
        async with Caller(
            self._settings.networks, self._settings.webhook_timeout, self._trust
        ) as caller:
            while True:
                if asyncio.get_running_loop().time() < until:
                    await desk.ask(store.take_calls)
                    for each in await desk.ask(lambda c: store.ready(c, self._settings.key)):
                        if each.id not in busy:
                            serving = self._serve(each, caller, desk, until)
                            busy[each.id] = asyncio.create_task(serving)
                if not busy:
                    return
                await asyncio.wait(
                    busy.values(), timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED
                )
                for number, task in [*busy.items()]:
                    if task.done():
                        del busy[number]
                        task.result()

    async def _serve(self, endpoint: Endpoint, caller: Caller, desk: _Desk, until: float) -> None:
        places = asyncio.Semaphore(WIDE)
        alone = endpoint.failures >= engine.LONE

        async def told(due: Due) -> Answer:
            async with places:
                return await self.call(endpoint, caller, due)

        while asyncio.get_running_loop().time() < until:
            n = 1 if alone else BATCH
            dues = await desk.ask(partial(store.claim, endpoint=endpoint, n=n))
            if not dues:
                return
            answers = await asyncio.gather(*map(told, dues))
            results = [
                (due, answer, self._judged(due, answer))
                for due, answer in zip(dues, answers, strict=True)
            ]
            await desk.ask(
                partial(
                    store.settle,
                    endpoint=endpoint,
                    told=results,
                    rest=engine.rest(endpoint.failures + 1, self._draw()),
                    disable_after=self._settings.webhook_disable_after,
                )
            )
            self._told.update(verdict.kind for _, _, verdict in results)
            if not any(verdict.kind == "delivered" for _, _, verdict in results):
                faults = {answer.fault or f"status {answer.status}" for answer in answers}
                log.warning("webhook_failed", endpoint=endpoint.name, why=sorted(faults)[:3])
                return
            alone = False

    async def call(self, endpoint: Endpoint, caller: Caller, due: Due) -> Answer:
        """Make one attempt."""
        try:
            goes = target.parse(endpoint.url, plain=bool(self._settings.networks))
        except Permanent as fault:  # the setting that permitted it is gone
            return Answer(None, str(fault))
        headers = engine.signed(endpoint.secrets, due.key, now(), due.body)
        return await caller.call(goes, headers, due.body)

    def _judged(self, due: Due, answer: Answer) -> Verdict:
        give_up = self._settings.webhook_give_up
        return engine.judge(answer, due.attempts, due.age, self._draw(), give_up)


class _Desk:
    """Asks the database from threads, by few connections: the others are for those who bring mails back."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._places = asyncio.Semaphore(2)

    async def ask(self, question: Callable[[Connection], T]) -> T:
        """Ask in a transaction."""
        async with self._places:
            return await asyncio.to_thread(self._asked, question)

    def _asked(self, question: Callable[[Connection], T]) -> T:
        with self._database.transaction() as connection:
            return question(connection)
