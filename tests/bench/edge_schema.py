"""Whether the edge answers whatever its own OpenAPI allows, and what it does not, without a fault of ours.

    python -m tests.bench.edge_schema [--examples 100] [--seed 1]

`dripfleet api` on a Postgres of its own, asked by `schemathesis` (a program of that name on PATH; give it an
environment of its own: `pipx install schemathesis`). It makes requests of the schema and around it, chains of
them too, and checks that none is answered 5xx, and that each answer is of a status, a type and a shape that the
schema names. The exit code is its own.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from models.session import Database
from tasks.errors import Misconfigured
from tests.bench.edge import filled, free_port, serving
from workers.embedded.postgres import EmbeddedPostgres

CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_schema_conformance", "ignored_auth",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit code of schemathesis."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args(arguments)
    program = shutil.which("schemathesis")
    if program is None:
        raise Misconfigured("schemathesis is not on PATH; `pipx install schemathesis`")
    with ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="df")))
        postgres = EmbeddedPostgres.start(folder / "pg")
        exits.callback(postgres.stop, immediate=True)
        database = Database(postgres.url)
        exits.callback(database.close)
        key = filled(database, folder)
        port = free_port()
        exits.enter_context(serving(postgres.url, folder / "edge", port))
        done = subprocess.run(
            [
                program, "run", f"http://127.0.0.1:{port}/openapi.json",
                "--header", f"Authorization: Bearer {key}",
                "--checks", ",".join(CHECKS),
                "--max-examples", str(asked.examples),
                "--seed", str(asked.seed),
                "--no-color",
            ],
            cwd=folder,
            check=False,
        )  # fmt: skip
        sys.stderr.write((folder / "edge" / "log").read_text()[-2000:] if done.returncode else "")
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
