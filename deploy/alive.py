"""Whether this process does its work: the image's HEALTHCHECK and the chart's probes.

    python alive.py                 # asks for what process 1 is
    python alive.py worker send

A worker is judged by the canary of its pool, beat by the ticks that arrive. Exit 1: it is silent
while those that it depends on are not, so that a new start may help. Exit 0: it answers, or nothing
can be known. When Postgres or Redis is down, stopping the whole fleet would mend nothing.
"""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import psycopg

from tasks import names
from workers.pools import BY_NAME

PROCESSES = ("worker", "beat", "flower")
# A canary is rung every 30 s for a pool that is silent; a scan may take 10 s.
SILENT = 150.0
# No longer than this ago, and whoever does it is at work.
FRESH = 60.0

AGES = """
SELECT 'pool', pool, extract(epoch FROM clock_timestamp() - max(seen_at))::float8
FROM canary GROUP BY pool
UNION ALL
SELECT 'tick', name, extract(epoch FROM clock_timestamp() - seen_at)::float8 FROM tick
"""
Ages = Mapping[tuple[str, str], float]


def main(arguments: list[str]) -> int:
    """Say in one line what is known, and answer 0 or 1."""
    words = process_of(arguments) or process_of(command_of_process_1())
    if not words:
        say("process 1 is no worker, beat or flower; nothing to look at")
        return 0
    region = os.environ.get("DRIPFLEET_REGION")
    if words[0] == "flower":
        fault = flower_fault(int(os.environ.get("DRIPFLEET_FLOWER_PORT") or 5555))
    else:
        try:
            ages = look(os.environ.get("DRIPFLEET_DATABASE_URL", ""))
        except psycopg.Error as error:
            say(f"not known, Postgres does not answer ({type(error).__name__})")
            return 0
        fault = beat_fault(ages) if words[0] == "beat" else worker_fault(words[1], ages, region)
    say(fault or "answers")
    return 1 if fault else 0


def say(text: str) -> None:
    """One line, for whoever reads the probe's output."""
    sys.stdout.write(f"alive: {text}\n")


def process_of(words: list[str]) -> list[str]:
    """`["worker", POOL]`, `["beat"]` or `["flower"]` in a command line; else nothing."""
    for at, word in enumerate(words):
        if word in PROCESSES:
            given = [*words[at + 1 : at + 2], os.environ.get("DRIPFLEET_POOL", "")]
            pool = next((name for name in given if name in BY_NAME), None)
            if word == "worker":
                return [word, pool] if pool else []
            return [word]
    return []


def command_of_process_1() -> list[str]:
    """The command line of the process that the container was started for."""
    return Path("/proc/1/cmdline").read_text(errors="replace").split("\0")


def look(url: str) -> Ages:
    """Seconds since each pool answered and each tick's work was done.

    Raises:
        psycopg.Error: Postgres, or the schema, is not there.
    """
    with psycopg.connect(url, connect_timeout=5, application_name="dripfleet-alive") as connection:
        return {(kind, name): age for kind, name, age in connection.execute(AGES)}


def worker_fault(pool: str, ages: Ages, region: str | None = None) -> str:
    """What is wrong with the pool, if it is this pool; empty: nothing."""
    if pool == "sequence":
        # It rings all canaries, its own too, so it is told by its tick beside the reaper's.
        own, witness, silent = ("tick", names.DISPATCH), ("tick", names.REAP), SILENT
    else:
        queue = names.queue_of(pool, region if pool in names.REGIONAL else None)
        own, witness = ("pool", queue), ("tick", names.DISPATCH)
        # The one task of a prefork child may take until its hard limit.
        silent = SILENT + (BY_NAME[pool].hard_limit or 0.0)
    if ages.get(witness, FRESH) >= FRESH:
        return ""
    if (age := ages.get(own)) is None:
        return f"the pool {pool} has never answered"
    return f"the pool {pool} has been silent for {age:.0f} s" if age > silent else ""


def beat_fault(ages: Ages) -> str:
    """Every tick has stopped. It may be Redis: then a new start of beat does no harm."""
    ticks = [age for (kind, _), age in ages.items() if kind == "tick"]
    if ticks and min(ticks) > SILENT:
        return f"no tick has come through for {min(ticks):.0f} s"
    return ""


def flower_fault(port: int) -> str:
    """Flower does not answer; its health check asks for no password."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthcheck", timeout=5):
            return ""
    except OSError as error:
        return f"Flower does not answer on port {port} ({type(error).__name__})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
