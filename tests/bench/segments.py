"""How long a segment takes: everybody at once, whom an event touches, and a preview.

    python -m tests.bench.segments [--subscribers 1000000] [--events 20000000] [--json]

Each segment is previewed, evaluated (everybody who is in it joins), and evaluated again (nobody
moves); `by_look_up` is the same condition asked of subscribers one by one by index, timed on a tenth
of them and multiplied. Seconds by the clock and of Postgres's processor time: on a machine that others
keep busy only the latter says much. At the end single events, from their INSERT to the edge.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import text

from models.migrate import migrate
from models.session import Database
from schedules.expression import read
from schedules.segment import reads
from tasks.audience import segment_book as book
from tasks.audience import segment_refresh as work
from tasks.segments import segment_sql
from tests.bench import large_book
from tests.bench.cpu_time import cpu_seconds, used_between
from workers.cli.render import number, say
from workers.embedded.postgres import EmbeddedPostgres

SEGMENTS = {
    "loyal": "count('purchase', within='90d') >= 2",
    "lapsed": "count('purchase') >= 1 and count('purchase', within='180d') == 0",
    "young-germans": "sub.country == 'DE' and sub.age < 30",
    "reading": "days_since(last('email.opened')) <= 30 and sub.country in ['DE', 'AT']",
    "worth-a-mail": "in_segment('lapsed') and count('email.clicked', within='365d') >= 1"
    " and not in_segment('young-germans')",
}
EVENTS = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--subscribers", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    settings = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "8GB"}
    with tempfile.TemporaryDirectory(prefix="df") as folder:
        server = EmbeddedPostgres.start(Path(folder) / "pg", settings=settings)
        try:
            database = Database(server.url)
            migrate(database)
            say(f"{number(asked.subscribers)} subscribers, {number(asked.events)} events")
            began = time.monotonic()
            large_book.fill(database, asked.subscribers, asked.events)
            say(f"filled in {time.monotonic() - began:.0f} s")
            found = measured(database, server.pid, asked.subscribers)
            database.close()
        finally:
            server.stop(immediate=True)
    found = {"subscribers": asked.subscribers, "events": asked.events, **found}
    sys.stdout.write(json.dumps(found, indent=None if asked.json else 2) + "\n")
    return 0


def measured(database: Database, postgres: int, subscribers: int) -> dict[str, Any]:
    """The figures of every segment, and of single events."""
    found: dict[str, Any] = {}
    for key, when in SEGMENTS.items():
        segment = reads(f"key: {key}\ntitle: T\nwhen: {json.dumps(when)}\n", key)
        with database.snapshot() as connection, timed(postgres) as preview:
            members = book.preview(connection, segment.segment.when, 5).members
        with database.transaction() as connection:
            book.apply(connection, [segment])
        with timed(postgres) as first:
            done = work.refresh(database, key)
        assert done is not None and done.joined == members, (key, done, members)
        with timed(postgres) as again:
            done = work.refresh(database, key)
        assert done is not None and not done.joined and not done.left, (key, done)
        with timed(postgres) as few:
            _look_up(database, when, subscribers // 10)
        found[key] = {
            "when": when,
            "members": members,
            "preview": preview,
            "first": first,
            "again": again,
            "by_look_up": {name: round(10 * value, 2) for name, value in few.items()},
        }
        say(f"{key}: {found[key]}")
    found["event_to_edge_ms"] = _single(database)
    found["touched_at_once"] = _many(database, postgres)
    return found


def _look_up(database: Database, when: str, up_to: int) -> None:
    """Ask of those up to an id one by one, each fact by its index."""
    where, parameters = segment_sql(read(when))
    with database.snapshot() as connection:
        connection.execute(book.PREPARED)
        statement = f"SELECT count(*) FROM subscriber s WHERE s.id <= :up_to AND ({where})"
        connection.execute(text(statement), {**parameters, "up_to": up_to})


def _single(database: Database) -> dict[str, float]:
    """Milliseconds from the INSERT of an event to the commit of the edges that it causes."""
    took = []
    while work.work_touches(database):
        pass
    for number_ in range(EVENTS):
        began = time.monotonic()
        with database.transaction() as connection:
            connection.execute(
                text(
                    "INSERT INTO event (subscriber_id, name, occurred_at) SELECT p.subscriber_id,"
                    " 'purchase', now() FROM segment_present p WHERE p.segment = 'lapsed'"
                    " ORDER BY p.subscriber_id LIMIT 1"
                )
            )
        assert work.work_touches(database) == 2, number_  # loyal and lapsed ask for it
        took.append(1000 * (time.monotonic() - began))
        work.work_touches(database)  # what the edge touched in its turn
    took.sort()
    return {"p50": round(statistics.median(took), 1), "p99": round(took[-2], 1)}


def _many(database: Database, postgres: int) -> dict[str, float]:
    """A batch of touches, of as many people: from the first to the last of their edges."""
    with database.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO event (subscriber_id, name, occurred_at) SELECT s.id, 'purchase', now()"
                " FROM subscriber s ORDER BY s.id LIMIT :n"
            ),
            {"n": work.BATCH},
        )
    with timed(postgres) as spent:
        people = work.work_touches(database) / 2
    return {"people": people, **spent}


@contextmanager
def timed(postgres: int) -> Iterator[dict[str, float]]:
    """Seconds by the clock, and of the processor in every process of that server."""
    spent: dict[str, float] = {}
    before, began = cpu_seconds({"postgres": postgres}), time.monotonic()
    yield spent
    spent["seconds"] = round(time.monotonic() - began, 2)
    after = cpu_seconds({"postgres": postgres})
    spent["cpu"] = round(used_between(before, after)["postgres"], 2)


if __name__ == "__main__":
    raise SystemExit(main())
