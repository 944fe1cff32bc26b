"""One fleet of processes for many tests, the operator at its command line, and what is seen of it."""

from __future__ import annotations

import datetime as dt
import io
import itertools
import json
import os
import shlex
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from models.session import Database
from tests.live.processes import until
from workers.chaos.points import Points
from workers.cli import main
from workers.embedded.ledger import LEDGER, read_ledger
from workers.embedded.stack import Stack
from workers.supervisor import Fleet

STAND = """
SELECT sequence_key, step_id, count(*), min(due_at)::text, min(step_started_at)::text FROM enrollment
WHERE active GROUP BY 1, 2 UNION ALL
SELECT sequence_key, state::text, count(*), min(run_at)::text, min(created_at)::text FROM message
WHERE terminal_at IS NULL GROUP BY 1, 2 UNION ALL
SELECT sequence_key, 'asks', count(*), min(look_at)::text, min(why) FROM entry_request GROUP BY 1 UNION ALL
SELECT name, 'news', count(*), '', '' FROM event_news GROUP BY 1
"""
POOLS = ("sequence", "send", "upkeep")
SOON = 60.0  # seconds; at rest everything here takes one or two


@dataclass(frozen=True)
class Said:
    """What a command said: its data, read from JSON, and its talk."""

    data: Any
    talk: str


@dataclass
class Standing:
    """A fleet that runs, and a folder in which its operator types.

    `points` makes a process of it die where it stands; people are known by the local part of their
    address.
    """

    fleet: Fleet
    database: Database
    folder: Path
    points: Points
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def types(self, line: str, *, code: int = 0) -> Said:
        """Run a command line of `dripfleet` in this process; it has to end with `code`."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            ended = main(shlex.split(line))
        assert ended == code, f"$ dripfleet {line}\nexit {ended}\n{out.getvalue()}{err.getvalue()}"
        said = out.getvalue()
        return Said(json.loads(said) if said else None, err.getvalue())

    def file(self, name: str, content: str) -> str:
        """Write a file into the folder; returns its path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return str(path)

    def apply(self, *files: str, code: int = 0, more: str = "") -> Said:
        """`sequence apply`, with the templates of the folder."""
        templates = self.folder / "templates"
        return self.types(
            f"sequence apply {' '.join(files)} --templates {templates} {more}", code=code
        )

    def people(self, columns: str, *rows: str) -> None:
        """Import people: `columns` behind the address, a row each that begins with the local part."""
        lines = [f"email,{columns}"]
        for row in rows:
            who, _, rest = row.partition(",")
            lines.append(f"{who}@example.com,{rest}")
        path = self.file(f"people-{next(self._numbers)}.csv", "\n".join(lines) + "\n")
        self.types(f"subscribers import {path}")

    def enqueue(self, key: str, *who: str, code: int = 0) -> Said:
        """`enqueue` of a list."""
        path = self.file("list.txt", "".join(f"{each}@example.com\n" for each in who))
        return self.types(f"enqueue {key} --emails {path}", code=code)

    def tell(self, name: str, *who: str, at: dt.datetime | None = None, **properties: Any) -> None:
        """`events import` of one event of each, by default of this moment.

        In a property that is text, `{who}` stands for them.
        """
        when = (at or dt.datetime.now(dt.UTC)).isoformat()
        lines = []
        for each in who:
            event = {"email": f"{each}@example.com", "name": name, "occurred_at": when}
            own = {
                name: value.format(who=each) if isinstance(value, str) else value
                for name, value in properties.items()
            }
            lines.append(json.dumps(event | {"source_id": next(self._numbers)} | own))
        path = self.file("events.ndjson", "\n".join(lines) + "\n")
        self.types(f"events import {path} --source test")

    def rows(self, sql: str, **values: Any) -> list[Any]:
        with self.database.transaction() as connection:
            done = connection.execute(text(sql), values)
            return list(done) if done.returns_rows else []

    def ids(self, *who: str) -> list[int]:
        """Their ids, in this order."""
        found = {
            row.address.partition("@")[0]: row.id
            for row in self.rows("SELECT id, address FROM subscriber")
        }
        return [found[each] for each in who]

    def mails(self, key: str, who: str) -> list[tuple[str, str, str | None]]:
        """Step, state and reason of each message that somebody has of a sequence, the oldest first."""
        rows = self.rows(
            "SELECT m.step_id, m.state::text, m.reason FROM message m"
            " JOIN subscriber s ON s.id = m.subscriber_id"
            " WHERE m.sequence_key = :key AND s.address = :address ORDER BY m.id",
            key=key,
            address=f"{who}@example.com",
        )
        return [tuple(row) for row in rows]

    def stands(self, key: str, who: str) -> Any:
        """The row of somebody's latest entry, an endless due time as None; None: never entered."""
        rows = self.rows(
            "SELECT e.step_id, e.step_started_at, NULLIF(e.due_at, 'infinity') AS due_at,"
            " e.parked_from, e.wait_rule, e.active, e.end_reason, e.entry_no FROM enrollment e"
            " JOIN subscriber s ON s.id = e.subscriber_id"
            " WHERE e.sequence_key = :key AND s.address = :address ORDER BY e.id DESC LIMIT 1",
            key=key,
            address=f"{who}@example.com",
        )
        return rows[0] if rows else None

    def decided(self, key: str, who: str, *kinds: str) -> list[Any]:
        """Lines of the decision log of these kinds, the oldest first."""
        return self.rows(
            "SELECT d.kind, d.step_id, d.reason, d.detail, d.at FROM decision d"
            " JOIN subscriber s ON s.id = d.subscriber_id WHERE d.sequence_key = :key"
            " AND s.address = :address AND d.kind = ANY(:kinds) ORDER BY d.id",
            key=key,
            address=f"{who}@example.com",
            kinds=list(kinds),
        )

    def arrived(self) -> Counter[str]:
        """Mails at the sink by local part."""
        path = self.fleet.stack.home.mail / LEDGER
        return (
            Counter(line.rcpt.partition("@")[0] for line in read_ledger(path))
            if path.exists()
            else Counter()
        )

    def until(self, met: Callable[[], bool], what: str) -> None:
        """Wait for a condition, with the supervisor at work; else the failure says where all stand."""
        try:
            until(met, what, self.fleet, SOON)
        except AssertionError as late:
            for row in self.rows(STAND):
                late.add_note(str(tuple(row)))
            for log in sorted(self.fleet.stack.home.logs.glob("*.log")):
                late.add_note(f"{log.name}: {log.read_text()[-600:]}")
            raise

    def until_at(self, step: str, key: str, *who: str) -> None:
        """Wait until each of them has begun to wait at a step."""

        def there() -> bool:
            rows = [self.stands(key, each) for each in who]
            return all(
                row is not None
                and row.active
                and row.step_id == step
                and row.step_started_at is not None
                for row in rows
            )

        self.until(there, f"{', '.join(who)} at {step} of {key}")

    def until_ended(self, key: str, *who: str) -> list[str]:
        """Wait until each has left; the reasons."""

        def ended() -> bool:
            rows = [self.stands(key, each) for each in who]
            return all(row is not None and not row.active for row in rows)

        self.until(ended, f"the end of {', '.join(who)} in {key}")
        return [self.stands(key, each).end_reason for each in who]


@contextmanager
def standing(
    folder: Path,
    sequences: Mapping[str, str],
    templates: Iterable[str],
    **variables: str,
) -> Iterator[Standing]:
    """A fleet with ticks much closer than an operator's, and these sequences.

    Args:
        folder: for the files of the operator, and the home of the fleet.
        sequences: key → source; all applied in one command while the pools come up.
        templates: names of mails, all of them alike.
        variables: settings without `DRIPFLEET_`; its servers among them, but the relay.
    """
    ticks = {
        "SCAN_EVERY": "0.2",
        "DISPATCH_EVERY": "0.2",
        "REAP_EVERY": "0.5",
        "RESOLVE_EVERY": "1",
    }
    # No words are asked for, so no server for them is started.
    own = {"HOME": str(folder / "home"), "MODEL_URL": "http://127.0.0.1:9/v1", **ticks, **variables}
    plain = {k: v for k, v in os.environ.items() if not k.startswith("DRIPFLEET_")}
    environ = plain | {f"DRIPFLEET_{name}": value for name, value in own.items()}
    points = Points(folder / "points")
    program = ("-m", "workers.chaos.process", str(points.folder))
    with Stack(environ=environ) as stack, pytest.MonkeyPatch.context() as patch:
        for name, value in stack.environment().items():
            patch.setenv(name, value)
        fleet = Fleet(stack, pools=POOLS, flower=False, program=program)
        database = Database(stack.database_url)
        house = Standing(fleet, database, folder, points)
        try:
            fleet.start()
            for name in templates:
                house.file(f"templates/{name}/subject.txt", "Hello\n")
                house.file(f"templates/{name}/body.txt", "Good day.\n")
            files = [house.file(f"{key}.yaml", source) for key, source in sequences.items()]
            house.apply(*files, more="--create-topics")
            fleet.wait_ready(60)
            yield house
        finally:
            for pid in fleet.pids().values():  # nobody asks for what is in hand
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            fleet.hurry()
            fleet.stop()
            database.close()
