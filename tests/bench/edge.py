"""How many clicks and events a second the edge takes, each in Postgres before it is answered.

    python -m tests.bench.edge [--seconds 10] [--connections 64] [--pace 3500] [--json]

`dripfleet api` on a Postgres of its own, with fsync, asked by `wrk` (Debian's package of that name) over
loopback, on the same cores. Every click has its own token; afterwards the rows of `hit` are counted
against the answers that wrk saw, so that a figure with a lost click is no figure. `bare` is the same
server answering /healthz, which writes nothing: what HTTP alone costs here. `clicks` asks as fast as answers
come; `paced` asks by 256 connections that rest in between, about `--pace` a second, as readers do who know
nothing of each other: its p99 is how long they wait. CPU µs a request are those of
the edge and of Postgres, by the kernel's count; wrk's come on top, on the same cores.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import text

from models.migrate import migrate
from models.session import Database
from tasks.audience import api_key
from tasks.audience.address import address_hmac
from tasks.errors import Misconfigured
from tasks.moves.settings import IdentitySettings
from tasks.send.tokens import Keys, sign
from tests.bench.cpu_time import cpu_seconds, used_between
from workers.cli.render import say
from workers.edge.settings import EdgeSettings
from workers.embedded.postgres import EmbeddedPostgres

SECRET = "a secret of the benchmark"
TOKENS = 20_000
PEOPLE = 1_000


CLICKS = """
local paths = {}
for line in io.lines(os.getenv("TOKENS")) do paths[#paths + 1] = line end
local at = 0
function init(args) at = math.random(#paths) end
function request() at = at % #paths + 1 return wrk.format("GET", paths[at]) end
"""
PACED = f"""{CLICKS}
local rest = tonumber(os.getenv("REST"))
function delay() return math.floor(-rest * math.log(1 - math.random())) end
"""
READERS = 256
WRITES = """
wrk.method = "POST"
wrk.headers["Authorization"] = "Bearer " .. os.getenv("KEY")
wrk.headers["Content-Type"] = "application/json"
local n = 0
function init(args) n = math.random(1000000000) end
function request()
  n = n + 1
  local events = {}
  for i = 1, 500 do
    events[i] = string.format('{"external_id":"p%d","name":"purchase","source_id":"%d-%d","properties":{"amount":9}}',
      math.random(1000), n, i)
  end
  return wrk.format(nil, "/v1/events", nil, '{"source":"bench","events":[' .. table.concat(events, ",") .. "]}")
end
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--pace", type=int, default=3500)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    if shutil.which("wrk") is None:
        raise Misconfigured("wrk is not installed; install Debian's package of that name")
    with ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="df")))
        postgres = EmbeddedPostgres.start(folder / "pg")
        exits.callback(postgres.stop, immediate=True)
        database = Database(postgres.url)
        exits.callback(database.close)
        key = filled(database, folder)
        port = free_port()
        pid = exits.enter_context(serving(postgres.url, folder / "edge", port))
        roots = {"postgres": postgres.pid, "edge": pid}
        found: dict[str, Any] = {}
        for name, script in (
            ("bare", None),
            ("clicks", CLICKS),
            ("paced", PACED),
            ("events", WRITES),
        ):
            say(f"{name} for {asked.seconds} s")
            rest = f"{READERS / asked.pace * 1000:g}"
            environment = {"KEY": key, "TOKENS": str(folder / "tokens"), "REST": rest}
            found[name] = pressed(asked, port, folder, script, environment, roots)
        with database.transaction() as connection:
            rows = connection.execute(text("SELECT count(*) FROM hit")).scalar_one()
            events = connection.execute(text("SELECT count(*) FROM event")).scalar_one()
        found["rows"] = rows
        found["full_collection_ms"] = full_collections(postgres.url)
        found["lost"] = max(0, found["clicks"]["answers"] + found["paced"]["answers"] - rows)
        found["events"]["events_a_second"] = round(events / asked.seconds)
    sys.stdout.write(json.dumps(found, indent=None if asked.json else 2) + "\n")
    return 1 if found["lost"] else 0


def full_collections(url: str) -> dict[str, float]:
    """Milliseconds of processor time that a full collection of garbage takes in such a process.

    `whole`: with all that its libraries hold; `frozen`: when that is left out, as `workers.edge.run` does.
    """
    import uvicorn

    from workers.edge.app import build

    database = Database(url)
    settings = EdgeSettings(secret_token=SecretStr(SECRET))
    identity = IdentitySettings(secret_message_id=SecretStr(SECRET))
    app = build(settings, database, identities=SECRET.encode(), identity=identity)
    assert (uvicorn, app) is not None  # both are held, as in the process

    def took() -> float:
        began = time.thread_time()
        gc.collect()
        return round((time.thread_time() - began) * 1000, 3)

    took()
    whole = min(took() for _ in range(5))
    gc.freeze()
    frozen = min(took() for _ in range(5))
    gc.unfreeze()
    database.close()
    return {"whole": whole, "frozen": frozen}


def filled(database: Database, folder: Path) -> str:
    """Links, people and tokens; returns an API key."""
    migrate(database)
    keys = Keys("k1", {"k1": SECRET.encode()})
    with database.transaction() as connection:
        for n in range(10):
            connection.execute(
                text("INSERT INTO link (sha256, url) VALUES (:hash, :url)"),
                {"hash": bytes([n]), "url": f"https://shop.example/{n}"},
            )
        connection.execute(
            text(
                "INSERT INTO subscriber (external_id, address, address_hmac)"
                " SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:addresses AS text[]),"
                " CAST(:hmacs AS bytea[]))"
            ),
            {
                "ids": [f"p{n}" for n in range(1, PEOPLE + 1)],
                "addresses": [f"p{n}@example.com" for n in range(1, PEOPLE + 1)],
                "hmacs": [
                    address_hmac(SECRET.encode(), f"p{n}@example.com") for n in range(1, PEOPLE + 1)
                ],
            },
        )
        key = api_key.create(connection, "bench", api_key.SCOPES)
    paths = [f"/c/{sign(keys, 'click', n, n % 10 + 1)}" for n in range(1, TOKENS + 1)]
    (folder / "tokens").write_text("\n".join(paths) + "\n")
    return key


@contextmanager
def serving(url: str, home: Path, port: int) -> Iterator[int]:
    """One process of the edge; its id."""
    home.mkdir()
    own = {
        "DATABASE_URL": url,
        "REDIS_URL": "sentinel://127.0.0.1:1",
        "REDIS_SENTINEL_MASTER": "none",  # requests are counted in the process then
        "HOME": str(home),
        "EDGE_PORT": str(port),
        "EDGE_RATE": "1000000/second",
        "SECRET_TOKEN": SECRET,
        "SECRET_ADDRESS": SECRET,
        "SECRET_MESSAGE_ID": SECRET,
    }
    plain = {k: v for k, v in os.environ.items() if not k.startswith("DRIPFLEET_")}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "workers", "api"],
            env={**plain, **{f"DRIPFLEET_{k}": v for k, v in own.items()}},
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 30
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Misconfigured(f"the edge did not start: {(home / 'log').read_text()[-500:]}")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def pressed(
    asked: argparse.Namespace,
    port: int,
    folder: Path,
    script: str | None,
    environment: dict[str, str],
    roots: dict[str, int],
) -> dict[str, Any]:
    """What wrk says of one kind of request, and what it cost."""
    # A request of 500 events keeps the edge busy for long: more of them at once would only wait.
    connections = {WRITES: 4, PACED: READERS}.get(script or "", asked.connections)
    command = ["wrk", "--latency", "-t1", f"-c{connections}", f"-d{asked.seconds}s"]
    if script is not None:
        path = folder / "script.lua"
        path.write_text(script)
        command += ["-s", str(path)]
    before = cpu_seconds(roots)
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{port}/healthz"],
        env={**os.environ, **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    used = used_between(before, cpu_seconds(roots))
    answers = int(re.findall(r"(\d+) requests in", done.stdout)[0])
    found: dict[str, Any] = {
        "a_second": float(re.findall(r"Requests/sec:\s+([\d.]+)", done.stdout)[0]),
        "answers": answers,
        **{
            f"p{part}_ms": _milliseconds(value)
            for part, value in re.findall(r"^\s+(50|99)%\s+(\S+)$", done.stdout, re.MULTILINE)
        },
        "cpu_us": {name: round(seconds / answers * 1e6) for name, seconds in used.items()},
    }
    if wrong := re.findall(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)", done.stdout):
        found["wrong"] = wrong
    return found


def _milliseconds(shown: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", shown).groups()  # type: ignore[union-attr]
    return round(float(number) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}[unit], 2)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
            return True
    except OSError:
        return False


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    raise SystemExit(main())
