"""`dripfleet webhooks`: other systems that are told what happens."""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
import time

import typer

from workers.cli.context import connected
from workers.cli.render import ExitCode, emit, plain, say

webhooks = typer.Typer(no_args_is_help=True, help="Other systems that are told what happens.")

NAME = typer.Argument(help="Of the endpoint, as `webhooks list` shows it.")
JSON = typer.Option(False, "--json", help="JSON on a terminal too.")


def register(app: typer.Typer) -> None:
    """Add `dripfleet webhooks`."""
    app.add_typer(webhooks, name="webhooks")


@webhooks.command(
    epilog="Examples:\n\ndripfleet webhooks add crm https://crm.example.com/hooks\n\n"
    "dripfleet webhooks add data https://data.example.com/in --type message.* --type event.recorded",
)
def add(
    name: str = typer.Argument(
        help="A name of your own; steps `webhook: {to: NAME}` call it by this one."
    ),
    url: str = typer.Argument(help="An https address that everybody reaches alike."),
    kinds: list[str] = typer.Option(
        [],
        "--type",
        help="What it is told of, such as message.sent or email.*; may be given again. By default"
        " message.*, enrollment.*, subscriber.* and email.*.",
    ),
    addresses: bool = typer.Option(
        False, "--addresses", help="Tell it e-mail addresses too; else ids alone."
    ),
) -> None:
    """Tell an address what happens from now on. Its secret is written to stdout.

    Each is a POST with a signature of Standard Webhooks. Told at least once, and in no order: a second
    one has the same `webhook-id`. What is not answered 2xx is tried again for three days.
    """
    from tasks.webhooks import book
    from tasks.webhooks.settings import load

    with connected() as services, services.database.transaction() as connection:
        settings = load()
        secret = book.add(
            connection,
            name,
            url,
            key=settings.key,
            types=kinds,
            addresses=addresses,
            plain=bool(settings.networks),
        )
    say(f"{name} is told what happens from now on; it knows us by this secret:")
    typer.echo(secret)


@webhooks.command(
    "list", epilog="Examples:\n\ndripfleet webhooks list\n\ndripfleet webhooks list --json"
)
def list_(as_json: bool = JSON) -> None:
    """List the endpoints: what each is told of, how it stands and why, what waits and what is dead."""
    from tasks.webhooks import book

    with connected() as services, services.database.snapshot() as connection:
        found = book.listed(connection)
    emit(plain(found), title="Webhooks", as_json=as_json)


@webhooks.command(epilog="Examples:\n\ndripfleet webhooks test crm")
def test(name: str = NAME) -> int:
    """Send one `test.ping`, now and from here, and say what came back."""
    from tasks.webhooks import book, engine, target
    from tasks.webhooks import kinds as known
    from tasks.webhooks.settings import load
    from tasks.webhooks.wire import Caller, now

    with connected() as services, services.database.transaction() as connection:
        settings = load()
        row = book.endpoint(connection, name)
    goes = target.parse(row.url, plain=bool(settings.networks))
    body = engine.body(known.TEST, dt.datetime.now(dt.UTC), {"endpoint": name}, None)
    secret = engine.secret(settings.key, bytes(row.salt), row.secret_no)
    headers = engine.signed([secret], f"test_{secrets.token_hex(16)}", now(), body)

    async def call() -> engine.Answer:
        async with Caller(settings.networks, settings.webhook_timeout) as caller:
            return await caller.call(goes, headers, body)

    began = time.monotonic()
    answer = asyncio.run(call())
    took = round((time.monotonic() - began) * 1000)
    good = engine.judge(answer, 1, 0, 0, settings.webhook_give_up).kind == "delivered"
    emit({"endpoint": name, "status": answer.status, "fault": answer.fault, "ms": took})
    if not good:
        said = answer.fault or f"status {answer.status}, and 2xx was expected"
        say(f"{name} did not take it: {said}", style="red")
    return ExitCode.OK if good else ExitCode.FAULT


@webhooks.command(
    epilog="Examples:\n\ndripfleet webhooks rotate crm --overlap-hours 1",
)
def rotate(
    name: str = NAME,
    overlap_hours: float = typer.Option(
        24, min=0, max=8760, help="Both secrets sign for so long; a listener needs one of them."
    ),
) -> None:
    """Turn the secret of an endpoint; the new one is written to stdout."""
    from tasks.webhooks import book
    from tasks.webhooks.settings import load

    with connected() as services, services.database.transaction() as connection:
        overlap = dt.timedelta(hours=overlap_hours)
        made = book.rotate(connection, name, overlap, key=load().key)
    say(f"{name}: both secrets sign for {overlap_hours:g} h; this is the new one:")
    typer.echo(made)


@webhooks.command(epilog='Examples:\n\ndripfleet webhooks pause crm --reason "crm moves house"')
def pause(
    name: str = NAME,
    reason: str = typer.Option(help="Why; `webhooks list` and `doctor` show it."),
) -> None:
    """Call an endpoint no more; what happens is kept for it until `resume`."""
    from tasks.webhooks import book

    with connected() as services, services.database.transaction() as connection:
        book.pause(connection, name, reason)
    say(f"{name}: paused; what happens is kept for it")


@webhooks.command(epilog="Examples:\n\ndripfleet webhooks resume crm")
def resume(name: str = NAME) -> None:
    """Call an endpoint again that was paused, or disabled since it failed for days."""
    from tasks.webhooks import book

    with connected() as services, services.database.transaction() as connection:
        n = book.resume(connection, name)
    say(f"{name}: it is called again" + (f"; {n} that were put off are due now" if n else ""))


@webhooks.command(
    epilog="Examples:\n\ndripfleet webhooks dead\n\ndripfleet webhooks dead crm --most 10"
)
def dead(
    name: str | None = typer.Argument(None, help="Of one endpoint alone."),
    most: int = typer.Option(100, min=1, max=10_000, help="The latest so many."),
    as_json: bool = JSON,
) -> None:
    """List what nobody took in time, with what was answered last."""
    from tasks.webhooks import store

    with connected() as services, services.database.transaction() as connection:
        found = store.dead(connection, name, most)
    emit(plain(found), title="Dead letters", as_json=as_json)


@webhooks.command(
    epilog="Examples:\n\ndripfleet webhooks replay crm --dead\n\n"
    "dripfleet webhooks replay crm --since-hours 6\n\n"
    "dripfleet webhooks replay crm --id evt_0f8fad5bd9cb469fa16570867728950e",
)
def replay(
    name: str = NAME,
    dead_alone: bool = typer.Option(False, "--dead", help="Dead letters alone."),
    since_hours: float | None = typer.Option(
        None, min=0, help="What happened within so many hours, also what was delivered."
    ),
    key: str | None = typer.Option(None, "--id", help="The one of this `webhook-id`."),
) -> int:
    """Tell again what is kept (14 days), under the same ids: who has heard it can tell."""
    from tasks.webhooks import store

    if not dead_alone and since_hours is None and key is None:
        say("say what is told again: --dead, --since-hours or --id", style="red")
        return ExitCode.USAGE
    since = None if since_hours is None else dt.timedelta(hours=since_hours)
    with connected() as services, services.database.transaction() as connection:
        n = store.replay(connection, name, key=key, since=since, dead=dead_alone)
    say(f"{name}: {n} are due again")
    return ExitCode.OK


@webhooks.command(epilog="Examples:\n\ndripfleet webhooks remove crm")
def remove(name: str = NAME) -> None:
    """Take an endpoint away, with all that waits for it."""
    from tasks.webhooks import book

    with connected() as services, services.database.transaction() as connection:
        book.remove(connection, name)
    say(f"{name}: removed")
