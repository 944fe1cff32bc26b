"""G8: a million rows imported, a million people enrolled, and looks at large tables that find nothing.

    python -m tests.bench.goals --only G8_import,G8_enqueue
    python -m tests.bench.goals --only G8_scan,G8_claim

Each round imports the same file into a database of its own and enrolls everybody, by what `subscribers
import` and `enqueue --all` call. Then a book of five million enrollments of which none is due is looked at
by a planner's scan and by a claim. On an embedded Postgres with fsync; rows a second by the clock, all of them
one process's.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit, urlunsplit

import psycopg
from pydantic import SecretStr
from sqlalchemy import text

from models.migrate import migrate
from models.session import Database
from tasks.audience.importer import import_subscribers
from tasks.audience.rejects import Rejects
from tasks.errors import Permanent
from tasks.moves.claim import claim
from tasks.moves.settings import IdentitySettings
from tasks.sequence.enroll import enroll_all
from tasks.sequence.store import Planner
from tests.bench import due_mails
from tests.bench.question import LARGEST, Answers, Plan
from tests.bench.standing_book import fill
from workers.embedded.postgres import EmbeddedPostgres

GOALS = "G8_import G8_enqueue G8_scan G8_claim"
ROWS = 1_000_000
LOOKS = 50
SECRET = b"benchmark".ljust(32)


def ask(plan: Plan, answers: Answers, args: argparse.Namespace) -> None:
    """Answer those of `GOALS` that are asked for.

    Raises:
        Permanent: rows are missing, so there is no figure.
    """
    with ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="dripfleet-")))
        server = EmbeddedPostgres.start(folder / "pg")
        exits.callback(server.stop)
        database = Database(server.url)
        migrate(database)
        with database.transaction() as connection:
            connection.execute(due_mails.TOPIC)
        due_mails.publish_one_mail(database, "everybody", folder)
        database.close()
        if plan.wants("G8_import", "G8_enqueue"):
            _brought_in(plan, answers, server.url, folder)
        if plan.wants("G8_scan", "G8_claim"):
            _nothing_due(plan, answers, server.url)


def _brought_in(plan: Plan, answers: Answers, url: str, folder: Path) -> None:
    rows = ROWS // 10 if plan.quick else ROWS
    file = folder / "people.csv"
    _write(file, rows)
    imported, enrolled = [], []
    for number in range(plan.rounds):
        database = _copy(url, f"round_{number}")
        began = time.perf_counter()
        with file.open("rb") as source:
            tally = import_subscribers(
                database, source, name=file.name, secret=SECRET, rejects=Rejects(None)
            )
        imported.append(rows / (time.perf_counter() - began))
        began = time.perf_counter()
        told = enroll_all(database, "everybody")
        enrolled.append(rows / (time.perf_counter() - began))
        database.close()
        if tally.new != rows or told.enrolled != rows:
            raise Permanent(f"of {rows} rows {tally.new} came in and {told.enrolled} were enrolled")
        plan.say(f"round {number + 1}: {imported[-1]:,.0f} and {enrolled[-1]:,.0f} a second")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE round_{number}")
    answers.goals["G8_import"] = imported
    answers.goals["G8_enqueue"] = enrolled


def _nothing_due(plan: Plan, answers: Answers, url: str) -> None:
    people = 300_000 if plan.quick else LARGEST
    database = _copy(url, "standing")
    began = time.monotonic()
    fill(database, people, 1)
    plan.say(f"{people:,} people written in {time.monotonic() - began:.0f} s")
    secret = SecretStr("benchmark".ljust(32))
    planner = Planner(database, IdentitySettings(secret_message_id=secret), timedelta(days=30))
    scans, claims = [], []
    for _ in range(LOOKS):
        began = time.perf_counter()
        looked = planner.scan()
        scans.append((time.perf_counter() - began) * 1e3)
        began = time.perf_counter()
        with database.transaction() as connection:
            found = claim(connection, stream="marketing", n=500, owner="benchmark", lease=60)
        claims.append((time.perf_counter() - began) * 1e3)
        if looked.enrollments or found.rows:
            raise Permanent("something was due where nothing should be: no figure")
    with database.transaction() as connection:
        held = connection.execute(text("SELECT count(*) FROM enrollment")).scalar_one()
    database.close()
    answers.row("enrollments of which none is due", "", [float(held)])
    # Rounds of ten looks, as whoever looks every second has them: warm.
    answers.goals["G8_scan"] = [median(scans[at : at + 10]) for at in range(0, LOOKS, 10)]
    answers.goals["G8_claim"] = [median(claims[at : at + 10]) for at in range(0, LOOKS, 10)]


def _write(file: Path, rows: int) -> None:
    names = ("Olivia", "Zoë", "Liam", "José", "Łukasz", "Imogen", "美咲", "Γιώργος")
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(
            ["email", "first_name", "locale", "zone", "plan", "orders:int", "spent:number"]
        )
        for i in range(rows):
            who = (f"customer-{i:07}@example.com", names[i % 8], "en-GB", "Europe/London")
            writer.writerow([*who, ("free", "pro")[i % 2], i % 9, f"{i * 7919 % 50000 / 100:.2f}"])


def _copy(url: str, name: str) -> Database:
    """A database that is as the first one was when it was migrated."""
    parts = urlsplit(url)
    with psycopg.connect(
        urlunsplit(parts._replace(path="/postgres")), autocommit=True
    ) as connection:
        connection.execute(f'CREATE DATABASE {name} TEMPLATE "{parts.path.strip("/")}"')
    return Database(urlunsplit(parts._replace(path=f"/{name}")))
