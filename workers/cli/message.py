"""`dripfleet explain` and `dripfleet message`: why a mail went or did not, and the mail itself.

What an operator does about a mail stands beside it: `dripfleet retry` and `dripfleet doubt`.
"""

from __future__ import annotations

import sys
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any

import typer

from workers.cli import doubt, retry
from workers.cli.context import connected
from workers.cli.render import emit, plain

if TYPE_CHECKING:
    from tasks.send.dossier import Mail
    from tasks.send.settings import SendSettings

message = typer.Typer(no_args_is_help=True, help="Look at one mail.")

AS_JSON = typer.Option(False, "--json", help="JSON on a terminal too.")

_LIKENESS = {
    "same": "byte for byte what was handed to the relay",
    "differs": (
        "NOT what was handed to the relay: sender settings, secret or the address have changed since"
    ),
    "not_armed": "nothing was handed to the relay yet",
}


def register(app: typer.Typer) -> None:
    """Add `dripfleet explain`, `dripfleet message`, `dripfleet retry` and `dripfleet doubt`."""
    app.command(
        epilog="Examples:\n\ndripfleet explain zoe@example.com\n\n"
        "dripfleet explain zoe@example.com win-back\n\n"
        "dripfleet explain zoe@example.com win-back --step nudge\n\ndripfleet explain crm-4711 --json",
    )(explain)
    app.add_typer(message, name="message")
    retry.register(app)
    doubt.register(app)


@message.callback()
def _group() -> None:
    """Look at one mail."""


def explain(
    who: str = typer.Argument(metavar="EMAIL", help="An e-mail address, or an external id."),
    sequence: str | None = typer.Argument(None, help="Only this sequence."),
    step: str | None = typer.Option(None, help="Only this step of it: did its mail go, and why?"),
    utc: bool = typer.Option(False, "--utc", help="Times in UTC, not in the subscriber's zone."),
    as_json: bool = AS_JSON,
) -> None:
    """Say why a mail went or did not: what happened to a subscriber, and what happens next.

    One line each, oldest first: entries, decisions of the planner, every attempt with the relay's
    reply, stops; then, for each sequence, what it waits for, or who should be moving it. On a terminal
    times are those of the subscriber's own clock; JSON has UTC.
    """
    if step is not None and sequence is None:
        raise typer.BadParameter(
            "expected the sequence of that step before it", param_hint="--step"
        )
    from tasks.audience.settings import load
    from tasks.audience.store import check_secret, get
    from tasks.sequence.explain import explain as tell
    from tasks.sequence.explain import in_zone

    with connected() as services, services.database.snapshot() as connection:
        secret = load().key
        # Under another secret nobody would be found, which is not what is wrong.
        check_secret(connection, secret)
        subscriber = get(connection, who, secret)
        told = tell(connection, subscriber.id, sequence, step)
    if as_json or not sys.stdout.isatty():
        emit(told, as_json=True)
        return
    zone = None if utc else told.zone
    if zone is not None:
        typer.echo(f"times are those of {zone}, with their distance from UTC")
    for line in told.lines:
        typer.echo(_clean(in_zone(str(line), zone)))
    if told.step is not None:
        typer.secho(f"step  {_clean(in_zone(told.step, zone))}", bold=True)
    for sentence in told.next:
        typer.secho(f"next  {_clean(in_zone(sentence, zone))}", bold=True)


@message.command(
    epilog="Examples:\n\ndripfleet message show 4711\n\n"
    "dripfleet message show '<4nq…@example.com>' --json",
)
def show(
    reference: str = typer.Argument(metavar="ID", help="Row id, or Message-ID."),
    as_json: bool = AS_JSON,
) -> None:
    """Show one mail: its state and times, headers and text, attempts and the relay's replies.

    The mail is made again from what was frozen at its claim, and compared with the hash of what
    was handed to the relay.
    """
    from tasks.send.dossier import dossier

    with connected() as services, services.database.snapshot() as connection:
        found = dossier(connection, reference, _settings())
    content = _content(found.mail)
    if as_json or not sys.stdout.isatty():
        emit(
            {
                "message": found.facts,
                "attempts": found.attempts,
                "content": content,
                "why_no_content": found.why_not,
                **({"came_back": found.came_back} if found.came_back else {}),
            },
            as_json=True,
        )
        return
    emit({name: value for name, value in plain(found.facts).items() if value is not None})
    if found.attempts:
        columns = (
            "epoch",
            "outcome",
            "stage",
            "code",
            "enhanced_code",
            "reply",
            "ended_at",
            "evidence",
        )
        emit(found.attempts, columns=columns, title="attempts")
    if found.came_back:
        emit(found.came_back, title="came back")
    if content is None:
        typer.echo(f"the mail cannot be shown: {found.why_not}")
        return
    typer.secho(f"the mail: {content['is']}", bold=True)
    for name, value in content["headers"].items():
        typer.echo(_clean(f"{name}: {value}"))
    typer.echo("")
    typer.echo(_clean(content["text"]))


def _settings() -> SendSettings | None:
    """Those of the send pool; the relay is not needed to look at a mail."""
    import os

    from pydantic import SecretStr, ValidationError

    from tasks.send.settings import SendSettings

    relay = os.environ.get("DRIPFLEET_SMTP_URL") or "smtp://localhost"
    try:
        return SendSettings(smtp_url=SecretStr(relay))
    except ValidationError:
        return None


def _content(mail: Mail | None) -> dict[str, Any] | None:
    if mail is None:
        return None
    read = message_from_bytes(mail.octets, policy=policy.default)
    assert isinstance(read, EmailMessage)
    text = read.get_body(("plain",))
    html = read.get_body(("html",))
    origin = "as it was kept" if mail.kept else "rendered again"
    if not mail.frozen:
        origin = "as it would be if it were claimed now"
    return {
        "is": f"{origin}; {_LIKENESS[mail.likeness]}",
        "likeness": mail.likeness,
        "headers": {name: str(value) for name, value in read.items()},
        "text": _lines(text.get_content()) if text is not None else "",
        "html": _lines(html.get_content()) if html is not None else None,
    }


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n")


def _clean(text: str) -> str:
    """Without what could steer the terminal: replies and attributes are other people's words."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
