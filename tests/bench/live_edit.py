"""An edit with many people under way: what `plan` says, what `apply` does, and how long both take.

    python -m tests.bench.live_edit [--people 100000] [--json]

Four edits one after the other: a wait is made shorter, a step is taken out, a step is added, and steps
are put behind the end for those who have completed (`finished: reopen`). Each is counted first and then
done; the figures are printed only if both agree, if the planner then makes the mails that were foretold,
and if nobody has two of a step. Beside each stands the time that Postgres takes for one bare UPDATE of
the same rows, and the seconds of processor time that plan and apply took, of Postgres and of ours.
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
from tests.bench.cpu_time import OURSELVES, cpu_seconds, used_between
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
publish: {{finished: reopen}}
steps:
  - {{id: hello, send: {{template: bench/mail}}}}
  - {{id: wait, wait: {{delay: {wait}}}}}
{middle}  - {{id: local, wait: {{calendar_days: 2, at: "09:30"}}}}
{added}  - {{id: last, send: {{template: bench/mail}}}}
{behind}"""
MIDDLE = "  - {id: nudge, send: {template: bench/mail}}\n  - {id: rest, wait: {delay: 9d}}\n"
ADDED = "  - {id: offer, send: {template: bench/mail}}\n  - {id: pause, wait: {delay: 1d}}\n"
BEHIND = "  - {id: after, wait: {delay: 1d}}\n  - {id: thanks, send: {template: bench/mail}}\n"


def file(wait: str, middle: str, added: str = "", behind: str = "") -> str:
    """The sequence, with these parts."""
    return FILE.format(wait=wait, middle=middle, added=added, behind=behind)


NUDGE = MIDDLE.splitlines(True)[0]
REOPENED = "steps are put behind the end"
EDITS = (
    ("a wait is made shorter", file("1d", MIDDLE)),
    ("a step is taken out", file("1d", NUDGE)),
    ("a step is added", file("1d", NUDGE, ADDED)),
    (REOPENED, file("1d", NUDGE, ADDED, BEHIND)),
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
COMPLETE = text("""
UPDATE enrollment e SET step_id = 'last', active = false, end_reason = 'completed', due_at = NULL,
    ended_at = clock_timestamp(), wait_rule = NULL
WHERE e.active AND NOT EXISTS (
    SELECT 1 FROM message m WHERE m.enrollment_id = e.id AND m.terminal_at IS NULL)
""")
BARE = text("UPDATE enrollment SET sequence_version = sequence_version")
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
            figures = measure(database, args.people, server.pid)
            database.close()
        finally:
            server.stop(immediate=True)
    if args.json:
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    return 0


def measure(database: Database, people: int, postgres: int) -> list[dict[str, Any]]:
    """Bring people in, edit four times, and return the figures of each edit.

    Raises:
        AssertionError: `apply` did something else than `plan` said.
    """
    bring_in(database, people)
    apply(database, file("3d", MIDDLE))
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
    figures, finished = [], 0
    processes = {"postgres": postgres}
    for name, source in EDITS:
        if name == REOPENED:
            with database.transaction() as connection:
                finished = connection.execute(COMPLETE).rowcount
        before, began = cpu_seconds(processes), time.perf_counter()
        with database.snapshot() as connection:
            said = preview(connection, reads(source, "bench.yaml"), {MAIL.name: MAIL}).effect
        counted = time.perf_counter() - began
        began = time.perf_counter()
        done = apply(database, source).effect
        applied = time.perf_counter() - began
        spent = used_between(before, cpu_seconds(processes))
        assert said is not None and done is not None
        # The clock went on between the two: who was about to be due may be due by then.
        assert abs(said.due_now - done.due_now) <= people / 1000 and said.moved == done.moved
        assert said.reopened == done.reopened == (finished if name == REOPENED else 0)
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
            f" {number(done.retimed)} retimed, {number(done.reopened)} reopened,"
            f" {number(done.due_now)} due now; plan {counted:.1f} s, apply {applied:.1f} s,"
            f" {applied / bare:.1f} times a bare UPDATE of the rows; processor of both:"
            f" {spent[OURSELVES]:.1f} s ours, {spent['postgres']:.1f} s Postgres"
        )
        told = {key: value for key, value in asdict(done).items() if key != "steps"}
        figures.append(
            {
                "edit": name,
                **told,
                "plan_s": counted,
                "apply_s": applied,
                "bare_s": bare,
                "cpu": spent,
            }
        )
    return figures


def apply(database: Database, source: str) -> Published:
    """Publish a version as `sequence apply --yes` does."""
    with database.transaction() as connection:
        loaded = reads(source, "bench.yaml")
        return publish(connection, loaded, source, {MAIL.name: MAIL}, yes=True)


if __name__ == "__main__":
    sys.exit(main())
