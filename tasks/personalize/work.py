"""From a wanted text to its words: reserve, ask, check, ask once more with the reason, settle."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

import structlog

from models.session import Database
from tasks.crashpoint import reached
from tasks.personalize import checks, circuit, engine, money, store
from tasks.personalize.client import Answer, Client, Down, Reply
from tasks.personalize.engine import Brief
from tasks.personalize.prices import Price, millionths
from tasks.personalize.settings import ModelSettings
from tasks.personalize.store import Used, Wanted

BROKE: Final = 300.0
"""Seconds until a text that no budget holds is looked at again."""
BACKOFF: Final = (1.0, 60.0)

log = structlog.get_logger()


class Asks(Protocol):
    """A model's server, as far as this module needs one."""

    def ask(self, model: str, messages: Any, form: Any) -> Reply:
        """Ask for one text."""


class Writer:
    """Makes texts; one a process, called from many threads.

    Args:
        database: where they are wanted.
        settings: prices, budgets, patience.
        client: the model; by default the server that the settings name.
    """

    def __init__(
        self, database: Database, settings: ModelSettings, client: Asks | None = None
    ) -> None:
        self._database = database
        self._settings = settings
        self._given = client
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="model")
        self._budgets = money.Budgets(
            millionths(settings.budget_day), millionths(settings.budget_sequence)
        )
        self._prices = settings.price_table
        by_batch = settings.batch_min and settings.url
        self._gathering = (settings.batch_lead, settings.batch_gather) if by_batch else None

    def close(self) -> None:
        """End its threads; waits for the calls that are under way."""
        self._threads.shutdown()

    def work(self, over: Callable[[], bool] = lambda: False) -> dict[str, int]:
        """Make texts until none is wanted that may be asked for now, or `over` says so.

        Returns:
            How they ended: ready, failed, later.
        """
        told = {"ready": 0, "failed": 0, "later": 0}
        while not over():
            with self._database.transaction() as connection:
                # No more at once than there are threads: a lease runs from the claim on.
                wanted = store.claim(
                    connection, self._settings.concurrency, self._settings.lease, self._gathering
                )
            if not wanted:
                break
            reached("personalize.claimed")
            for end in self._threads.map(self._write, wanted):
                told[end] += 1
        return told

    def _write(self, wanted: Wanted) -> str:
        if not self._settings.url and self._given is None:
            return self._later(wanted, "no_model", BROKE, Used())
        price = self._prices.of(wanted.model)
        if price is None:
            log.error(
                "no_price",
                model=wanted.model,
                next="name it in DRIPFLEET_MODEL_PRICES; 0/0 is free",
            )
            return self._later(wanted, "no_price", BROKE, Used())
        brief = Brief.from_source(wanted.source)
        fault, tries = wanted.fault, wanted.tries
        while True:
            end = self._call(wanted, brief, price, fault, tries)
            if not isinstance(end, engine.Rejected):
                return end
            fault, tries = end.why, tries + 1

    def _call(
        self, wanted: Wanted, brief: Brief, price: Price, fault: str | None, tries: int
    ) -> str | engine.Rejected:
        messages = engine.messages(brief, wanted.told, fault)
        form = engine.response_format(brief)
        most = price.cost(engine.most_tokens(messages, form), self._settings.output_tokens)
        with self._database.transaction() as connection:
            held = money.reserve(connection, wanted.sequence_key, most, self._budgets)
            if held is not None and not store.reserved(connection, wanted, most, held.day):
                # Its lease ran out: somebody else has it now.
                money.settle(connection, held, 0)
                return "later"
        if held is None:
            return self._later(wanted, "budget", BROKE, Used())
        reached("personalize.reserved")
        reply = self._client().ask(wanted.model, messages, form)
        reached("personalize.answered")
        if isinstance(reply, Answer):
            return self._judge(wanted, brief, price, held, reply, tries)
        cost = most if isinstance(reply, Down) and reply.billed else 0
        used = Used(calls=1, cost=cost)
        with self._database.transaction() as connection:
            money.settle(connection, held, cost)
            if isinstance(reply, Down):
                log.warning("model_not_asked", model=wanted.model, why=reply.said)
                circuit.fault(connection, wanted.model, reply.said, reply.pause)
                pause = max(reply.pause or 0.0, BACKOFF[0])
                store.end(
                    connection,
                    wanted,
                    why=reply.why,
                    fault=fault,
                    pause=min(pause, 3600),
                    used=used,
                )
                return "later"
            log.error("text_refused", prompt=brief.name, why=reply.said)
            store.end(
                connection, wanted, state="failed", why="refused", fault=reply.said, used=used
            )
        return "failed"

    def _judge(
        self,
        wanted: Wanted,
        brief: Brief,
        price: Price,
        held: money.Reservation,
        answer: Answer,
        tries: int,
    ) -> str | engine.Rejected:
        counted = answer.tokens_in is not None and answer.tokens_out is not None
        tokens_in, tokens_out = answer.tokens_in or 0, answer.tokens_out or 0
        # A server that counts nothing has cost what it could have.
        cost = price.cost(tokens_in, tokens_out) if counted else held.amount
        used = Used(1, cost, tokens_in, tokens_out, answer.seconds)
        slots, found = checks.judge(answer.content, brief, wanted.told)
        why = "; ".join(sentence for _, sentence in found)
        again = bool(found) and tries < self._settings.retries
        with self._database.transaction() as connection:
            money.settle(connection, held, cost)
            circuit.fine(connection, wanted.model)
            if not found:
                words = json.dumps(slots, ensure_ascii=False)
                store.end(connection, wanted, state="ready", slots=words, used=used)
                return "ready"
            log.warning("text_rejected", prompt=brief.name, checks=[check for check, _ in found])
            if again:
                store.again(connection, wanted, why, used)
                return engine.Rejected(why)
            store.end(
                connection, wanted, state="failed", why="checks", fault=why, tries=1, used=used
            )
        return "failed"

    def _later(self, wanted: Wanted, why: str, pause: float, used: Used) -> str:
        with self._database.transaction() as connection:
            store.end(connection, wanted, why=why, fault=wanted.fault, pause=pause, used=used)
        return "later"

    def _client(self) -> Asks:
        with self._lock:
            if self._given is None:
                self._given = Client(self._settings)
            return self._given
