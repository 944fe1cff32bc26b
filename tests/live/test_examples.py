"""Every example that a `--help` ends in is run, on servers of its own, and ends as it should."""

from __future__ import annotations

import datetime as dt
import glob
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
import redis
import typer.main
from sqlalchemy import text
from typer.core import TyperCommand, TyperGroup

from models.session import Database
from tasks.audience import api_key
from tasks.moves.settings import IdentitySettings
from tasks.send.service import Service
from tasks.send.settings import SendSettings
from tasks.sequence.store import Planner
from workers.cli import app, main
from workers.embedded.faults import Faults
from workers.embedded.launch import free_port
from workers.embedded.sink import in_thread
from workers.embedded.stack import Stack

# Some eighty processes that each import what their command needs.
pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
PEOPLE = "email,external_id,first_name,topic:product-news,orders:int\n" + "".join(
    f"{who}@example.com,{id_},Zoë,yes,3\n"
    for who, id_ in (("zoe", "crm-4711"), ("f1", ""), ("f2", ""), ("d1", ""), ("d2", ""))
)
ORDERS = "email,name,occurred_at,source_id\nzoe@example.com,purchase,2026-01-02,{}\n"
SOURCE = """
key: {key}
title: One mail
class: marketing
topic: product-news
entry: {{manual: true}}
steps:
  - {{id: offer, send: {{template: mine/offer}}}}
"""
EXPERIMENT = """
  - id: split
    experiment: {arms: {plain: 50, offer: 50}, metric: goal}
    paths: {plain: nudge, offer: end}
"""
CRON = """
schedules:
  - key: monday-news
    cron: "0 9 * * MON"
    zone: Europe/Berlin
    target: {sequence: win-back, segment: "sub.orders >= 2"}
"""

# What the others stand on, in this order; and what leaves nothing behind.
FIRST = (
    "migrate",
    "subscribers import people.csv",
    "sequence apply schedules/sequences/thank-you.yaml schedules/sequences/win-back.yaml --create-topics",
    "enqueue win-back --emails people.txt",
    "schedules apply schedules/cron.yaml",
    "segment apply schedules/segments/*.yaml",
)
LAST = (
    "subscribers stop zoe@example.com --reason unsubscribe",
    "subscribers erase zoe@example.com --yes",
    "migrate --to base --yes",
)


def examples(group: TyperGroup) -> Iterator[str]:
    for command in group.commands.values():
        if isinstance(command, TyperGroup):
            yield from examples(command)
        elif isinstance(command, TyperCommand):
            found = re.findall(r"dripfleet ([^·|\n]+)", command.epilog or "")
            yield from (example.strip() for example in found)


ALL = tuple(examples(typer.main.get_group(app)))


@dataclass(frozen=True)
class Lasting:
    """A process that runs until it is told to end.

    Attributes:
        says: by which line of its output one sees that it does its work; "": by `done`.
        bounded: added to it, so that it is over soon.
        ends: the signal that ends it; None: it ends by itself.
    """

    says: str = ""
    bounded: tuple[str, ...] = ()
    ends: signal.Signals | None = signal.SIGTERM


ANSWERS = "the fleet answers"
ALONE = ("--no-beat", "--no-flower", "--no-edge")
LASTING: dict[str, Lasting] = {
    # The whole fleet is the demo's; of the others a process or two.
    "up": Lasting(ANSWERS, ("--only", "upkeep", *ALONE[::2]), signal.SIGINT),
    "up --only send --only upkeep": Lasting(ANSWERS, ALONE, signal.SIGINT),
    "up --no-flower": Lasting(ANSWERS, ("--only", "upkeep", *ALONE[::2]), signal.SIGINT),
    "up --autoscale send=1:3": Lasting(ANSWERS, ("--only", "send", *ALONE), signal.SIGINT),
    "up --region eu --autoscale send@eu=1:3": Lasting(
        ANSWERS, ("--only", "upkeep", *ALONE), signal.SIGINT
    ),
    "worker send": Lasting(" ready."),
    "worker send --region eu": Lasting("send-eu@"),
    "worker churn --concurrency 1": Lasting(" ready."),
    "beat": Lasting(),
    "flower": Lasting("flower_serves"),
    "api": Lasting("edge_serves"),
    "inbound lmtp --listen 127.0.0.1:8024": Lasting("takes bounces by LMTP"),
    "metrics": Lasting("metrics of the fleet"),
    "metrics --address 0.0.0.0 --port 9549": Lasting("metrics of the fleet"),
    "model-server --port 8000": Lasting("no language model"),
    "model-server --latency 2 --fail 429:0.1,500:0.05 --garbage 0.1": Lasting(
        "no language model", ("--port", "0")
    ),
    "status --watch": Lasting('"enrolled"', ends=signal.SIGINT),
    # Without a terminal it does not stay up.
    "demo --customers 2000 --exit": Lasting("clean: ", ("--customers", "5"), None),
}
# Minutes each on servers of their own, or work on models, runs, ledgers and dumps that must be there
# first: what they do is done by tests/chaos/test_catalogue.py, and in this folder by test_churn.py,
# test_quantum_cli.py, test_evidence.py, test_inbound.py, test_quarantine.py and test_webhooks.py; of the
# DNS by tests/unit/test_doctor_dns.py.
ELSEWHERE = frozenset(
    example
    for example in ALL
    if re.match(
        "chaos .*--minutes|churn (?!features)|quantum (segment|solve)|doubt evidence|quarantine --"
        "|doctor dns|inbound read|webhooks test",
        example,
    )
)
TOGETHER = tuple(example for example in LASTING if not example.startswith("demo"))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Servers, and a folder with the files that the examples name; both for all of them."""
    folder = tmp_path_factory.mktemp("x")
    plain = {k: v for k, v in os.environ.items() if not k.startswith("DRIPFLEET_")}
    ports = {
        "DRIPFLEET_FLOWER_PORT": str(free_port(0)),
        "DRIPFLEET_EDGE_PORT": str(free_port(0)),
        "DRIPFLEET_METRICS_FLEET_PORT": str(free_port(0)),
    }
    with Stack(environ={**plain, **ports, "DRIPFLEET_HOME": str(folder / "var")}) as stack:
        yield stack


@pytest.fixture(scope="module")
def place(stack: Stack) -> Path:
    """A folder with every file that an example names."""
    folder = stack.home.root.parent
    (folder / "people.csv").write_text(PEOPLE)
    (folder / "people.txt").write_text("zoe@example.com\nf1@example.com\nf2@example.com\n")
    for name in ("orders", "purchases", "sample"):
        (folder / f"{name}.csv").write_text(ORDERS.format(name))
    (folder / "graph.csv").write_text("source,target,weight\na,b,1\nb,c,2\nc,a,1\nc,d,3\n")
    (folder / "customers.csv").write_text(
        "email,recency,orders\n"
        + "".join(f"c{n}@example.com,{n % 4 * 9 + n % 3},{n % 4 * 5 + n % 2}\n" for n in range(24))
    )
    for name in ("new", "winback"):
        (folder / f"{name}.yaml").write_text(SOURCE.format(key=name))
    for kind in ("sequences", "segments"):
        shutil.copytree(ROOT / "schedules" / kind, folder / "schedules" / kind)
    divided = folder / "schedules/sequences/win-back.yaml"
    divided.write_text(
        divided.read_text().replace("  - {id: nudge, send", EXPERIMENT + "  - {id: nudge, send")
    )
    shutil.copy(ROOT / "schedules/segments/lapsed.yaml", folder)
    (folder / "clicks.ndjson").write_text(
        '{"email": "zoe@example.com", "name": "click", "occurred_at": "2026-01-02", "source_id": 1}'
    )
    (folder / "schedules/cron.yaml").write_text(CRON)
    mail = folder / "templates/mine/offer"
    mail.mkdir(parents=True)
    (mail / "subject.txt").write_text("An offer\n")
    (mail / "body.txt").write_text("For you.\n")
    (folder / "brief.txt").write_text("New records for the autumn are here. Come and listen.")
    (folder / "theirs.eml").write_text("Subject: An offer\n\nIt ends today.\n")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table({"email": ["zoe@example.com"], "orders": [3]})
    parquet.write_table(table, folder / "people.parquet")
    event = {"name": "purchase", "occurred_at": "2026-01-02", "source_id": "p"}
    table = pytest.importorskip("pyarrow").table(
        {name: [value] for name, value in {"email": "zoe@example.com", **event}.items()}
    )
    parquet.write_table(table, folder / "purchases.parquet")
    return folder


@dataclass
class Operator:
    """Runs command lines in this process, as if typed in `place`."""

    place: Path
    ids: dict[str, str]

    def types(self, example: str) -> None:
        words = [word for each in shlex.split(self.real(example)) for word in self.expanded(each)]
        given = io.TextIOWrapper(io.BytesIO(PEOPLE.encode()))
        said, told = io.StringIO(), io.StringIO()
        with (
            patch.object(sys, "stdin", given),
            patch.object(sys, "stdout", said),
            patch.object(sys, "stderr", told),
        ):
            code = main(words)
        assert code == 0, f"$ dripfleet {example}\nexit {code}\n{said.getvalue()}{told.getvalue()}"
        assert "Traceback" not in told.getvalue(), example

    def real(self, example: str) -> str:
        """With ids that there are, in place of those that stand for them."""
        kind = "doubt" if example.startswith("doubt") else "failed"
        for written, name in (("4711", f"{kind} 1"), ("4712", f"{kind} 2")):
            example = re.sub(rf"(?<![-\d]){written}\b", self.ids.get(name, written), example)
        if "1f3a5b7c" in example:
            example = example.replace("1f3a5b7c", a_key())
        return example.replace("<4nq…@example.com>", self.ids.get("message id", ""))

    def expanded(self, word: str) -> list[str]:
        return sorted(glob.glob(word)) if "*" in word and "/" in word else [word]


def a_key() -> str:
    """The id of a key that is good: each example that ends one needs one of its own."""
    database = Database(os.environ["DRIPFLEET_DATABASE_URL"])
    with database.transaction() as connection:
        made = api_key.create(connection, "an example", ["events"])
    database.close()
    return made.split("_")[1]


def mails_that_failed_and_doubt(stack: Stack) -> dict[str, str]:
    """Send to those who were enrolled, through a relay that refuses some and drops others."""
    folder = stack.home.root / "sink"
    faults = Faults.parse(["rcpt:554,rcpt=f*", "dot:drop,rcpt=d*"])
    database = Database(stack.database_url)
    with in_thread(folder, faults=faults) as sink, database.transaction() as connection:
        connection.execute(text("UPDATE stream SET doubt_policy = 'hold'"))
        connection.commit()
        planner = Planner(database, IdentitySettings(), dt.timedelta(days=3))
        while planner.scan().enrollments:
            pass
        # Nobody asks for words here, so nobody waits for them.
        with database.transaction() as another:
            another.execute(
                text(
                    "UPDATE enrollment SET due_at = clock_timestamp()"
                    " WHERE wait_rule ->> 'by' = 'words' AND active"
                )
            )
        while planner.scan().enrollments:
            pass
        with patch.dict(os.environ, {"DRIPFLEET_SMTP_URL": sink.url}):
            service = Service(database, SendSettings())
        while (ticket := service.store.answer("marketing", 500)) is not None:
            ticket.wait(20)
        assert service.loop.join(10)
    with database.transaction() as connection:
        rows = connection.execute(
            text("SELECT id, state::text AS state, rfc_message_id FROM message ORDER BY id")
        ).all()
    database.close()
    of = {
        state: [row for row in rows if row.state == state]
        for state in ("failed", "in_doubt", "sent")
    }
    return {
        **{f"failed {n}": str(row.id) for n, row in enumerate(of["failed"], 1)},
        **{f"doubt {n}": str(row.id) for n, row in enumerate(of["in_doubt"], 1)},
        "message id": of["sent"][0].rfc_message_id,
    }


def test_every_example_that_ends_by_itself_ends_well(
    stack: Stack, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stray in set(FIRST + LAST) | set(LASTING):
        assert stray in ALL, f"{stray!r} is no example any more"
    monkeypatch.chdir(place)
    with patch.dict(os.environ, stack.environment()):
        operator = Operator(place, {})
        for example in FIRST:
            operator.types(example)
        (place / "people.txt").write_text("d1@example.com\nd2@example.com\n")
        operator.types(FIRST[3])
        operator.ids |= mails_that_failed_and_doubt(stack)
        apart = {*LASTING, *ELSEWHERE, *FIRST, *LAST}
        rest = [each for each in ALL if each not in apart]
        for example in (*rest, *LAST):
            operator.types(example)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """A shell that started this in its background ignores SIGINT, and children would inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_every_example_that_runs_until_it_is_told_ends_well(stack: Stack, place: Path) -> None:
    assert subprocess.run(
        [sys.executable, "-P", "-m", "workers", "migrate"], env=stack.environment(), check=True
    )
    with ThreadPoolExecutor(3) as several:
        list(several.map(lambda example: lasts(stack, place, example), TOGETHER))
    for example in LASTING:
        if example not in TOGETHER:
            lasts(stack, place, example)


def lasts(stack: Stack, place: Path, example: str) -> None:
    """Start it, wait until it does its work, end it, and look at its exit code."""
    how = LASTING[example]
    port = str(free_port(0))
    words = shlex.split(example.replace("9549", port).replace("8000", "0"))
    log = place / f"{example.replace('/', '_')}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "workers", *words, *how.bounded],
            cwd=place,
            env=stack.environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
        try:
            until(lambda: at_work(stack, how, log), process, log, how)
            if how.ends is not None:
                process.send_signal(how.ends)
            code = process.wait(60)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    assert code == 0, f"$ dripfleet {example}\nexit {code}\n{log.read_text()[-2000:]}"
    assert "Traceback" not in log.read_text()


def at_work(stack: Stack, how: Lasting, log: Path) -> bool:
    if how.says:
        return how.says in log.read_text()
    with redis.Redis.from_url(stack.redis_url) as client:  # beat, by what it rings
        return bool(client.llen("sequence"))


def until(
    met: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, how: Lasting
) -> None:
    deadline = time.monotonic() + 90
    while not met():
        ended = process.poll() is not None and how.ends is not None
        assert not ended and time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.05)


def test_no_example_is_left_out() -> None:
    names: Sequence[str] = [each for each in ALL if each in LASTING]
    assert set(names) == set(LASTING) and len(ALL) > 60
