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
_ENTRY = re.compile(r"([^=,\s]+)=([0-9]{1,9}(?:\.[0-9]{1,6})?)/([0-9]{1,9}(?:\.[0-9]{1,6})?)")


@dataclass(frozen=True, slots=True)
class Price:
    """Of a million tokens in, and of a million out."""

    tokens_in: Decimal
    tokens_out: Decimal

    def cost(self, tokens_in: int, tokens_out: int) -> int:
        """Millionths."""
        return math.ceil(tokens_in * self.tokens_in + tokens_out * self.tokens_out)


FREE = Price(Decimal(), Decimal())


@dataclass(frozen=True, slots=True)
class Prices:
    """Model → price. The server that ships costs nothing; a model without a price is not asked."""

    table: Mapping[str, Price] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Prices:
        """Read ``gpt=0.25/2.00,other=1/4``.

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
        return cls(found)

    def of(self, model: str) -> Price | None:
        """The price of a model, None where there is none."""
        return self.table.get(model, FREE if model == SHIPPED else None)


def millionths(amount: float) -> int:
    """An amount of the currency as the database counts it."""
    return round(amount * MILLION)
