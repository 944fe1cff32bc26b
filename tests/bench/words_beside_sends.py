"""Whether a model that is fast, slow or dead is felt by the send pool: the same mails beside each.

    python -m tests.bench.words_beside_sends [--mails 1000] [--rounds 3] [--json]

One Postgres and one sink. In each round the send pool sends the same number of personalized mails five
times: with nobody writing, twice, and while another process writes as many texts by the server that
ships (a process too), by one that takes two seconds for each, and by one that is not there. The
figure is a ratio to the round's first kind, so that what the neighbours of a machine take falls on all
alike; how far the second time that nobody writes is from the first one is the noise. Beside it stands
the processor time that the sending process (the sink is in it) took for a mail, which neighbours
change little, the texts that were made a second meanwhile, and the share of one core that they took, with
their part of Postgres and the model's server. While mails wait, words yield to them: `--share 1` shows
what it was like if they did not. Prints a table and a line of JSON; three to five minutes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median
from typing import Any, Final

from sqlalchemy import text

from models.migrate import migrate
from models.session import Database
from schedules.loader import loads
from schedules.prompt_file import loads_prompt
from tasks.personalize.client import Client
from tasks.personalize.settings import ModelSettings
from tasks.personalize.work import Writer
from tasks.send.render import Bundle
from tasks.sequence.prompts import publish_prompts
from tasks.sequence.words import Asker
from tests.bench.cpu_time import cpu_seconds, used_between
from tests.live import seeds
from tests.live.fleet import Fleet
from workers.cli.render import say
from workers.embedded import launch
from workers.embedded.model_process import start_model
from workers.embedded.postgres import EmbeddedPostgres
from workers.embedded.sink import in_thread as sink_in_thread

PROMPT: Final = """
task: Write a friendly line for a customer whom we have not seen for a while.
language: en
fields: {number: {from: sub.number, text: 20}}
slots: {subject: {max: 60}}
variants: [{subject: We have not seen you for a while}]
"""
SOURCE: Final = """
key: KEY
title: Bench
class: marketing
topic: news
entry: {manual: true}
steps:
  - {id: mail, send: {template: bench/words, personalize: {prompt: bench/words, lead: 1d}}}
"""
MAIL: Final = Bundle(
    "bench/words",
    {"subject.txt": "{{ words.subject | default('Our own') }}", "body.txt": "Hello."},
)
DEAD: Final = "http://127.0.0.1:9/v1"
ALONE: Final = "nobody writes"
WRITER: Final = "bench-words"
BACKENDS = text("SELECT pid FROM pg_stat_activity WHERE application_name = :name")


def write(database_url: str, url: str, share: float, ready: Event) -> None:
    """Write texts until the process is ended; `ready` once it has what it imports."""
    database = Database(database_url, name=WRITER)
    settings = ModelSettings(url=url, yield_share=share)
    writer = Writer(database, settings, Client(settings))
    with database.transaction() as connection:
        connection.execute(text("SELECT 1"))
    ready.set()
    while True:
        writer.work()
        time.sleep(0.05)


def prepare(fleet: Fleet, key: str, ids: list[int], wanted: bool) -> None:
    """Mails of one sequence that are handed over, and texts of another that nobody wrote yet."""
    source = SOURCE.replace("KEY", key)
    seeds.sequence(fleet.database, source, {MAIL.name: MAIL})
    with fleet.database.transaction() as connection:
        prompt = loads_prompt(PROMPT, MAIL.name, "bench.yaml")
        publish_prompts(connection, loads(source, "bench.yaml"), {MAIL.name: prompt})
    seeds.enroll(fleet.database, key, ids)
    fleet.scan()  # everybody is moved by a lead
    if wanted:
        asker = Asker(fleet.database, "variants")
        while asker.ask():
            pass
        return
    with fleet.database.transaction() as connection:
        connection.execute(
            text("UPDATE enrollment SET due_at = clock_timestamp() WHERE sequence_key = :key"),
            {"key": key},
        )
    fleet.scan()


@dataclass(frozen=True, slots=True)
class Server:
    """A model's server; `pid` None: it is not there."""

    url: str
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """What was measured while mails went.

    Attributes:
        rate: mails a second.
        cpu: µs of the sending process a mail.
        texts: a second, that another process wrote.
        core: share of one core that the texts took: their process, its backends, the model's server.
    """

    rate: float
    cpu: float
    texts: float = 0.0
    core: float = 0.0


def measure(fleet: Fleet, server: Server | None, database_url: str, share: float) -> Run:
    """Send what is due, while another process writes texts."""
    child = None
    if server is not None:
        context = multiprocessing.get_context("spawn")
        ready = context.Event()
        args = (database_url, server.url, share, ready)
        child = context.Process(target=write, args=args, daemon=True)
        child.start()
        ready.wait(60)
        time.sleep(3)  # what a first call sets up is no part of the figure
    roots = writing(fleet, child.pid, server) if child and child.pid and server else {}
    before, used = texts(fleet), cpu_seconds(roots)
    began, cpu = time.perf_counter(), time.process_time()
    counts = fleet.send()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    took = used_between(used, cpu_seconds(roots))
    made = texts(fleet) - before
    if child is not None:
        child.kill()
        child.join()
    sent = counts.get("sent", 0)
    core = sum(took[name] for name in roots) / seconds
    return Run(sent / seconds, 1e6 * cpu / sent, made / seconds, core)


def texts(fleet: Fleet) -> int:
    """How many texts are made."""
    return int(fleet.one("SELECT count(*) FROM wording WHERE state = 'ready'")[0])


def writing(fleet: Fleet, pid: int, server: Server) -> dict[str, int]:
    """The processes that texts are made by."""
    with fleet.database.transaction() as connection:
        backends = connection.execute(BACKENDS, {"name": WRITER}).scalars().all()
    model = {"model": server.pid} if server.pid is not None else {}
    return {"writer": pid, **model, **{f"backend {each}": each for each in backends}}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--mails", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.1, help="DRIPFLEET_MODEL_YIELD_SHARE")
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="df") as folder:
        fast = start_model(Path(folder) / "fast")
        slow = start_model(Path(folder) / "slow", latency=2.0)
        server = EmbeddedPostgres.start(Path(folder) / "pg")
        try:
            variants = {
                ALONE: None, "nobody, again": None, "fast": Server(fast.url, fast.pid),
                "slow": Server(slow.url, slow.pid), "dead": Server(DEAD),
            }  # fmt: skip
            rates = rounds(Path(folder), server.url, variants, args.mails, args.rounds, args.share)
        finally:
            server.stop(immediate=True)
            launch.end(fast, immediate=True)
            launch.end(slow, immediate=True)
    figures = compared(rates)
    if not args.json:
        sys.stdout.write(
            "model | mails/s, median (range) | ratio, median (range) | CPU µs a mail, median (range)"
            " | texts/s | of a core for them\n"
        )
        for name, row in figures.items():
            sys.stdout.write(
                f"{name} | {row['rate']:,.0f} ({row['slowest']:,.0f}–{row['fastest']:,.0f})"
                f" | {row['ratio']:.2f} ({row['least']:.2f}–{row['most']:.2f})"
                f" | {row['cpu']:,} ({row['cpu_least']:,}–{row['cpu_most']:,}) | {row['texts']:,.1f} | {row['core']:.2f}\n"
            )
    sys.stdout.write(json.dumps({"mails": args.mails, "rounds": args.rounds, **figures}) + "\n")
    return 0


def rounds(
    folder: Path,
    database_url: str,
    variants: dict[str, Server | None],
    mails: int,
    n: int,
    share: float,
) -> dict[str, list[Run]]:
    """What was measured of each variant, once a round."""
    rates: dict[str, list[Run]] = {name: [] for name in variants}
    database = Database(database_url)
    migrate(database)
    database.engine.dispose()  # what it sets for the role holds for new connections
    with sink_in_thread(folder / "sink") as sink:
        fleet = Fleet(database, sink, folder)
        ids = seeds.subscribers(database, mails)
        with database.transaction() as connection:
            connection.execute(
                text(
                    "UPDATE subscriber SET attributes = jsonb_build_object('number',"
                    " translate(CAST(id AS text), '0123456789', 'abcdefghij'))"
                )
            )
        prepare(fleet, "warm", ids, False)
        fleet.send()
        for number in range(n):
            # Another one first each time: tables grow, and machines have moods.
            order = [*variants]
            turned = order[number % len(order) :] + order[: number % len(order)]
            for at, name in enumerate(turned):
                place = f"{number}-{at}"
                server = variants[name]
                if server is not None:
                    with database.transaction() as connection:
                        # What the variant before had written is wanted anew.
                        connection.execute(text("DELETE FROM asked"))
                        connection.execute(text("DELETE FROM wording"))
                        connection.execute(text("DELETE FROM model_circuit"))
                    prepare(fleet, f"texts-{place}", ids, True)
                prepare(fleet, f"mails-{place}", ids, False)
                rates[name].append(measure(fleet, server, database_url, share))
                run = rates[name][-1]
                say(
                    f"round {number + 1}, {name}: {run.rate:,.0f} mails/s, {run.cpu:,.0f} µs a mail,"
                    f" {run.texts:,.1f} texts/s by {run.core:.2f} of a core"
                )
        fleet.service.loop.join(10)
    database.close()
    return rates


def compared(rates: dict[str, list[Run]]) -> dict[str, dict[str, Any]]:
    """Rates, and their ratios to those of the same round in which nobody wrote."""
    found = {}
    for name, runs in rates.items():
        each = [run.rate for run in runs]
        ratios = [run.rate / alone.rate for run, alone in zip(runs, rates[ALONE], strict=True)]
        cpu = [run.cpu for run in runs]
        found[name] = {
            "rate": round(median(each), 1), "slowest": round(min(each), 1),
            "fastest": round(max(each), 1), "ratio": round(median(ratios), 3),
            "least": round(min(ratios), 3), "most": round(max(ratios), 3),
            "texts": round(median(run.texts for run in runs), 1),
            "core": round(median(run.core for run in runs), 3),
            "cpu": round(median(cpu)), "cpu_least": round(min(cpu)), "cpu_most": round(max(cpu)),
        }  # fmt: skip
    return found


if __name__ == "__main__":
    sys.exit(main())
