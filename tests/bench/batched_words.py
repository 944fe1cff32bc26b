"""How long a batch of many texts takes in this fleet, beside its server: made and sent, looked at, collected.

    python -m tests.bench.batched_words [--texts 10000] [--json]

As many subscribers as texts, each with a field of their own, so that no two share one. The server is the one
that ships, as a process; its price is made up, so that the saving can be seen. Seconds of this process's and
Postgres's time together, by the clock, and the largest memory that this process had.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import text

from models.migrate import migrate
from models.session import Database
from schedules.loader import loads
from schedules.prompt_file import loads_prompt
from tasks.personalize.batch_list import Listed, newest
from tasks.personalize.batches import Batches
from tasks.personalize.settings import ModelSettings
from tasks.sequence.prompts import publish_prompts
from tasks.sequence.words import Asker
from tests.bench.words_beside_sends import MAIL, PROMPT, SOURCE
from tests.live import seeds
from workers.embedded import launch
from workers.embedded.model_process import start_model
from workers.embedded.postgres import EmbeddedPostgres


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="df") as folder:
        model = start_model(Path(folder) / "model", batch=1.0)
        server = EmbeddedPostgres.start(Path(folder) / "pg")
        try:
            figures = measure(server.url, model.url, args.texts)
        finally:
            server.stop(immediate=True)
            launch.end(model, immediate=True)
    if not args.json:
        for name, value in figures.items():
            sys.stdout.write(f"{name}: {value}\n")
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


def measure(database_url: str, model_url: str, texts: int) -> dict[str, float]:
    """Figure → seconds, texts, money or MiB."""
    database = Database(database_url)
    migrate(database)
    database.engine.dispose()  # what it sets for the role holds for new connections
    source = SOURCE.replace("KEY", "bench").replace("lead: 1d", "lead: 3d")
    ids = seeds.subscribers(database, texts)
    seeds.sequence(database, source, {MAIL.name: MAIL})
    with database.transaction() as connection:
        prompt = loads_prompt(PROMPT, MAIL.name, "bench.yaml")
        publish_prompts(connection, loads(source, "bench.yaml"), {MAIL.name: prompt})
        connection.execute(
            text(
                "UPDATE subscriber SET attributes = jsonb_build_object('number',"
                " translate(CAST(id AS text), '0123456789', 'abcdefghij'))"
            )
        )
    seeds.enroll(database, "bench", ids)
    with database.transaction() as connection:
        connection.execute(text("UPDATE enrollment SET due_at = due_at + interval '2 days'"))
    figures: dict[str, float] = {"texts": texts}
    asker = Asker(database, "variants")
    began = time.perf_counter()
    while asker.ask():
        pass
    figures["asked for, s"] = _since(began)
    settings = ModelSettings(
        url=model_url, timeout=120, batch_gather=0, batch_poll=0.2, prices="variants=0.25/2",
        budget_day=1000, budget_sequence=1000,
    )  # fmt: skip
    batches = Batches(database, settings)
    began = time.perf_counter()
    batches.work()
    figures["made and sent, s"] = _since(began)
    began = time.perf_counter()
    while any(each.state != "ended" for each in _listed(database)):
        batches.work()
        time.sleep(0.1)
    figures["answered and collected, s"] = _since(began)
    found = _listed(database)
    assert sum(each.ready for each in found) == texts
    figures["cost"] = round(sum(each.cost for each in found), 6)
    figures["saved"] = round(sum(each.saved for each in found), 6)
    figures["largest memory, MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    database.close()
    return figures


def _listed(database: Database) -> list[Listed]:
    with database.transaction() as connection:
        return newest(connection, 100)


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 2)


if __name__ == "__main__":
    sys.exit(main())
