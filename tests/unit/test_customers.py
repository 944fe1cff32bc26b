"""The demo's customers: the real data is whole, and the invented part is fair and fixed."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import hashlib
import io
from collections import Counter
from decimal import Decimal
from importlib import resources

from schedules.localtime import is_zone
from tasks.audience.address import parse
from tasks.audience.candidate import locale
from workers.demo.customers import (
    LAST_PURCHASE,
    customers,
    events_csv,
    purchases,
    subscribers_csv,
)


def test_the_shipped_file_is_the_published_one() -> None:
    packed = resources.files("workers.demo").joinpath("cdnow.txt.gz").read_bytes()
    digest = hashlib.sha256(gzip.decompress(packed)).hexdigest()
    assert digest in resources.files("workers.demo").joinpath("SOURCE.md").read_text("utf-8")


def test_every_customer_and_purchase_is_there() -> None:
    bought = list(purchases())
    people = list(customers())
    assert len(bought) == 69_659
    assert len(people) == 23_570
    assert [person.number for person in people] == list(range(1, 23_571))
    assert sum(person.purchases for person in people) == 69_659
    assert sum((p.amount for p in bought), Decimal()) == sum((p.spent for p in people), Decimal())
    assert max(purchase.on for purchase in bought) == LAST_PURCHASE.date()


def test_invented_people_have_real_zones_and_locales_in_fair_shares() -> None:
    people = list(customers())
    shares = Counter(person.zone for person in people)
    assert all(is_zone(zone) for zone in shares)
    assert len(shares) >= 20
    assert max(shares.values()) < len(people) / 8
    assert all(locale(tag) == tag for tag in {person.locale for person in people})
    names = {person.first_name for person in people}
    assert {"Zoë", "Łukasz", "美咲"} <= names
    assert all(parse(person.email) == person.email for person in people[:100])


def test_a_customer_is_the_same_person_in_every_run() -> None:
    assert next(customers()) == next(customers(1))
    first = next(customers())
    assert (first.email, first.external_id) == ("customer-00001@example.com", "cdnow-00001")


def test_fewer_customers_come_with_their_own_purchases_alone() -> None:
    assert len(list(customers(200))) == 200
    assert {purchase.customer for purchase in purchases(200)} == set(range(1, 201))


def test_both_files_are_csv_and_the_shift_moves_the_last_purchase() -> None:
    rows = list(csv.DictReader(io.TextIOWrapper(subscribers_csv(3), "utf-8", newline="")))
    later = subscribers_csv(3, shift=dt.timedelta(days=10))
    moved = list(csv.DictReader(io.TextIOWrapper(later, "utf-8", newline="")))
    assert [row["email"] for row in rows] == [c.email for c in customers(3)]
    for row, after in zip(rows, moved, strict=True):
        days = dt.date.fromisoformat(after["last_purchase"]) - dt.date.fromisoformat(
            row["last_purchase"]
        )
        assert days == dt.timedelta(days=10)
    events = list(csv.DictReader(io.TextIOWrapper(events_csv(3), "utf-8", newline="")))
    assert len(events) == sum(int(row["purchases:int"]) for row in rows)
    assert len({event["source_id"] for event in events}) == len(events)
