"""`dripfleet stream`: what mail is sent through; paused by hand, or by a relay that refuses us."""

from __future__ import annotations

import re

import typer

from tasks import names
from workers.cli import stream_show
from workers.cli.context import connected
from workers.cli.render import emit, plain, say

stream = typer.Typer(
    no_args_is_help=True,
    help="Look at streams, pause and resume them, and say from which region they are sent.",
)

KEY = typer.Argument(help="Key of a stream: marketing, transactional, or one of yours.")


def register(app: typer.Typer) -> None:
    """Add `dripfleet stream`."""
    app.add_typer(stream, name="stream")
    stream_show.register(stream)


@stream.command("list", epilog="Examples:\n\ndripfleet stream list\n\ndripfleet stream list --json")
def list_(as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too.")) -> None:
    """List the streams: relay, region, doubt policy, and why one is paused."""
    from sqlalchemy import select

    from models.sequence import Stream

    table = Stream.__table__
    with connected() as services, services.database.snapshot() as connection:
        rows = [dict(row._mapping) for row in connection.execute(select(table).order_by("key"))]
    emit(plain(rows), title="Streams", as_json=as_json)


@stream.command(epilog='Examples:\n\ndripfleet stream pause marketing --reason "wrong relay"')
def pause(
    key: str = KEY,
    reason: str = typer.Option(help="Why; shown wherever somebody wonders."),
) -> None:
    """Send nothing through a stream; its messages keep their places."""
    from tasks.moves import pause as moves

    with connected() as services, services.database.transaction() as connection:
        _require(connection, key)
        done = moves.pause_stream(connection, key, reason)
    say(f"stream {key}: {'paused' if done else 'was paused already'}")


@stream.command(epilog="Examples:\n\ndripfleet stream resume marketing")
def resume(key: str = KEY) -> None:
    """Let a stream go on, after whatever stopped it was mended."""
    from sqlalchemy import select

    from models.sequence import Stream
    from tasks.moves import pause as moves
    from tasks.send.compliance import HELD

    with connected() as services, services.database.transaction() as connection:
        _require(connection, key)
        was = connection.execute(select(Stream.pause_reason).where(Stream.key == key)).scalar()
        moves.resume_stream(connection, key)
    say(f"stream {key}: goes on")
    if (was or "").startswith(HELD):
        hint = f"a send worker that lacks a piece holds it again: `dripfleet stream show {key}`"
        say(hint, style="yellow")


@stream.command(
    "set",
    epilog="Examples:\n\ndripfleet stream set marketing --region eu\n\n"
    "dripfleet stream set marketing --no-region\n\ndripfleet stream set marketing --track all\n\n"
    "dripfleet stream set marketing --return-path bounces.example.com\n\n"
    "dripfleet stream set marketing --relay default",
)
def set_(
    key: str = KEY,
    region: str | None = typer.Option(
        None,
        help="Small letters, digits and -: the send workers of this region send it, and no other.",
    ),
    no_region: bool = typer.Option(False, "--no-region", help="Those that name no region send it."),
    track: str | None = typer.Option(
        None,
        help="none, clicks, opens or all: whether its mails tell by links and a pixel that they were"
        " read; needs DRIPFLEET_EDGE_URL.",
    ),
    return_path: str | None = typer.Option(
        None,
        help="Domain whose mail comes to `dripfleet inbound`: each mail gets a return path of its own"
        " there. none: the sender's, as by default.",
    ),
    provider: str | None = typer.Option(
        None,
        help="ses, sendgrid, mailgun or postmark: its mails carry what the provider's webhooks bring"
        " back. none: nothing, as by default.",
    ),
    relay: str | None = typer.Option(
        None,
        help="Its relays: one, or several with weights, such as main=3,spare=0 (NAME of"
        " DRIPFLEET_SMTP_URL_NAME in small letters); a weight of 0: where the others are closed.",
    ),
) -> None:
    """Say from where and through which relays a stream is sent, how it is tracked, and what comes back.

    It holds from the next claim on. First start workers there (`dripfleet worker send --region eu`),
    which know the stream's relays.
    """
    given = (region, track, relay, return_path, provider)
    if sum(each is not None for each in given) + no_region != 1:
        raise typer.BadParameter(
            "expected one of --region NAME, --no-region, --track WHAT, --relay NAMES,"
            " --return-path DOMAIN or --provider NAME"
        )
    if return_path is not None or provider is not None:
        _come_back(key, return_path, provider)
        return
    if relay is not None:
        _relay(key, relay)
        return
    if track is not None:
        _track(key, track)
        return
    if region is not None and not re.fullmatch(names.REGION, region):
        raise typer.BadParameter(
            f"{region[:64]!r} is no region's name: expected small letters, digits and -, such as eu",
            param_hint="--region",
        )
    from tasks import regions
    from tasks.canary import store as canaries

    queue = names.queue_of("send", region)
    with connected() as services, services.database.transaction() as connection:
        _require(connection, key)
        moved = regions.move(connection, key, region)
        answered = queue in canaries.latest(connection)
    where = f"is sent from region {region}" if region else "is sent by workers that name no region"
    say(f"stream {key}: {where}{'' if moved else ', as before'}")
    if not answered:
        say(f"nobody has answered {queue} yet: `{names.worker_of(queue)}`", style="yellow")


@stream.command(epilog="Examples:\n\ndripfleet stream dkim\n\ndripfleet stream dkim --json")
def dkim(as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too.")) -> None:
    """Show the TXT records to publish for the keys of DRIPFLEET_DKIM_KEYS, one a key."""
    from pydantic import SecretStr

    from tasks.send.dkim import Keyring
    from tasks.send.settings import SendSettings

    unused = SecretStr("smtp://unused")
    keyring = Keyring.of(SendSettings(smtp_url=unused, secret_token=unused).dkim_keys)
    rows = [
        {"name": f"{each.selector}._domainkey.{each.domain}", "type": "TXT", "value": each.record}
        for each in keyring
    ]
    emit(rows, columns=["name", "type", "value"], title="DNS records", as_json=as_json)
    if not rows:
        say("DRIPFLEET_DKIM_KEYS names no key; it takes DOMAIN/SELECTOR=FILE, parted by blanks")


def _relay(key: str, relays: str) -> None:
    from sqlalchemy import update

    from models.sequence import Stream
    from tasks.errors import Misconfigured
    from tasks.send import route

    try:
        ways = route.parse(relays)
    except Misconfigured as fault:
        raise typer.BadParameter(str(fault), param_hint="--relay") from None
    said = ",".join(name if len(ways) == 1 else f"{name}={weight}" for name, weight in ways)
    with connected() as services, services.database.transaction() as connection:
        _require(connection, key)
        connection.execute(update(Stream).where(Stream.key == key).values(relay=said))
    say(f"stream {key}: is sent through {said}, from the next claim on")
    unknown = [name for name, _ in ways if name != "default"]
    if unknown:
        urls = ", ".join(f"DRIPFLEET_SMTP_URL_{name.upper()}" for name in unknown)
        say(f"its send workers need {urls}", style="yellow")


def _track(key: str, what: str) -> None:
    from tasks.hits import track

    if what not in ("none", "clicks", "opens", "all"):
        raise typer.BadParameter(
            f"{what[:64]!r} is nothing to track: expected none, clicks, opens or all",
            param_hint="--track",
        )
    with connected() as services, services.database.transaction() as connection:
        _require(connection, key)
        track(connection, key, what)
    said = "is not tracked" if what == "none" else f"is tracked: {what}"
    say(f"stream {key}: {said}, from the next mail that is claimed on")
    if what != "none":
        say("mails are, where the send workers' DRIPFLEET_EDGE_URL names an edge", style="yellow")


def _come_back(key: str, domain: str | None, provider: str | None) -> None:
    from sqlalchemy import update

    from models.sequence import Stream
    from tasks.return_path import PROVIDERS, checked_domain

    values: dict[str, str | None]
    if domain is not None:
        try:
            values = {"return_path": None if domain == "none" else checked_domain(domain)}
        except ValueError as fault:
            raise typer.BadParameter(str(fault), param_hint="--return-path") from None
        said = f"b+TOKEN@{values['return_path']}" if values["return_path"] else "its sender's"
        said = f"return path {said}"
    else:
        if provider not in (*PROVIDERS, "none"):
            raise typer.BadParameter(
                f"{str(provider)[:64]!r} is no provider that is known: expected"
                f" {', '.join(PROVIDERS)} or none",
                param_hint="--provider",
            )
        values = {"provider": None if provider == "none" else provider}
        said = f"provider {provider}"
    with connected() as services, services.database.transaction() as connection:
        _require(connection, key)
        connection.execute(update(Stream).where(Stream.key == key).values(**values))
    say(f"stream {key}: {said}, from the next mail that is claimed on")
    if values.get("return_path"):
        say(
            "its MX must lead to a mailbox that `dripfleet inbound` reads, and its SPF record name"
            " the relay",
            style="yellow",
        )


def _require(connection: object, key: str) -> None:
    from sqlalchemy import Connection, select

    from models.sequence import Stream
    from tasks.errors import Permanent

    assert isinstance(connection, Connection)
    keys = sorted(connection.execute(select(Stream.key)).scalars())
    if key not in keys:
        raise Permanent(f"there is no stream {key!r}; expected one of {', '.join(keys)}")
