"""What the moves of a mail cost Postgres among few enrollments and among many, move by move.

    python -m tests.bench.statements [--people 5000,100000] [--mails 4000] [--no-page-images] [--json]

Without a fleet, so that nothing but these statements runs: enrolled people are planned, claimed, armed and
recorded in groups of 64, and taken out, beside a book of so many (`standing_book`). Microseconds of Postgres's
processor a mail. `--no-page-images` turns `full_page_writes` off: right after a checkpoint, as here, pages that
are touched for the first time are written whole, and the difference is their part.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

from pydantic import SecretStr

from models.migrate import migrate
from models.session import Database
from tasks.moves.claim import Claimed, claim
from tasks.moves.cycle import STATEMENTS, Answered, Ready, cycle
from tasks.moves.pipeline import Pipeline
from tasks.moves.settings import DeliverySettings, IdentitySettings
from tasks.sequence.store import Planner
from tests.bench import due_mails
from tests.bench.cpu_time import cpu_seconds
from tests.bench.standing_book import configure, fill
from workers.cli.render import say
from workers.embedded.postgres import EmbeddedPostgres

GROUP, CLAIMED = 64, 200
HASH = sha256(b"content").digest()
OWNER = "benchmark"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--people", default="5000,100000", help="of each book, parted by commas")
    parser.add_argument("--mails", type=int, default=4000)
    parser.add_argument("--no-page-images", action="store_true", help="with full_page_writes off")
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    args = parser.parse_args(argv)
    found = {}
    for people in map(int, args.people.split(",")):
        found[people] = measure(people, args.mails, page_images=not args.no_page_images)
        said = ", ".join(f"{move} {micros:.0f} µs" for move, micros in found[people].items())
        if not args.json:
            say(f"among {people:,}: {said}")
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def measure(people: int, mails: int, *, page_images: bool) -> dict[str, float]:
    """Move → microseconds of Postgres's processor a mail."""
    with tempfile.TemporaryDirectory(prefix="df") as folder:
        server = EmbeddedPostgres.start(Path(folder) / "pg")
        try:
            database = Database(server.url)
            migrate(database)
            database.engine.dispose()  # what it sets for the role holds for new connections
            due_mails.bring_in(database, mails)
            fill(database, people, 1)
            if not page_images:
                configure(database, "SET full_page_writes = off")
            due_mails.publish_one_mail(database, "key", Path(folder))
            due_mails.enroll(database, "key", mails)
            return _moves(database, server.pid, mails)
        finally:
            server.stop()


def _moves(database: Database, pid: int, mails: int) -> dict[str, float]:
    secret = SecretStr("benchmark".ljust(32))
    planner = Planner(database, IdentitySettings(secret_message_id=secret), timedelta(days=3))
    rows: list[Claimed] = []
    pipeline = Pipeline(database.raw(), STATEMENTS)

    def scans() -> None:
        while planner.scan().enrollments:
            pass

    def claims() -> None:
        while len(rows) < mails:
            with database.transaction() as connection:
                found = claim(connection, stream="marketing", n=CLAIMED, owner=OWNER, lease=600)
            rows.extend(found.rows)

    moves: dict[str, Callable[[], None]] = {
        "plan": scans,
        "claim": claims,
        "lock, record and arm": lambda: asyncio.run(_cycles(pipeline, rows)),
        "take out": scans,
    }
    micros = {}
    for name, move in moves.items():
        before = cpu_seconds({"postgres": pid})["postgres"]
        move()
        used = cpu_seconds({"postgres": pid})["postgres"] - before
        micros[name] = round(used / mails * 1e6, 1)
    pipeline.close()
    database.close()
    return micros


async def _cycles(pipeline: Pipeline, rows: Sequence[Claimed]) -> None:
    """Arm each group, and record it with the cycle that arms the next."""
    answered: list[Answered] = []
    for start in range(0, len(rows) + GROUP, GROUP):
        group = rows[start : start + GROUP]
        ready = [Ready(r.id, r.epoch, r.subscriber_id, r.address, HASH) for r in group]
        done = await cycle(pipeline, answered, ready, owner=OWNER, settings=DeliverySettings())
        assert len(done.armed) == len(group)
        answered = [
            Answered(r.id, r.epoch, r.enrollment_id, done.armed_at, HASH, 250, None, "2.0.0 Ok")
            for r in group
        ]


if __name__ == "__main__":
    sys.exit(main())
