"""CDNOW's real customers and purchases put straight into a database, at their own dates."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

from models.session import Database
from workers.demo import customers

SAMPLE = Path(__file__).parents[1] / "data" / "cdnow_sample.csv.gz"


def fill(database: Database, count: int | None = None) -> None:
    """Subscribers with their customer number as id, and their purchases."""
    with database.raw() as raw, raw.transaction():
        with raw.cursor().copy("COPY subscriber (id, address, address_hmac) FROM STDIN") as copy:
            for customer in customers.customers(count):
                mark = f"\\x{customer.number:064x}".encode()
                copy.write_row((customer.number, customer.email, mark.decode()))
        with raw.cursor().copy(
            "COPY event (subscriber_id, name, occurred_at, properties) FROM STDIN"
        ) as copy:
            for each in customers.purchases(count):
                copy.write_row(
                    (each.customer, "purchase", f"{each.on} 00:00Z", f'{{"amount": {each.amount}}}')
                )
        raw.execute("ANALYZE subscriber, event")


def sample() -> list[dict[str, str]]:
    """The published 1/10 sample: customer, x, t_x, T, zbar."""
    with gzip.open(SAMPLE, "rt") as file:
        return list(csv.DictReader(file))
