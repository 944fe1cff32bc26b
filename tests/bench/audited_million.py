"""How long `verify` takes on many messages, most sent, some doubted, some under way.

    python -m tests.bench.audited_million [--messages 1000000] [--json]

On an embedded Postgres of its own, five messages a person, all of whom stand under a cap that they have
just reached, so that the audit counts each beside the others. It has to find them clean (`standing_book`
wrote them as the moves would have); the clock runs for the audit alone.
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
from tasks.moves.settings import DeliverySettings
from tasks.upkeep.verify import VerifySettings, verify
from tests.bench.standing_book import fill
from workers.cli.render import say
from workers.embedded.postgres import EmbeddedPostgres

STEPS = 5
RESEND = text("UPDATE stream SET doubt_policy = 'resend' WHERE key = 'marketing'")


def main(argv: Sequence[str] | None = None) -> int:
    """Build, audit, print; 3 where the audit found something."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="df") as folder:
        server = EmbeddedPostgres.start(Path(folder) / "pg")
        try:
            database = Database(server.url)
            migrate(database)
            with database.transaction() as connection:
                connection.execute(RESEND)
            fill(database, args.messages // STEPS, STEPS, waits=False)
            began = time.monotonic()
            report = verify(database, DeliverySettings(), VerifySettings())
            took = time.monotonic() - began
            database.close()
        finally:
            server.stop()
    found = {each.name: each.count for each in report.findings if each.count}
    told = {"messages": report.counted["messages"], "seconds": round(took, 1), "found": found}
    say(
        json.dumps(told)
        if args.json
        else f"{told['messages']:,} messages: {took:.1f} s; found: {found}"
    )
    return 3 if found else 0


if __name__ == "__main__":
    sys.exit(main())
