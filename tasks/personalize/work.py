"""From wanted texts to their words: taken and paid for together, asked for side by side, written in groups.

A text takes no transaction of its own: those of one claim are reserved for in the transaction that takes
them, and answers that come at the same moment are written down, settled and woken for in one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Final, Protocol, TypeAlias

import structlog
from sqlalchemy import Connection

from models.session import Database
from tasks.crashpoint import reached
from tasks.personalize import circuit, money, store
from tasks.personalize.call import Call, Came, came_of, prepared
from tasks.personalize.client import Client, Reply
from tasks.personalize.money import Reservation
from tasks.personalize.pace import Pace
from tasks.personalize.prices import Price, millionths
from tasks.personalize.settings import ModelSettings
from tasks.personalize.store import End, Wanted

BROKE: Final = 300.0
"""Seconds until a text that no budget holds is looked at again."""
GROUP: Final = 0.005
"""Seconds that an answer waits for others, to be written down with them."""

Paid: TypeAlias = tuple[Call, Reservation]

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
        pace: how fast; by default one of its own.
    """

    def __init__(
        self,
        database: Database,
        settings: ModelSettings,
        client: Asks | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._given = client
        self._pace = pace or Pace(database, settings)
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
        while not over() and self._pace.rest(over):
            began = time.monotonic()
            with self._database.transaction() as connection:
                # No more at once than there are threads: a lease runs from the claim on.
                n = self._pace.most(self._settings.concurrency)
                wanted = store.claim(connection, n, self._settings.lease, self._gathering)
                paid = self._pay(connection, self._calls(connection, wanted))
            self._pace.worked(time.monotonic() - began)
            if not wanted:
                break
            told["later"] += len(wanted) - len(paid)
            reached("personalize.reserved")
            self._ask_all(paid, told)
        return told

    def _calls(self, connection: Connection, wanted: Sequence[Wanted]) -> list[Call]:
        """The calls of these texts; whose cannot be made is put off."""
        calls: list[Call] = []
        ends: list[End] = []
        for each in wanted:
            price = self._prices.of(each.model)
            if not self._settings.url and self._given is None:
                ends.append(End(each, why="no_model", fault=each.fault, pause=BROKE))
            elif price is None:
                log.error(
                    "no_price",
                    model=each.model,
                    next="name it in DRIPFLEET_MODEL_PRICES; 0/0 is free",
                )
                ends.append(End(each, why="no_price", fault=each.fault, pause=BROKE))
            else:
                calls.append(self._call(each, price, each.fault, each.tries))
        store.end(connection, ends)
        return calls

    def _call(self, wanted: Wanted, price: Price, fault: str | None, tries: int) -> Call:
        return prepared(wanted, price, self._settings.output_tokens, fault, tries)

    def _pay(self, connection: Connection, calls: Sequence[Call]) -> list[Paid]:
        """Set aside what the calls can cost; one that no budget holds is put off."""
        asked = [(call.wanted.sequence_key, call.most) for call in calls]
        held = money.reserve_each(connection, asked, self._budgets)
        pairs = list(zip(calls, held, strict=True))
        paid = [(call, reservation) for call, reservation in pairs if reservation is not None]
        store.reserved(connection, [(call.wanted, each.amount, each.day) for call, each in paid])
        store.end(
            connection,
            [
                End(call.wanted, why="budget", fault=call.fault, pause=BROKE)
                for call, reservation in pairs
                if reservation is None
            ],
        )
        return paid

    def _ask_all(self, paid: Sequence[Paid], told: dict[str, int]) -> None:
        pending: set[Future[Came]] = {self._threads.submit(self._ask, *each) for each in paid}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            if pending:
                more, pending = wait(pending, timeout=GROUP)
                done |= more
            began = time.monotonic()
            again = self._record([each.result() for each in done], told)
            pending |= {self._threads.submit(self._ask, *each) for each in again}
            self._pace.worked(time.monotonic() - began)

    def _ask(self, call: Call, held: Reservation) -> Came:
        client = self._client()  # made once: its imports are no work of a text
        began = time.thread_time()
        reply = client.ask(call.wanted.model, call.messages, call.form)
        reached("personalize.answered")
        came = came_of(call, held, reply, self._settings.retries)
        self._pace.worked(time.thread_time() - began)
        return came

    def _record(self, came: Sequence[Came], told: dict[str, int]) -> list[Paid]:
        """Write down what came of calls; those that are to be made once more are paid for again."""
        with self._database.transaction() as connection:
            store.end(connection, [each.end for each in came])
            money.settle_each(connection, [(each.held, each.end.used.cost) for each in came])
            for model in sorted({each.call.wanted.model for each in came if each.down is None}):
                circuit.fine(connection, model)
            for each in came:
                if each.down is not None:
                    down, model = each.down, each.call.wanted.model
                    circuit.fault(connection, model, down.said, down.pause)
            refused = [
                self._call(each.call.wanted, each.call.price, each.end.fault, each.call.tries + 1)
                for each in came
                if each.end.keeps
            ]
            again = self._pay(connection, refused)
        for each in came:
            if not each.end.keeps:
                told["later" if each.end.state == "wanted" else each.end.state] += 1
        told["later"] += len(refused) - len(again)
        return again

    def _client(self) -> Asks:
        with self._lock:
            if self._given is None:
                self._given = Client(self._settings)
            return self._given
