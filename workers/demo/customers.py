"""The customers of the demo: 23 570 real ones with 69 659 real purchases (see SOURCE.md).

They are written as the same two CSV files that an operator would bring, and take the same way in.
"""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources
from itertools import groupby
from typing import BinaryIO

SOURCE = "cdnow"
"""Name of these events' source: their shift is stored under it."""
TOPIC = "product-news"
LAST_PURCHASE = dt.datetime(1998, 6, 30, tzinfo=dt.UTC)
"""The day of the last purchase in the whole file, whatever part of it is taken."""

# Locale, zones, first names: what a customer's hash picks from. A region stands as often as it is
# to come up.
_REGIONS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("en-US", ("America/New_York", "America/Chicago"), ("Olivia", "Liam", "Zoë", "Mason")),
    ("en-US", ("America/Denver", "America/Los_Angeles"), ("Ava", "Noah", "Chloé", "Ethan")),
    ("es-MX", ("America/Mexico_City",), ("Sofía", "José", "Valentina", "Ángel")),
    ("pt-BR", ("America/Sao_Paulo", "America/Manaus"), ("João", "Conceição", "Caio", "Luísa")),
    ("en-GB", ("Europe/London",), ("Imogen", "Rhys", "Siân", "Callum")),
    ("de-DE", ("Europe/Berlin",), ("Jürgen", "Käthe", "Lena", "Björn")),
    ("de-AT", ("Europe/Vienna",), ("Anna", "Maximilian", "Jörg", "Leonie")),
    ("fr-FR", ("Europe/Paris",), ("Éloïse", "François", "Inès", "Hugo")),
    ("pl-PL", ("Europe/Warsaw",), ("Łukasz", "Małgorzata", "Zofia", "Michał")),
    ("cs-CZ", ("Europe/Prague",), ("Jiří", "Tereza", "Ondřej", "Kateřina")),
    ("el-GR", ("Europe/Athens",), ("Ελένη", "Γιώργος", "Μαρία", "Νίκος")),
    ("tr-TR", ("Europe/Istanbul",), ("İrem", "Çağrı", "Ayşe", "Oğuz")),
    ("ar-EG", ("Africa/Cairo",), ("ليلى", "عمر", "مريم", "يوسف")),
    ("sw-KE", ("Africa/Nairobi",), ("Wanjiru", "Juma", "Achieng", "Baraka")),
    ("hi-IN", ("Asia/Kolkata",), ("आरव", "अनन्या", "Rohan", "Priya")),
    ("ja-JP", ("Asia/Tokyo",), ("美咲", "蓮", "結衣", "大翔")),
    ("zh-Hant-TW", ("Asia/Taipei",), ("雅婷", "家豪", "怡君", "志明")),
    ("en-AU", ("Australia/Sydney", "Australia/Adelaide"), ("Matilda", "Jack", "Ruby", "Lachlan")),
    ("en-NZ", ("Pacific/Auckland", "Pacific/Chatham"), ("Aroha", "Tāne", "Isla", "Nikau")),
)


@dataclass(frozen=True, slots=True)
class Purchase:
    """One purchase: `number` its line among all (from 1), `amount` in US dollars."""

    number: int
    customer: int
    on: dt.date
    cds: int
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer: what was bought is real, who they are is invented from their number."""

    number: int
    first_name: str
    locale: str
    zone: str
    purchases: int
    spent: Decimal
    last_purchase: dt.date

    @property
    def email(self) -> str:
        """Their address, at a domain that receives no mail."""
        return f"customer-{self.number:05}@example.com"

    @property
    def external_id(self) -> str:
        """Their number as the shop wrote it."""
        return f"{SOURCE}-{self.number:05}"


def purchases(count: int | None = None) -> Iterator[Purchase]:
    """The purchases of the first `count` customers (None: all), by customer and date."""
    packed = resources.files(__package__).joinpath("cdnow.txt.gz")
    with packed.open("rb") as file, gzip.open(file, "rt", encoding="ascii") as lines:
        next(lines)
        for number, line in enumerate(lines, start=1):
            customer, day, cds, amount = line.split()
            # Customers are numbered without a gap, in the order of the file.
            if count is not None and int(customer) > count:
                return
            on = dt.date(int(day[:4]), int(day[4:6]), int(day[6:]))
            yield Purchase(number, int(customer), on, int(cds), Decimal(amount))


def customers(count: int | None = None) -> Iterator[Customer]:
    """The first `count` customers (None: all)."""
    for number, group in groupby(purchases(count), key=lambda purchase: purchase.customer):
        bought = list(group)
        first_name, locale, zone = _person(number)
        yield Customer(
            number,
            first_name,
            locale,
            zone,
            len(bought),
            sum((purchase.amount for purchase in bought), Decimal()),
            max(purchase.on for purchase in bought),
        )


def subscribers_csv(count: int | None = None, shift: dt.timedelta = dt.timedelta()) -> BinaryIO:
    """The customers as `dripfleet subscribers import` takes them.

    Args:
        count: how many; None: all.
        shift: added to `last_purchase`; the same one as for the events, so that both agree.
    """
    header = (
        "email", "external_id", "first_name", "locale", "zone", f"topic:{TOPIC}",
        "purchases:int", "spent:number", "last_purchase",
    )  # fmt: skip
    return _csv(
        header,
        (
            (
                c.email, c.external_id, c.first_name, c.locale, c.zone, "yes",
                c.purchases, c.spent, c.last_purchase + shift,
            )
            for c in customers(count)
        ),
    )  # fmt: skip


def events_csv(count: int | None = None) -> BinaryIO:
    """The purchases as `dripfleet events import --source cdnow` takes them, dates as they were."""
    header = ("external_id", "name", "occurred_at", "source_id", "cds", "amount")
    return _csv(
        header,
        (
            (f"{SOURCE}-{p.customer:05}", "purchase", p.on, f"{p.number:06}", p.cds, p.amount)
            for p in purchases(count)
        ),
    )


def _csv(header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> BinaryIO:
    file = io.BytesIO()
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    text.detach()
    file.seek(0)
    return file


def _person(number: int) -> tuple[str, str, str]:
    """First name, locale and zone, the same for a number ever after."""
    digest = hashlib.sha256(f"{SOURCE}-{number:05}".encode("ascii")).digest()
    locale, zones, names = _REGIONS[digest[0] % len(_REGIONS)]
    return names[digest[1] % len(names)], locale, zones[digest[2] % len(zones)]
