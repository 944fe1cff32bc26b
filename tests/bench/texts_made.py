"""What a text takes: at full speed, and while mails wait that words yield to.

    python -m tests.bench.texts_made [--seconds 5] [--json]

One Postgres, the server that ships as the model (a process too), and a writer in this process; each text
is told something of its own, so each is a call. First nobody sends; then a due mail waits and another is
under way. Prints texts a second, and the processor time of all three a text, of Postgres a text, and as
a share of one core; processor time is what neighbours of a machine change least. Half a minute.
"""

from __future__ import annotations

import argparse
import json
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
from tasks.moves.claim import claim
from tasks.personalize.client import Client
from tasks.personalize.settings import ModelSettings
from tasks.personalize.work import Writer
from tasks.sequence.prompts import publish_prompts
from tasks.sequence.words import Asker
from tests.bench.cpu_time import OURSELVES, cpu_seconds, used_between
from tests.bench.words_beside_sends import MAIL, PROMPT, SOURCE
from tests.live import seeds
from workers.embedded import launch
from workers.embedded.launch import Service
from workers.embedded.model_process import start_model
from workers.embedded.postgres import EmbeddedPostgres

PEOPLE = 3_000
OF_THEIR_OWN = text("""
UPDATE subscriber SET attributes = jsonb_build_object('number',
    translate(CAST(id AS text), '0123456789', 'abcdefghij'))
""")
LATER = text("UPDATE enrollment SET due_at = due_at + interval '1 hour'")
DUE = text("""
INSERT INTO message (effect_key, rfc_message_id, stream, subscriber_id, template, run_at)
SELECT sha256(CAST(CAST(i AS text) AS bytea)), i, 'marketing', :who, 'bench/words',
    clock_timestamp() - interval '1 minute' FROM generate_series(1, 3) i
""")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=5, help="of each of the two")
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="df") as folder:
        model = start_model(Path(folder) / "model")
        server = EmbeddedPostgres.start(Path(folder) / "pg")
        try:
            figures = measure(server, model, args.seconds)
        finally:
            server.stop(immediate=True)
            launch.end(model, immediate=True)
    if not args.json:
        for name, row in figures.items():
            said = ", ".join(f"{value:g} {key}" for key, value in row.items())
            sys.stdout.write(f"{name}: {said}\n")
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


def measure(
    server: EmbeddedPostgres, model: Service, seconds: float
) -> dict[str, dict[str, float]]:
    """Figure → its values."""
    database = Database(server.url)
    migrate(database)
    database.engine.dispose()  # what it sets for the role holds for new connections
    source = SOURCE.replace("KEY", "bench")
    ids = seeds.subscribers(database, PEOPLE)
    seeds.sequence(database, source, {MAIL.name: MAIL})
    with database.transaction() as connection:
        prompt = loads_prompt(PROMPT, MAIL.name, "bench.yaml")
        publish_prompts(connection, loads(source, "bench.yaml"), {MAIL.name: prompt})
        connection.execute(OF_THEIR_OWN)
    seeds.enroll(database, "bench", ids)
    with database.transaction() as connection:
        connection.execute(LATER)
    asker = Asker(database, "variants")
    while asker.ask():
        pass
    settings = ModelSettings(url=model.url)
    writer = Writer(database, settings, Client(settings))
    roots = {"postgres": server.pid, "model": model.pid}
    made_for(writer, roots, 1)  # what a first call sets up is no part of the figures
    alone = made_for(writer, roots, seconds)
    with database.transaction() as connection:
        connection.execute(DUE, {"who": ids[0]})
    with database.transaction() as connection:
        claim(connection, stream="marketing", n=1, owner="bench", lease=600)
    time.sleep(settings.yield_after)
    beside = made_for(writer, roots, seconds)
    writer.close()
    database.close()
    return {"nobody sends": alone, "mails wait": beside}


def made_for(writer: Writer, roots: dict[str, int], seconds: float) -> dict[str, float]:
    """What texts took that were made in so many seconds."""
    before, began = cpu_seconds(roots), time.perf_counter()
    made = writer.work(lambda: time.perf_counter() - began >= seconds)["ready"]
    took = time.perf_counter() - began
    used = used_between(before, cpu_seconds(roots))
    cpu = used["postgres"] + used["model"] + used[OURSELVES]
    return {
        "texts a second": round(made / took, 1),
        "ms of processor a text": round(1000 * cpu / max(made, 1), 2),
        "ms of Postgres a text": round(1000 * used["postgres"] / max(made, 1), 2),
        "of a core": round(cpu / took, 3),
    }


if __name__ == "__main__":
    sys.exit(main())
