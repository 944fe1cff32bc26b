"""How long the words of one mail take where its text is there already: asked for, and read at the hand-off.

    python -m tests.bench.cached_words [--mails 500] [--texts 10000] [--json]

Each mail is asked for by itself, in a transaction of its own, whose flush is the WAL writer's: its place in
the sequence, what is known of its subscriber, the text's key, the row that it is asked for, the enrollment that
is woken. `texts` other ones stand in the table. Prints p50, p95 and p99 in milliseconds by the clock, the
mean of the processor time that this process and Postgres took for it together, which neighbours of a
machine change less, and what a mail takes where all are asked for at once.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import quantiles

from sqlalchemy import text

from models.migrate import migrate
from models.session import Database
from schedules.loader import loads
from schedules.prompt_file import loads_prompt
from tasks.personalize.settings import ModelSettings
from tasks.personalize.work import Writer
from tasks.sequence.prompts import publish_prompts
from tasks.sequence.words import Asker
from tasks.sequence.words_at_hand import at_hand
from tests.bench.cpu_time import cpu_seconds, used_between
from tests.bench.words_beside_sends import MAIL, PROMPT, SOURCE
from tests.live import seeds
from workers.embedded import launch
from workers.embedded.model_process import start_model
from workers.embedded.postgres import EmbeddedPostgres

FILL = text("""
INSERT INTO wording (key, prompt_sha256, prompt, sequence_key, model, told, state, slots, needed_at)
SELECT sha256(CAST(CAST(i AS text) AS bytea)), s.sha256, s.name, 'bench', 'variants', '{}', 'ready', '{}',
    clock_timestamp() FROM prompt_source s, generate_series(1, :n) i
""")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--mails", type=int, default=500)
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="df") as folder:
        model = start_model(Path(folder) / "model")
        server = EmbeddedPostgres.start(Path(folder) / "pg")
        try:
            figures = measure(server, model.url, args.mails, args.texts)
        finally:
            server.stop(immediate=True)
            launch.end(model, immediate=True)
    if not args.json:
        for name, row in figures.items():
            said = ", ".join(f"{key} {value:.2f} ms" for key, value in row.items())
            sys.stdout.write(f"{name}: {said}\n")
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


def measure(
    server: EmbeddedPostgres, model_url: str, mails: int, texts: int
) -> dict[str, dict[str, float]]:
    """Figure → its percentiles, in milliseconds."""
    database = Database(server.url)
    migrate(database)
    database.engine.dispose()  # what it sets for the role holds for new connections
    source = SOURCE.replace("KEY", "bench")
    sequence = loads(source, "bench.yaml")
    ids = seeds.subscribers(database, 2 * mails + 20)
    seeds.sequence(database, source, {MAIL.name: MAIL})
    with database.transaction() as connection:
        prompt = loads_prompt(PROMPT, MAIL.name, "bench.yaml")
        publish_prompts(connection, sequence, {MAIL.name: prompt})
        connection.execute(FILL, {"n": texts})
    seeds.enroll(database, "bench", ids)
    with database.transaction() as connection:
        connection.execute(text("UPDATE enrollment SET due_at = due_at + interval '1 hour'"))
        found = list(
            connection.execute(text("SELECT id FROM enrollment ORDER BY due_at, id")).scalars()
        )
    with database.raw() as raw:
        raw.execute("ANALYZE")
    asker = Asker(database, "variants")
    writer = Writer(database, ModelSettings(url=model_url))
    for _ in range(20):  # the first of them is written, and plans are made
        asker.ask(1)
        writer.work()
    writer.close()
    asked = timed(lambda _: asker.ask(1), mails, server.pid)

    def read(number: int) -> None:
        with database.transaction() as connection:
            at_hand(connection, [(found[number], sequence)])

    there = timed(read, mails, server.pid)
    began = time.perf_counter()
    together = asker.ask(mails)
    each = 1000 * (time.perf_counter() - began) / together
    with database.transaction() as connection:
        calls = connection.execute(text("SELECT sum(calls) FROM wording")).scalar_one()
        assert calls == 1, "every text but the first was there"
    database.close()
    return {"asked for": asked, "read at the hand-off": there, "all at once": {"mean": each}}


def timed(what: Callable[[int], object], n: int, postgres: int) -> dict[str, float]:
    """Percentiles of `n` calls by the clock, and the mean of their processor time, in milliseconds."""
    took = []
    before = cpu_seconds({"postgres": postgres})
    for number in range(n):
        began = time.perf_counter()
        what(number)
        took.append(1000 * (time.perf_counter() - began))
    used = used_between(before, cpu_seconds({"postgres": postgres}))
    cuts = quantiles(took, n=100)
    return {
        "p50": round(cuts[49], 3), "p95": round(cuts[94], 3), "p99": round(cuts[98], 3),
        "cpu": round(1000 * sum(used.values()) / n, 3),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
