"""`dripfleet topic`: what subscribers opt in to, and whether a sign-up waits for a confirmation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from workers.cli.context import connected
from workers.cli.render import emit, number, say

if TYPE_CHECKING:
    from models.session import Database

topic = typer.Typer(
    no_args_is_help=True, help="Look at topics, and say which ask for a confirmation of a sign-up."
)

KEY = typer.Argument(help="Key of a topic, such as product-news.")


def register(app: typer.Typer) -> None:
    """Add `dripfleet topic`."""
    app.add_typer(topic, name="topic")


@topic.command("list", epilog="Examples:\n\ndripfleet topic list\n\ndripfleet topic list --json")
def list_(as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too.")) -> None:
    """List topics: who opted in and out, whether they ask for a confirmation, and who has not answered."""
    from tasks.audience.store import topics

    with connected() as services, services.database.snapshot() as connection:
        found = topics(connection)
    emit(found, title="Topics", as_json=as_json)


@topic.command(
    "set",
    epilog="Examples:\n\ndripfleet topic set product-news --confirm\n\n"
    "dripfleet topic set product-news --no-confirm",
)
def set_(
    key: str = KEY,
    confirm: bool = typer.Option(
        help="Sign-ups from now on are pending until the link of a mail is confirmed."
    ),
    templates: Path | None = typer.Option(
        None,
        "--templates",
        envvar="DRIPFLEET_TEMPLATES",
        help="The folder of templates with confirm/opt-in; by default the one that is installed.",
    ),
) -> None:
    """Say whether a sign-up for a topic has to be confirmed; who opted in before stays so.

    With --confirm the mail that asks, confirm/opt-in, is published. Its link leads to the edge.
    """
    from tasks.moves import opt_in
    from tasks.send.render import bundle_from_folder
    from tasks.sequence.publish import publish_mail
    from workers.cli.proof import installed_templates

    bundle = bundle_from_folder(templates or installed_templates(), opt_in.TEMPLATE)
    with connected() as services:
        with services.database.transaction() as connection:
            _require(connection, key)
            if confirm:
                publish_mail(connection, bundle)
            new = opt_in.demand(connection, key, confirm)
        said = "is pending until it is confirmed" if confirm else "needs no confirmation"
        say(f"topic {key}: a sign-up {said}{'' if new else ', as before'}")
        if confirm and not _edge():
            say(NO_EDGE, style="yellow")


@topic.command(epilog="Examples:\n\ndripfleet topic ask product-news")
def ask(key: str = KEY) -> None:
    """Ask once more who has not answered for a day, and whoever was not asked yet; at most three times."""
    from tasks.moves import opt_in

    with connected() as services:
        with services.database.transaction() as connection:
            _require(connection, key)
            opt_in.again(connection, key)
        tell_asked(services.database)


NO_EDGE = (
    "nobody is asked before DRIPFLEET_EDGE_URL names an edge, here and for the send workers: the link"
    " leads there; then `dripfleet topic ask KEY`"
)


def tell_asked(database: Database) -> None:
    """Make the mails for sign-ups that wait for one, and say how many."""
    from tasks.moves.opt_in import Asker
    from tasks.moves.settings import DeliverySettings, IdentitySettings

    if not _edge():
        say(NO_EDGE, style="yellow")
        return
    asked = Asker.of(IdentitySettings(), DeliverySettings()).ask_all(database)
    say(f"{number(asked)} are asked by mail to confirm")


def _edge() -> bool:
    return bool(os.environ.get("DRIPFLEET_EDGE_URL", "").strip())


def _require(connection: object, key: str) -> None:
    from sqlalchemy import Connection

    from tasks.audience.store import topics
    from tasks.errors import Permanent

    assert isinstance(connection, Connection)
    keys = [each["key"] for each in topics(connection)]
    if key not in keys:
        some = f"expected one of {', '.join(keys)}" if keys else "there is none yet"
        raise Permanent(
            f"there is no topic {key!r}: {some}; `sequence apply --create-topics` makes it"
        )
