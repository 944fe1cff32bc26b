"""`dripfleet doubt`: mails of which nobody knows whether they arrived, and what one knows of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING

import typer

from workers.cli import evidence
from workers.cli.context import connected
from workers.cli.render import ExitCode, emit, number, say
from workers.cli.retry import check_ids, outcome, tell_refused

if TYPE_CHECKING:
    from models.session import Database

doubt = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="List mails in doubt, and resolve them by what the relay knows.",
)

MOST = 1000


class Verdict(StrEnum):
    """What became of a mail, as the operator knows it."""

    sent = "sent"
    resend = "resend"
    drop = "drop"


def register(app: typer.Typer) -> None:
    """Add `dripfleet doubt`."""
    evidence.register(doubt)
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
    """List the mails in doubt, with the policy of their stream and what is known of each try.

    Their last dot was written, and no reply came. Without a time under "held until" a mail waits
    for an operator: look for its Message-ID in the relay's log, then `doubt resolve`. The others
    are settled by their stream's policy at that time.
    """
    from tasks.moves.settle import doubts
    from workers.cli.stream import _require

    with connected() as services, services.database.snapshot() as connection:
        if stream is not None:
            _require(connection, stream)
        found = doubts(connection, stream, most)
    columns = (
        "id", "stream", "doubt_policy", "sequence_key", "step_id", "address", "rfc_message_id",
        "evidence", "doubted_at", "held_until",
    )  # fmt: skip
    emit(found, columns=columns, as_json=as_json)
    if len(found) == most:
        say(f"there may be more than these {number(most)}; --most shows them")
    waiting = sum(each.held_until is None for each in found)
    if waiting:
        say(f"{number(waiting)} wait for an operator: `dripfleet doubt resolve ID --as …`")


@doubt.command(
    epilog="Examples:\n\n"
    'dripfleet doubt resolve 4711 --as sent --reason "250 in the log of mx1, 14:02"\n\n'
    'dripfleet doubt resolve 4711 4712 --as resend --reason "not in the log" --dry-run\n\n'
    'dripfleet doubt resolve --stream marketing --as drop --reason "mx1 lost its disk" --dry-run',
)
def resolve(
    ids: list[int] | None = typer.Argument(
        None, metavar="[MESSAGE_ID]...", help="Row ids of messages."
    ),
    verdict: Verdict = typer.Option(
        ...,
        "--as",
        help="sent: it arrived. resend: it did not, send it again. drop: it did not, and shall not.",
    ),
    reason: str = typer.Option(
        ..., help="How you know, in one line; kept with the mail, `explain` shows it."
    ),
    stream: str | None = typer.Option(None, help="Instead of ids: all in doubt of this stream."),
    all_: bool = typer.Option(False, "--all", help="Instead of ids: all that are in doubt."),
    yes: bool = typer.Option(False, "--yes", help="With --stream or --all: ask nothing."),
    late: bool = typer.Option(
        False, "--late", help="Resend also what is past its time, outside its sending window."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would happen, write nothing."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> int:
    """Resolve mails in doubt by what you know; safe to repeat.

    A resend sends the same bytes, or nothing: a mail that can no longer be made the same comes back
    here with the reason content_changed. Mails that a policy assumed sent can be resolved by id as
    sent or drop too; their sequence has gone on. A whole stream is asked for twice. Exit 1 if an id
    is unknown.
    """
    from tasks.moves.operate import Operated
    from tasks.moves.settings import DeliverySettings
    from tasks.moves.settle import settle
    from workers.cli.stream import _require

    if bool(ids) + (stream is not None) + all_ != 1:
        raise typer.BadParameter("expected message ids, or --stream KEY, or --all: one of them")
    check_ids(ids or [])
    if not reason.strip() or not reason.isprintable():
        raise typer.BadParameter("expected one line of text", param_hint="--reason")
    told, settings = Operated(), DeliverySettings()
    with connected() as services:
        database = services.database
        if stream is not None:
            with database.snapshot() as connection:
                _require(connection, stream)
        if not ids and not dry_run and not yes:
            _ask_twice(sum(map(len, _batches(database, None, stream))), stream, verdict)
        try:
            for batch in _batches(database, ids, stream):
                opened = database.snapshot() if dry_run else database.transaction()
                with opened as connection:
                    done = settle(
                        connection, batch, verdict.value, settings,
                        reason=reason.strip()[:500], late=late, dry_run=dry_run,
                    )  # fmt: skip
                told.done.extend(done.done)
                told.refused.extend(done.refused)
        except KeyboardInterrupt:
            say(f"stopped after {number(len(told.done))}; run it again to go on")
            raise
    tell_refused(told.refused)
    emit(
        outcome("resolved", len(told.done), told.refused)
        | {"as": verdict.value, "dry_run": dry_run},
        title="what would happen" if dry_run else None,
        as_json=as_json,
    )
    return ExitCode.FAULT if any(r.reason == "unknown" for r in told.refused) else ExitCode.OK


def _batches(database: Database, ids: list[int] | None, stream: str | None) -> Iterator[list[int]]:
    from tasks.moves.operate import BATCH
    from tasks.moves.settle import in_doubt_of

    if ids:
        yield from (ids[at : at + BATCH] for at in range(0, len(ids), BATCH))
        return
    after = 0
    while True:
        with database.snapshot() as connection:
            found = in_doubt_of(connection, stream, after, BATCH)
        if found:
            yield found
            after = found[-1]
        if len(found) < BATCH:
            return


def _ask_twice(n: int, stream: str | None, verdict: Verdict) -> None:
    """Ask once with the count, and once more for the word itself: a key pressed twice is no answer.

    Raises:
        BadParameter: nobody is there to answer.
        Abort: the answer was no.
    """
    if not sys.stdin.isatty():
        raise typer.BadParameter(
            "nobody is here to be asked; --yes resolves them all, --dry-run counts them"
        )
    which = f"of stream {stream}" if stream is not None else "of all streams"
    does = {
        Verdict.sent: "call them sent",
        Verdict.resend: "send each of them again: who has a copy gets a second one",
        Verdict.drop: "give them up: who has no copy gets none",
    }[verdict]
    typer.confirm(f"{number(n)} mails in doubt {which}: {does}?", abort=True, err=True)
    said = typer.prompt(f"Once more: type {verdict.value} to do it", default="", err=True)
    if said.strip() != verdict.value:
        say("nothing was done")
        raise typer.Abort
