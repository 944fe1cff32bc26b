"""`dripfleet quarantine`: a database that was restored from a dump, made safe to send from."""

from __future__ import annotations

import datetime as dt
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from workers.cli.context import connected
from workers.cli.render import emit, number, plain, say

if TYPE_CHECKING:
    from models.session import Database

CHUNK = 5000


def register(app: typer.Typer) -> None:
    """Add `dripfleet quarantine`."""
    app.command(
        epilog='Examples:\n\ndripfleet quarantine\n\ndripfleet quarantine --since "2026-01-31 04:00+00:00"'
        "\n\ndripfleet quarantine --sink var/mail/ledger.jsonl\n\ndripfleet quarantine --lift",
    )(quarantine)


def quarantine(
    since: str | None = typer.Option(
        None,
        metavar="TIME",
        help="When the dump was made: begin, and hold all that was due by now.",
    ),
    reason: str = typer.Option("restored from a dump", help="Shown wherever somebody wonders."),
    sink: Path | None = typer.Option(
        None,
        exists=True,
        dir_okay=False,
        readable=True,
        metavar="LEDGER",
        help="The far end's ledger.jsonl: what it has is settled as sent, now and at hand-off.",
    ),
    lift: bool = typer.Option(
        False, "--lift", help="End it; what is still held goes by its stream's policy."
    ),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> None:
    """Hold what a restored database may send a second time; without options, say how it stands.

    A dump does not know what went out after it was made. A send worker that notices refuses to
    start; after `--since` it starts, and everything that was due by now is in doubt: settled by the
    far end's ledger, by `dripfleet doubt`, and, once lifted, by the policy of its stream.
    """
    from tasks.moves import quarantine as moves
    from tasks.moves.settings import DeliverySettings

    if lift and (since or sink):
        raise typer.BadParameter("--lift goes alone: begin or bring evidence first, then lift")
    with connected() as services:
        if since is not None:
            held = moves.begin(services.database, _instant(since), reason)
            total = sum(held.counts.values())
            say(f"quarantine since {held.quarantine.since}: {number(total)} messages held in doubt")
            say(
                "next: `dripfleet quarantine --sink LEDGER`, or `dripfleet doubt list`; then --lift"
            )
        if sink is not None:
            known, settled = _evidence(services.database, sink)
            say(
                f"{number(known)} Message-IDs of the far end; {number(settled)} doubts settled as sent"
            )
        if lift:
            freed = moves.lift(services.database, DeliverySettings())
            if freed is None:
                say("no quarantine stands")
            else:
                say(
                    f"lifted; {number(freed)} messages still in doubt go by their stream's policy now"
                )
        with services.database.transaction() as connection:
            found = moves.standing(connection)
    if found is not None:
        emit(found, title="A quarantine stands", as_json=as_json)
    elif as_json or not sys.stdout.isatty():
        emit(plain({"quarantine": None}), as_json=True)
    elif not (since or sink or lift):
        say("no quarantine stands")


def _evidence(database: Database, path: Path) -> tuple[int, int]:
    """Take a ledger in; (Message-IDs it has, doubts settled)."""
    from tasks.moves import quarantine as moves
    from workers.cli.audit import SinkLedger

    message_ids, known = SinkLedger(path).message_ids(), 0
    while chunk := list(islice(message_ids, CHUNK)):
        known += len(chunk)
        with database.transaction() as connection:
            moves.add_evidence(connection, chunk)
    return known, moves.settle_evident(database)


def _instant(given: str) -> dt.datetime:
    """A time with its offset.

    Raises:
        typer.BadParameter: anything else.
    """
    try:
        at = dt.datetime.fromisoformat(given.strip())
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise typer.BadParameter(
            f"--since {given!r} is no time with an offset; expected such as 2026-01-31T04:00+00:00"
        )
    return at
