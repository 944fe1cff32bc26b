"""`dripfleet key`: who may write through the edge."""

from __future__ import annotations

import datetime as dt

import typer

from workers.cli.context import connected
from workers.cli.render import emit, plain, say

key = typer.Typer(no_args_is_help=True, help="Keys by which other systems write through the edge.")


def register(app: typer.Typer) -> None:
    """Add `dripfleet key`."""
    app.add_typer(key, name="key")


@key.command(
    epilog="Examples:\n\ndripfleet key create shop --scope events --scope subscribers\n\n"
    "dripfleet key create reports --scope messages:read --scope events:read\n\n"
    "dripfleet key create migration --scope subscribers --days 7",
)
def create(
    name: str = typer.Argument(help="Of the system that will use it."),
    scope: list[str] = typer.Option(
        help="What it may write: events, subscribers, enrollments, messages; or list: events:read,"
        " subscribers:read, …; may be given again."
    ),
    days: int | None = typer.Option(
        None, min=1, max=3650, help="It ends after so many days; by default when it is revoked."
    ),
) -> None:
    """Make a key. It is written to stdout once, and kept nowhere: only its hash is.

    The system sends it as `Authorization: Bearer df_…` to `/v1` of `dripfleet api`.
    """
    from tasks.audience import api_key

    life = None if days is None else dt.timedelta(days=days)
    with connected() as services, services.database.transaction() as connection:
        made = api_key.create(connection, name, scope, life)
    say("keep it now: it is shown this once, and only its hash is stored")
    typer.echo(made)


@key.command("list", epilog="Examples:\n\ndripfleet key list\n\ndripfleet key list --json")
def list_(as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too.")) -> None:
    """List the keys: id, name, scopes, and whether each is good; never a key itself."""
    from tasks.audience import api_key

    with connected() as services, services.database.snapshot() as connection:
        found = api_key.listed(connection)
    emit(plain(found), title="Keys", as_json=as_json)


@key.command(epilog="Examples:\n\ndripfleet key revoke 1f3a5b7c")
def revoke(key_id: str = typer.Argument(metavar="ID", help="As `key list` shows it.")) -> None:
    """End a key now; what it has written stays."""
    from tasks.audience import api_key

    with connected() as services, services.database.transaction() as connection:
        done = api_key.revoke(connection, key_id)
    say(f"key {key_id}: {'revoked' if done else 'was revoked before'}")


@key.command(
    epilog="Examples:\n\ndripfleet key rotate 1f3a5b7c\n\n"
    "dripfleet key rotate 1f3a5b7c --overlap-hours 1",
)
def rotate(
    key_id: str = typer.Argument(metavar="ID", help="As `key list` shows it."),
    overlap_hours: float = typer.Option(
        24, min=0, max=8760, help="The old one stays good for so long."
    ),
) -> None:
    """Make a new key with the same name and scopes, and let the old one end a while later."""
    from tasks.audience import api_key

    overlap = dt.timedelta(hours=overlap_hours)
    with connected() as services, services.database.transaction() as connection:
        made = api_key.rotate(connection, key_id, overlap)
    say(
        f"key {key_id} stays good for {overlap_hours:g} h; keep the new one now, it is shown this once"
    )
    typer.echo(made)
