"""When texts become a batch, and what is set aside for it: written down before any server hears of it."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Final

import structlog
from sqlalchemy import Connection

from models.session import Database
from tasks.crashpoint import reached
from tasks.personalize import batch_store, engine, money
from tasks.personalize.batch_store import Text
from tasks.personalize.engine import Brief
from tasks.personalize.prices import Price, millionths
from tasks.personalize.settings import ModelSettings

MOST: Final = 20_000
"""Texts a batch; OpenAI takes 50 000 requests and 200 MB."""
MOST_OCTETS: Final = 150_000_000

log = structlog.get_logger()


class Maker:
    """Makes batches of texts that have come together.

    Args:
        database: where texts are wanted.
        settings: from how many on, how far ahead, prices and budgets.
    """

    def __init__(self, database: Database, settings: ModelSettings) -> None:
        self._database = database
        self._settings = settings
        self._prices = settings.price_table
        self._budgets = money.Budgets(
            millionths(settings.budget_day), millionths(settings.budget_sequence)
        )

    def make(self) -> bool:
        """Write one batch down, and set aside what it may cost; whether there was one to make."""
        settings = self._settings
        if not settings.batch_min or not settings.url:
            return False
        with self._database.transaction() as connection:
            for model in batch_store.gathered(
                connection, settings.batch_min, settings.batch_lead, settings.batch_gather
            ):
                price = self._prices.by_batch(model)
                if price is None:  # said where a single text is asked for
                    continue
                found = batch_store.choose(connection, model, settings.batch_lead, MOST)
                amounts = self._afforded(connection, found, price)
                if amounts:
                    ours = uuid.uuid4()
                    batch_store.make(connection, ours, model, amounts)
                    break
            else:
                return False
        reached("personalize.batch_made")
        log.info("batch_made", batch=str(ours), model=model, texts=len(amounts))
        return True

    def _afforded(
        self, connection: Connection, found: Sequence[Text], price: Price
    ) -> dict[bytes, tuple[int, dt.date]]:
        """What is set aside for each text, as far as the budgets hold them: the soonest needed first."""
        wanted: dict[str, dict[bytes, int]] = {}
        octets = 0
        for each in found:
            brief = Brief.from_source(each.source)
            most = engine.most_tokens(
                engine.messages(brief, each.told), engine.response_format(brief)
            )
            octets += most
            if octets > MOST_OCTETS:
                break
            cost = price.cost(most, self._settings.output_tokens)
            wanted.setdefault(each.sequence_key, {})[each.key] = cost
        amounts: dict[bytes, tuple[int, dt.date]] = {}
        for sequence_key, costs in sorted(wanted.items()):
            room = money.room(connection, sequence_key, self._budgets)
            fit: dict[bytes, int] = {}
            for key, cost in costs.items():
                if cost > room:
                    break
                room -= cost
                fit[key] = cost
            held = money.reserve(connection, sequence_key, sum(fit.values()), self._budgets)
            if held is not None:
                amounts |= {key: (cost, held.day) for key, cost in fit.items()}
        return amounts
