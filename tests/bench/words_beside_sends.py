"""Whether a model that is fast, slow or dead is felt by the send pool: the same mails beside each.

    python -m tests.bench.words_beside_sends [--mails 2000] [--rounds 3] [--json]

One Postgres and one sink. In each round the send pool sends the same number of personalized mails four
times: with nobody writing, and while another process writes as many texts by the server that ships, by
one that takes two seconds for each, and by one that is not there. The figure is a ratio to the
round's first kind, so that what the neighbours of a machine take falls on all alike.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

from sqlalchemy import text

from models.migrate import migrate
from models.session import Database
from schedules.loader import loads
from schedules.prompt_file import loads_prompt
from tasks.personalize.settings import ModelSettings
from tasks.personalize.work import Writer
from tasks.send.render import Bundle
from tasks.sequence.prompts import publish_prompts
from tasks.sequence.words import Asker
from tests.live import seeds
from tests.live.fleet import Fleet
from workers.cli.render import say
from workers.embedded.model_server import Manners, in_thread
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


def write(database_url: str, url: str) -> None:
    """Write texts until the process is ended."""
    database = Database(database_url, name="bench-words")
    writer = Writer(database, ModelSettings(url=url))
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


def measure(fleet: Fleet, url: str | None, database_url: str) -> float:
    """Mails a second of what is due, while another process writes."""
    child = None
    if url is not None:
        context = multiprocessing.get_context("spawn")
        child = context.Process(target=write, args=(database_url, url), daemon=True)
        child.start()
        time.sleep(4)  # its imports are no part of the figure
    began = time.perf_counter()
    counts = fleet.send()
    seconds = time.perf_counter() - began
    if child is not None:
        child.kill()
        child.join()
    return counts.get("sent", 0) / seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--mails", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    rates: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="df") as folder,
        in_thread(Manners()) as fast,
        in_thread(Manners(latency=2.0)) as slow,
    ):
        variants = {"nobody writes": None, "fast": fast.url, "slow": slow.url, "dead": DEAD}
        server = EmbeddedPostgres.start(Path(folder) / "pg")
        try:
            database = Database(server.url)
            migrate(database)
            with sink_in_thread(Path(folder) / "sink") as sink:
                fleet = Fleet(database, sink, Path(folder))
                ids = seeds.subscribers(database, args.mails)
                with database.transaction() as connection:
                    connection.execute(
                        text(
                            "UPDATE subscriber SET attributes = jsonb_build_object('number',"
                            " translate(CAST(id AS text), '0123456789', 'abcdefghij'))"
                        )
                    )
                prepare(fleet, "warm", ids, False)
                fleet.send()
                for number in range(args.rounds):
                    # Another one first each time: tables grow, and machines have moods.
                    turned = [*variants.items()][number % 4 :] + [*variants.items()][: number % 4]
                    for at, (name, url) in enumerate(turned):
                        place = f"{number}-{at}"
                        if url is not None:
                            with database.transaction() as connection:
                                # What the variant before had written is wanted anew.
                                connection.execute(text("DELETE FROM asked"))
                                connection.execute(text("DELETE FROM wording"))
                                connection.execute(text("DELETE FROM model_circuit"))
                            prepare(fleet, f"texts-{place}", ids, True)
                        prepare(fleet, f"mails-{place}", ids, False)
                        rates.setdefault(name, []).append(measure(fleet, url, server.url))
                        say(f"round {number + 1}, {name}: {rates[name][-1]:,.0f} mails/s")
                fleet.service.loop.join(10)
            database.close()
        finally:
            server.stop(immediate=True)
    base = rates["nobody writes"]
    figures = {
        name: round(median(a / b for a, b in zip(found, base, strict=True)), 2)
        for name, found in rates.items()
    }
    if args.json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        for name, ratio in figures.items():
            sys.stdout.write(f"{name}: {ratio:.2f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
