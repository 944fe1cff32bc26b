"""An edit with many people under way: what `plan` says, what `apply` does, and how long both take.

    python -m tests.bench.live_edit [--people 100000] [--json]

Three edits one after the other: a wait is made shorter, a step is taken out, a step is added. Each is
counted first and then done; the figures are printed only if both agree, if the planner then makes
the mails that were foretold, and if nobody has two of a step. Beside each stands the time that
Postgres takes for one bare UPDATE of the same rows.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import text

from models.migrate import migrate
from models.session import Database
from schedules.loader import reads
from tasks.moves.settings import IdentitySettings
from tasks.send.render import Bundle
from tasks.sequence.publish import Published, preview, publish
from tasks.sequence.store import Planner
from tests.bench.due_mails import bring_in
from workers.cli.render import number, say
from workers.embedded.postgres import EmbeddedPostgres

MAIL = Bundle("bench/mail", {"subject.txt": "Hello", "body.txt": "Hi."})
FILE = """
key: bench
title: A sequence that is edited
class: marketing
topic: product-news
timezone: {{source: subscriber, fallback: Europe/Berlin}}
entry: {{manual: true}}
steps:
  - {{id: hello, send: {{template: bench/mail}}}}
  - {{id: wait, wait: {{delay: {wait}}}}}
{middle}  - {{id: local, wait: {{calendar_days: 2, at: "09:30"}}}}
{added}  - {{id: last, send: {{template: bench/mail}}}}
"""
MIDDLE = "  - {id: nudge, send: {template: bench/mail}}\n  - {id: rest, wait: {delay: 9d}}\n"
ADDED = "  - {id: offer, send: {template: bench/mail}}\n  - {id: pause, wait: {delay: 1d}}\n"
EDITS = (
    ("a wait is made shorter", FILE.format(wait="1d", middle=MIDDLE, added="")),
    ("a step is taken out", FILE.format(wait="1d", middle=MIDDLE.splitlines(True)[0], added="")),
    ("a step is added", FILE.format(wait="1d", middle=MIDDLE.splitlines(True)[0], added=ADDED)),
)
ENROLL = text("""
INSERT INTO enrollment (sequence_key, sequence_version, subscriber_id, due_at)
SELECT 'bench', 1, id, 'infinity' FROM subscriber
""")
# One in ten has a mail under way; the others stand in the three waits, anywhere between their ends.
FIRST = text("UPDATE enrollment SET due_at = clock_timestamp() WHERE subscriber_id % 10 = 0")
PUT = text("""
UPDATE enrollment SET step_id = w.step, step_started_at = clock_timestamp() - w.length * w.share,
    due_at = clock_timestamp() + w.length * (1 - w.share)
FROM (SELECT id, (ARRAY['wait', 'rest', 'local'])[1 + subscriber_id % 3] AS step,
        (ARRAY[interval '3 d', interval '9 d', interval '2 d'])[1 + subscriber_id % 3] AS length,
        (subscriber_id * 7919 % 1000) / 1000.0 AS share
      FROM enrollment WHERE subscriber_id % 10 <> 0) w
WHERE enrollment.id = w.id
""")
BARE = text("UPDATE enrollment SET sequence_version = sequence_version WHERE active")
TWICE = text("""
SELECT count(*) FROM (
    SELECT 1 FROM message GROUP BY enrollment_id, step_id HAVING count(*) > 1) x
""")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--people", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="dfb") as folder:
        server = EmbeddedPostgres.start(Path(folder) / "pg")
        try:
            database = Database(server.url)
            migrate(database)
            figures = measure(database, args.people)
            database.close()
        finally:
            server.stop(immediate=True)
    if args.json:
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    return 0


def measure(database: Database, people: int) -> list[dict[str, Any]]:
    """Bring people in, edit three times, and return the figures of each edit.

    Raises:
        AssertionError: `apply` did something else than `plan` said.
    """
    bring_in(database, people)
    apply(database, FILE.format(wait="3d", middle=MIDDLE, added=""))
    identity = IdentitySettings(secret_message_id=SecretStr("of the benchmark"))
    planner = Planner(database, identity, timedelta(days=3))
    with database.transaction() as connection:
        connection.execute(ENROLL)
        connection.execute(FIRST)
    while planner.scan().enrollments:
        pass
    with database.transaction() as connection:
        connection.execute(PUT)
    with database.raw() as connection_:
        connection_.execute("VACUUM ANALYZE enrollment")
    figures = []
    for name, source in EDITS:
        began = time.perf_counter()
        with database.snapshot() as connection:
            said = preview(connection, reads(source, "bench.yaml"), {MAIL.name: MAIL}).effect
        counted = time.perf_counter() - began
        began = time.perf_counter()
        done = apply(database, source).effect
        applied = time.perf_counter() - began
        assert said is not None and done is not None
        # The clock went on between the two: who was about to be due may be due by then.
        assert abs(said.due_now - done.due_now) <= people / 1000 and said.moved == done.moved
        began = time.perf_counter()
        with database.transaction() as connection:
            connection.execute(BARE)
        bare = time.perf_counter() - began
        made = 0
        while (scanned := planner.scan()).enrollments:
            made += scanned.messages
        assert made >= done.immediate_sends, (made, done.immediate_sends)
        with database.transaction() as connection:
            assert connection.execute(TWICE).scalar_one() == 0
        say(
            f"{name}: {number(done.people)} people, {number(done.moved)} moved,"
            f" {number(done.retimed)} retimed, {number(done.due_now)} due now; plan {counted:.1f} s,"
            f" apply {applied:.1f} s, {applied / bare:.1f} times a bare UPDATE of the rows"
        )
        told = {key: value for key, value in asdict(done).items() if key != "steps"}
        figures.append(
            {"edit": name, **told, "plan_s": counted, "apply_s": applied, "bare_s": bare}
        )
    return figures


def apply(database: Database, source: str) -> Published:
    """Publish a version as `sequence apply --yes` does."""
    with database.transaction() as connection:
        loaded = reads(source, "bench.yaml")
        return publish(connection, loaded, source, {MAIL.name: MAIL}, yes=True)


if __name__ == "__main__":
    sys.exit(main())
