"""`dripfleet content send`: a mail into real mailboxes of a seed list, before anybody gets it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from workers.cli.render import ExitCode, emit, say

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tasks.send.attached import Files

# Whoever said stop gets no test mail either, whatever it is about.
HELD = """
SELECT i.identity FROM unnest(CAST(:identities AS bytea[])) AS i (identity)
WHERE EXISTS (SELECT 1 FROM suppression p WHERE p.address_hmac = i.identity)
   OR EXISTS (SELECT 1 FROM subscriber s
              WHERE s.address_hmac = i.identity AND s.stopped_at IS NOT NULL)
"""


def register(content: typer.Typer) -> None:
    """Add `dripfleet content send`."""
    content.command(
        epilog="Examples:\n\ndripfleet content send win-back/hello --to you@example.com\n\n"
        "dripfleet content send win-back/hello --to a@example.com --to b@example.com --locale de-AT"
    )(send)


def send(
    template: str = typer.Argument(help="Name of a template, such as win-back/hello."),
    to: list[str] | None = typer.Option(
        None, help="An address; repeatable. By default those of DRIPFLEET_SEED_LIST."
    ),
    stream: str = typer.Option("marketing", help="Through whose relay and as whose sender."),
    templates: Path | None = typer.Option(
        None,
        envvar="DRIPFLEET_TEMPLATES",
        help="Folder of templates; default: those that ship.",
    ),
    case: str = typer.Option("full", help="Whom to render it for: full, minimal or non-ascii."),
    locale: str | None = typer.Option(None, help="Of whom it is rendered for, such as de-AT."),
    prompt: str | None = typer.Option(
        None, help="With the first variant of this prompt in its slots."
    ),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> int:
    """Send a test mail to a few addresses over the real relay, marked, and counted as nobody's.

    It is rendered for a made-up subscriber and signed like every mail. A suppressed or stopped address
    gets nothing. Exit 3 if one of them was not taken.
    """
    from pydantic import SecretStr, ValidationError

    from models.session import Database
    from tasks.audience.settings import load
    from tasks.errors import Misconfigured
    from tasks.send import route
    from tasks.send.outcome import Accepted
    from tasks.send.prepare import Preparer
    from tasks.send.seed import MOST, Seeder
    from tasks.send.service import relays
    from tasks.send.settings import SendSettings
    from workers.cli.content import rendered
    from workers.embedded.stack import Stack

    with Stack(say=say) as stack:
        stack.adopt()
        try:
            settings = SendSettings(smtp_url=SecretStr(stack.smtp_url))
        except ValidationError as fault:
            raise Misconfigured(
                f"the send pool: {fault.errors()[0]['msg']}; see env.example"
            ) from None
        wanted = list(dict.fromkeys(each.strip() for each in to or settings.seed_list.split()))
        if not wanted or len(wanted) > MOST:
            raise typer.BadParameter(
                f"expected 1 to {MOST} addresses, by --to or in DRIPFLEET_SEED_LIST, parted by blanks"
            )
        database = Database(stack.database_url, name="dripfleet-cli", size=1)
        try:
            way = Preparer(database, settings).stream(stream)
            with database.snapshot() as connection:
                held = _held(connection, wanted, load().key)
        finally:
            database.close()
        known = relays(settings)
        ways = route.parse(way.relay)
        relay = route.choose(ways, known.__contains__)
        if relay is None:
            raise Misconfigured(
                f"stream {stream} names the relay {way.relay!r}, which is not known here; set"
                f" DRIPFLEET_SMTP_URL_{ways[0][0].upper()}"
            )
        seeder = Seeder(settings, known[relay], way.sender, marketing=way.reach.leaves)
        made = rendered(
            template, templates, case, prompt, locale, sender=way.sender, leaving=seeder.leaving
        )
        open_to = [each for each in wanted if each not in held]
        files = _files(template, templates, case, locale)
        mails = [seeder.mail(made, each, files) for each in open_to]
        told = asyncio.run(seeder.deliver(mails))
    rows = [{"to": each, "outcome": "not sent", "said": "suppressed"} for each in held]
    taken = 0
    for each, outcome in zip(open_to, told, strict=True):
        taken += isinstance(outcome, Accepted)
        said = " ".join(str(part) for part in (outcome.code, outcome.text) if part)
        rows.append({"to": each, "outcome": type(outcome).__name__.lower(), "said": said})
    emit(rows, title=f"Test mails of {template}", as_json=as_json)
    say(f"{taken} of {len(wanted)} were taken by the relay")
    return ExitCode.OK if taken == len(wanted) else ExitCode.FINDINGS


def _files(template: str, root: Path | None, case: str, locale: str | None) -> Files:
    """What goes with the mail of that made-up subscriber."""
    from tasks.send.render import bundle_from_folder, files_of
    from tasks.sequence.publish import MADE_UP
    from workers.cli.proof import installed_templates

    sample = next(each.variables for each in MADE_UP if f"'{case}'" in each.case)
    subscriber = {**sample, **({"locale": locale} if locale else {})}
    bundle = bundle_from_folder(root or installed_templates(), template)
    return files_of(bundle, {"subscriber": subscriber})


def _held(connection: Connection, wanted: list[str], secret: bytes) -> list[str]:
    """Those of the addresses that nobody may write to.

    Raises:
        typer.BadParameter: one is no address.
        Misconfigured: under this secret no suppression would be found.
    """
    from sqlalchemy import text

    from tasks.audience.address import RefusedAddress, address_hmac, parse
    from tasks.audience.store import check_secret

    check_secret(connection, secret)
    identities: dict[bytes, str] = {}
    for each in wanted:
        try:
            identities[address_hmac(secret, parse(each))] = each
        except RefusedAddress as fault:
            raise typer.BadParameter(f"{each[:64]!r} {fault}", param_hint="--to") from None
    found = connection.execute(text(HELD), {"identities": list(identities)}).scalars()
    return [identities[bytes(identity)] for identity in found]
