"""`dripfleet doubt`: mails of which nobody knows whether they arrived, and the operator's word."""

from __future__ import annotations

from enum import StrEnum

import typer

from workers.cli.context import connected
from workers.cli.render import ExitCode, emit, number, say
from workers.cli.retry import check_ids, outcome, tell_refused

doubt = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="List mails in doubt, and settle them by what the relay knows.",
)

MOST = 1000


class Verdict(StrEnum):
    """What became of a mail, as the operator knows it."""

    sent = "sent"
    failed = "failed"
    resend = "resend"


def register(app: typer.Typer) -> None:
    """Add `dripfleet doubt`."""
    app.add_typer(doubt, name="doubt")


@doubt.command(
    "list",
    epilog="Examples:\n\ndripfleet doubt list\n\ndripfleet doubt list --stream marketing --json",
)
def list_(
    stream: str | None = typer.Option(None, help="Only of this stream."),
    most: int = typer.Option(MOST, min=1, help="How many at most."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> None:
    """List the mails in doubt: their last dot was written, and no reply came.

    Without a time under "held until" a mail waits for an operator: look for its Message-ID in the
    relay's log, then `doubt settle`. The others are settled by their stream's policy at that time.
    """
    from tasks.moves.settle import doubts
    from workers.cli.stream import _require

    with connected() as services, services.database.snapshot() as connection:
        if stream is not None:
            _require(connection, stream)
        found = doubts(connection, stream, most)
    columns = (
        "id", "stream", "sequence_key", "step_id", "address", "rfc_message_id", "reason",
        "doubted_at", "held_until",
    )  # fmt: skip
    emit(found, columns=columns, as_json=as_json)
    if len(found) == most:
        say(f"there may be more than these {number(most)}; --most shows them")
    waiting = sum(each.held_until is None for each in found)
    if waiting:
        say(f"{number(waiting)} wait for an operator: `dripfleet doubt settle ID --as …`")


@doubt.command(
    epilog="Examples:\n\n"
    'dripfleet doubt settle 4711 --as sent --note "250 in the log of mx1, 14:02"\n\n'
    "dripfleet doubt settle 4711 4712 --as resend --dry-run",
)
def settle(
    ids: list[int] = typer.Argument(metavar="MESSAGE_ID...", help="Row ids of messages."),
    verdict: Verdict = typer.Option(
        ...,
        "--as",
        help="sent: it arrived. failed: it did not, drop it. resend: it did not, send it again.",
    ),
    note: str = typer.Option("", help="How you know; kept with the mail, `explain` shows it."),
    late: bool = typer.Option(
        False, "--late", help="Resend also what is past its time, outside its sending window."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would happen, write nothing."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> int:
    """Settle mails in doubt by what you know; safe to repeat.

    A resend sends the same bytes, or nothing: a mail that can no longer be made the same comes back
    here with the reason content_changed. Mails that a policy assumed sent can be settled as sent or
    failed too; their sequence has gone on. Exit 1 if an id is unknown.
    """
    from tasks.moves.operate import BATCH, Operated
    from tasks.moves.settings import DeliverySettings
    from tasks.moves.settle import settle as move

    check_ids(ids)
    if not note.isprintable():
        raise typer.BadParameter("expected one line of text", param_hint="--note")
    told, settings = Operated(), DeliverySettings()
    with connected() as services:
        for at in range(0, len(ids), BATCH):
            opened = services.database.snapshot() if dry_run else services.database.transaction()
            with opened as connection:
                done = move(
                    connection, ids[at : at + BATCH], verdict.value, settings,
                    note=note.strip()[:500], late=late, dry_run=dry_run,
                )  # fmt: skip
            told.done.extend(done.done)
            told.refused.extend(done.refused)
    tell_refused(told.refused)
    emit(
        outcome("settled", len(told.done), told.refused)
        | {"as": verdict.value, "dry_run": dry_run},
        title="what would happen" if dry_run else None,
        as_json=as_json,
    )
    return ExitCode.FAULT if any(r.reason == "unknown" for r in told.refused) else ExitCode.OK
