"""`dripfleet stream show`: one stream, and whether its mails hold what mailbox providers ask for."""

from __future__ import annotations

import sys
from typing import Any

import typer

from workers.cli.context import connected
from workers.cli.render import emit, plain


def register(stream: typer.Typer) -> None:
    """Add `dripfleet stream show`."""
    stream.command(
        epilog="Examples:\n\ndripfleet stream show marketing\n\ndripfleet stream show marketing --json",
    )(show)


def show(
    key: str = typer.Argument(help="Key of a stream: marketing, transactional, or one of yours."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> None:
    """Show a stream: what it is sent through, why it waits, and each piece that is asked of marketing.

    The pieces are those of this environment; a send worker of another one holds a stream by its own.
    """
    from sqlalchemy import select

    from models.sequence import Stream
    from tasks.errors import Permanent
    from tasks.send.gate import Gate
    from workers.doctor.signatures import send_settings

    table = Stream.__table__
    with connected() as services, services.database.snapshot() as connection:
        row = connection.execute(select(table).where(table.c.key == key)).one_or_none()
        if row is None:
            keys = ", ".join(sorted(connection.execute(select(Stream.key)).scalars()))
            raise Permanent(f"there is no stream {key!r}; expected one of {keys}")
        facts: dict[str, Any] = plain(dict(row._mapping))
        settings = send_settings()
        sender = settings.writes_as(row.sender)
        marketing = facts["class"] == "marketing"
        found = Gate.of(settings).pieces(sender) if marketing else []
    facts["sender"] = f"{sender.name} <{sender.address}>"
    if as_json or not sys.stdout.isatty():
        emit({**facts, "pieces": plain(found)}, as_json=True)
        return
    emit({name: value for name, value in facts.items() if value is not None})
    if not marketing:
        typer.echo("nothing more is asked of transactional mail")
        return
    lines = [
        {"piece": p.name, "is": "there" if p.met else "missing", "says": p.says, "next": p.next}
        for p in found
    ]
    emit(lines, title=f"What providers ask of it (DRIPFLEET_COMPLIANCE={settings.compliance})")
