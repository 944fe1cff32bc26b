"""What a call costs: tokens by the price table, in millionths of its currency.

A price is for a million tokens, so that tokens times price are millionths. Fractions are rounded up:
what is reckoned is never less than what is paid.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from tasks.wording import SHIPPED

MILLION = 1_000_000
BY_BATCH = Decimal("0.5")
"""The share of its price that a model has by batch, where no other is named."""
_ENTRY = re.compile(r"([^=,\s]+)=([0-9]{1,9}(?:\.[0-9]{1,6})?)/([0-9]{1,9}(?:\.[0-9]{1,6})?)")
_SHARE = re.compile(r"([^=,\s]+)=(0(?:\.[0-9]{1,6})?|1(?:\.0{1,6})?)")


@dataclass(frozen=True, slots=True)
class Price:
    """Of a million tokens in, and of a million out."""

    tokens_in: Decimal
    tokens_out: Decimal

    def cost(self, tokens_in: int, tokens_out: int) -> int:
        """Millionths."""
        return math.ceil(tokens_in * self.tokens_in + tokens_out * self.tokens_out)

    def times(self, share: Decimal) -> Price:
        """A share of it."""
        return Price(self.tokens_in * share, self.tokens_out * share)


FREE = Price(Decimal(), Decimal())


@dataclass(frozen=True, slots=True)
class Prices:
    """Model → price. The server that ships costs nothing; a model without a price is not asked."""

    table: Mapping[str, Price] = field(default_factory=dict)
    shares: Mapping[str, Decimal] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, shares: Mapping[str, Decimal] | None = None) -> Prices:
        """Read ``gpt=0.25/2.00,other=1/4``; `shares` as `parse_shares` has them.

        Raises:
            ValueError: an entry is of another form.
        """
        found = {}
        for entry in filter(None, (each.strip() for each in text.split(","))):
            match = _ENTRY.fullmatch(entry)
            if match is None:
                raise ValueError(
                    f"{entry[:60]!r} is no price: expected MODEL=IN/OUT, for a million tokens each"
                )
            found[match[1]] = Price(Decimal(match[2]), Decimal(match[3]))
        return cls(found, shares or {})

    def of(self, model: str) -> Price | None:
        """The price of a model, None where there is none."""
        return self.table.get(model, FREE if model == SHIPPED else None)

    def by_batch(self, model: str) -> Price | None:
        """Its price by the Batch API, None where it has none at all."""
        price = self.of(model)
        return price.times(self.shares.get(model, BY_BATCH)) if price is not None else None


def parse_shares(text: str) -> dict[str, Decimal]:
    """Read ``gpt=0.5,other=0.6``: model → the share of its price that it has by batch.

    Raises:
        ValueError: an entry is of another form.
    """
    found = {}
    for entry in filter(None, (each.strip() for each in text.split(","))):
        match = _SHARE.fullmatch(entry)
        if match is None:
            raise ValueError(f"{entry[:60]!r} is no share: expected MODEL=0.5, from 0 to 1")
        found[match[1]] = Decimal(match[2])
    return found


def millionths(amount: float) -> int:
    """An amount of the currency as the database counts it."""
    return round(amount * MILLION)
