"""What a domain that answers slowly costs the others: one recipient in ten is at a tarpit.

    python -m tests.bench.tarpit [--mails 4000] [--rounds 3] [--seconds 5] [--connections 64] [--json]

Three windows a round, in turns on the same servers, through the shipped sink: nobody is slow; the
tarpit answers each dot after some seconds and every domain is limited to a few mails at once
(`dripfleet relay limit tarpit --connections 2`); the same tarpit without a limit. What is measured is
how many mails a second the *other* domains get, to the last of them, as a ratio to the window of the
same round in which nobody is slow. One send process without Celery, Postgres with fsync, Valkey.
Nothing is printed unless each of the others got one mail, and no mail was sent twice. Beside it, what a
limit that holds nobody up costs a mail of the send process, its share of Redis's answers included.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import redis
from pydantic import SecretStr
from sqlalchemy import TextClause, text

from models.migrate import migrate
from models.session import Database
from tasks.errors import DripfleetError, Permanent
from tasks.moves.settings import IdentitySettings
from tasks.send import limits
from tasks.send.buckets import PREFIX, Buckets
from tasks.send.entry import LAG, LONGEST_WAIT
from tasks.send.limits import Allowed, Limit
from tasks.send.mail import Mail, Ticket
from tasks.send.mx import Groups
from tasks.send.outcome import Accepted, Stage
from tasks.send.pace import Pace
from tasks.send.service import Service
from tasks.send.settings import SendSettings
from tasks.send.throttle import Tokens
from tasks.send.transport import Envelope, wire_body
from tasks.sequence.enroll import enroll_all
from tasks.sequence.store import Planner
from tests.bench import due_mails
from workers.cli.render import say
from workers.embedded.home import Home
from workers.embedded.ledger import read_ledger
from workers.embedded.sink import start_sink

TARPIT = "tarpit.test"
EACH = 10  # one recipient in so many is there
DOMAINS = 97  # of the others
AT_ONCE = 2
DOORBELLS = 4  # answered side by side, as the send pool does
PRICED = 100_000  # mails by which the price of a limit is found
SECRET = SecretStr("a secret of the benchmark")
PLAIN, LIMITED, BARE = "default", "tarpit", "bare"

MOVE = text("""
UPDATE subscriber SET address = 'c' || id
    || CASE WHEN id % :each = 0 THEN '@tarpit.test' ELSE '@d' || id % :domains || '.test' END
WHERE id BETWEEN :first AND :last
""")
# Of this window's mails those to the other domains.
OTHERS = text("""
SELECT count(*) AS n, max(m.terminal_at) AS last FROM message m
JOIN subscriber s ON s.id = m.subscriber_id
WHERE m.sequence_key = :key AND m.state = 'sent' AND s.address NOT LIKE '%@tarpit.test'
""")
UNDER_WAY = text("SELECT count(*) FROM message WHERE state IN ('working', 'armed')")
PUT_OFF = text("SELECT count(*) AS n, sum(takes) AS takes, sum(attempts) AS tries FROM message"
               " WHERE sequence_key = :key AND state = 'scheduled'")  # fmt: skip
# What the tarpit has not taken is none of the next window's business.
ASIDE = text("""
UPDATE message SET parked_from = run_at, run_at = 'infinity'
WHERE state = 'scheduled' AND run_at < 'infinity'
""")


class Bench:
    """The servers, the people, and a send process."""

    def __init__(self, args: argparse.Namespace, exits: ExitStack) -> None:
        self.mails: int = args.mails
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="dripfleet-")))
        home = exits.enter_context(Home(folder / "home"))
        self.database = Database(home.postgres().url, name="dripfleet-bench")
        exits.callback(self.database.close)
        migrate(self.database)
        client = self.client = exits.enter_context(redis.Redis.from_url(home.valkey().url))
        self.folder = folder
        self.spools = {PLAIN: folder / "fast", LIMITED: folder / "slow"}
        fault = f"dot:stall,seconds={args.seconds:g},rcpt=*@{TARPIT}"
        urls = {}
        for name, spool in self.spools.items():
            sink = start_sink(spool, faults=() if name == PLAIN else (fault,))
            exits.callback(sink.stop)
            urls[name] = sink.url
        self.spools[BARE] = self.spools[LIMITED]
        exits.enter_context(
            patch.dict(
                "os.environ",
                {
                    "DRIPFLEET_SMTP_URL_TARPIT": urls[LIMITED],
                    "DRIPFLEET_SMTP_URL_BARE": urls[LIMITED],
                },
            )
        )
        due_mails.bring_in(self.database, self.mails)
        for first in range(1, self.mails + 1, due_mails.BATCH):
            values = {"first": first, "last": first + due_mails.BATCH - 1}
            with self.database.transaction() as connection:
                connection.execute(MOVE, values | {"each": EACH, "domains": DOMAINS})
        with self.database.transaction() as connection:
            limits.set_limit(connection, LIMITED, "*", connections=AT_ONCE)
        self.planner = Planner(
            self.database, IdentitySettings(secret_message_id=SECRET), dt.timedelta(days=3)
        )
        self.service = Service(
            self.database,
            SendSettings(
                smtp_url=SecretStr(urls[PLAIN]), secret_token=SECRET, mx_lookups=False,
                journal_dir=folder / "journals", connections=args.connections,
            ),
            client,
        )  # fmt: skip
        exits.callback(self.service.loop.join, 60.0)
        self._windows = 0

    @property
    def others(self) -> int:
        """How many people are at other domains."""
        return self.mails - self.mails // EACH

    def window(self, relay: str) -> float:
        """Mails a second to the other domains, when one in ten is at the tarpit."""
        self._windows += 1
        key = f"tarpit-{self._windows}"
        due_mails.hold(self.database, relay)
        due_mails.publish_one_mail(self.database, key, self.folder)
        enroll_all(self.database, key)
        while self.planner.scan().enrollments:
            pass
        over = threading.Event()
        threads = [threading.Thread(target=self._answer, args=(over,)) for _ in range(DOORBELLS)]
        began = due_mails.let_go(self.database)
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 600
        while (row := self._one(OTHERS, key)).n < self.others:
            if time.monotonic() > deadline:
                raise Permanent(f"only {row.n} of {self.others} mails were sent in ten minutes")
            time.sleep(0.05)
        over.set()
        for thread in threads:
            thread.join()
        waits = self._one(PUT_OFF, key)
        with self.database.transaction() as connection:
            connection.execute(ASIDE)
        while self._count(UNDER_WAY):
            time.sleep(0.1)
        with self.database.transaction() as connection:
            connection.execute(ASIDE)
        if relay == LIMITED:
            say(f"{waits.n} mails to the tarpit wait, taken {waits.takes or 0} times in all")
        return self.others / float((row.last - began).total_seconds())

    def check(self) -> None:
        """Nobody had a mail twice."""
        for spool in set(self.spools.values()):
            seen = Counter(line.message_id for line in read_ledger(spool / "ledger.jsonl"))
            if twice := [name for name, n in seen.items() if n > 1]:
                raise Permanent(f"{len(twice)} mails came twice: no figure")

    def _answer(self, over: threading.Event) -> None:
        while not over.is_set():
            ticket = self.service.store.answer(due_mails.STREAM, 500)
            if ticket is None:
                over.wait(0.05)
            else:
                ticket.wait(LONGEST_WAIT, LAG)

    def _one(self, query: TextClause, key: str) -> Any:
        with self.database.transaction() as connection:
            return connection.execute(query, {"key": key}).one()

    def _count(self, query: TextClause) -> int:
        with self.database.transaction() as connection:
            n: int = connection.execute(query).scalar_one()
            return n


async def price(bench: Bench, mails: int) -> float:
    """Microseconds of processor of this process that a limit costs a mail, its share of Redis's answers included."""
    group = "price.test"
    bench.client.hset(f"{PREFIX}:price:{group}", mapping={"rate": 6e6, "calm": 6e6})
    put_off: list[Mail] = []
    pace = Pace(
        "price", Groups(),
        Tokens("price", bench.database, Buckets(bench.client, "price", "bench"), Groups()),
        domain_rest=60, away=30, ready=lambda mails: None,
        give_back=lambda mail, why, delay: put_off.append(mail),
    )  # fmt: skip
    running = asyncio.create_task(pace.run())
    body, envelope = wire_body(b"x\r\n"), Envelope("a@b.example", f"c@{group}")
    accepted, spent = Accepted(Stage.DOT), {}
    try:
        for limit in (None, Limit(group, per_minute=6e6)):
            pace.allow(Allowed({} if limit is None else {group: limit}))
            many = [
                Mail(n, 1, n, None, "marketing", f"c@{group}", b"", envelope, body, Ticket(1))
                for n in range(mails)
            ]
            began = time.process_time()
            for number, mail in enumerate(many):
                while not pace.takes(mail):
                    await asyncio.sleep(0.001)
                if mail.group:
                    pace.heard(mail, accepted)
                    pace.left(mail)
                if not number % 100:
                    await asyncio.sleep(0)
            spent[limit] = time.process_time() - began
    finally:
        running.cancel()
    (without, limited) = spent.values()
    return (limited - without) / mails * 1e6


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--mails", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of the tarpit, for each dot")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    found: dict[str, list[float]] = {PLAIN: [], LIMITED: [], BARE: []}
    try:
        with ExitStack() as exits:
            bench = Bench(args, exits)
            bench.window(PLAIN)  # warm
            for number in range(args.rounds):
                for relay, rates in found.items():
                    rates.append(bench.window(relay))
                    say(f"round {number + 1}, {relay}: {rates[-1]:,.0f} mails/s to the others")
            bench.check()
            micros = asyncio.run(price(bench, PRICED))
    except DripfleetError as fault:
        say(f"tarpit: {fault}")
        return 1
    figures: dict[str, Any] = {"limit_us_a_mail": round(micros, 2)}
    for relay in (LIMITED, BARE):
        ratios = [slow / fast for slow, fast in zip(found[relay], found[PLAIN], strict=True)]
        figures[relay] = [round(f(ratios), 3) for f in (median, min, max)]
    if not args.json:
        for relay, what in ((LIMITED, f"{AT_ONCE} at once"), (BARE, "without a limit")):
            middle, least, most = figures[relay]
            sys.stdout.write(
                f"tarpit, {what}: the others keep {middle:.2f} ({least:.2f}–{most:.2f})\n"
            )
        sys.stdout.write(f"a limit costs a mail {micros:.2f} µs of processor\n")
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
