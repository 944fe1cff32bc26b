"""What the demo tells of the words that were written for its win-back mails."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, text

from models.session import Database
from tasks.personalize.report import report
from workers.cli.render import number

LONG = "win-back"

# Who waits for words alone comes today, however far away the end of the lead is.
AWAITED = text("""
SELECT EXISTS (SELECT FROM enrollment e WHERE e.active AND e.wait_rule ->> 'by' = 'words') AS some
""")


def awaited(connection: Connection) -> bool:
    """Whether somebody waits for words."""
    return bool(connection.execute(AWAITED).scalar_one())


def tell(database: Database, say: Callable[[str], None]) -> None:
    """Say one line: mails, texts, calls, the hit rate, and what had the template's own words, and why."""
    with database.snapshot() as connection:
        found = report(connection, LONG)
    for line in found:
        share = "" if line.hit_rate is None else f", hit rate {line.hit_rate:.1%}"
        own = "".join(f", {number(n)} own words: {why}" for why, n in line.own_words.items())
        say(
            f"words: {number(line.mails)} mails of {LONG} with {number(line.ready)} texts by"
            f" {number(line.calls)} calls of the model{share}{own}"
        )
