"""`dripfleet retry`: mails that failed are tried again."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from workers.cli.context import connected
from workers.cli.render import ExitCode, emit, number, plain, progress, say

if TYPE_CHECKING:
    from models.session import Database
    from tasks.moves.operate import Operated, Refusal

LARGEST = 2**63 - 1
"""The largest id that Postgres's bigint holds."""

WHY = {
    "unknown": "no message has this id",
    "not_failed": "it has not failed",
    "accepted": "the relay took a copy of it",
    "doubted": "a copy may be out; nobody has said yet whether it arrived",
    "stopped": "its subscriber was stopped",
    "suppressed": "its address is suppressed",
    "opted_out": "its subscriber opted out of the topic",
    "ended": "its enrollment was ended by something else",
    "entered_again": "its subscriber has entered the sequence again",
    "moved_on": "another mail of its enrollment is under way, or a later one went out",
    "late": "its time is over; --late takes those too",
    "not_in_doubt": "it is not in doubt",
    "in_flight": "it waits for the relay's own reply",
    "not_tried": "no such try of it is on record",
    "answered": "the relay has answered for it already",
    "several_tries": "it was tried more than once, and this does not say which try it speaks of",
    "said_already": "another line spoke of it first",
}
"""What a refusal in a word means to a person."""


def register(app: typer.Typer) -> None:
    """Add `dripfleet retry`."""
    app.command(
        epilog="Examples:\n\ndripfleet retry --list --reason poison\n\n"
        "dripfleet retry 4711 4712\n\n"
        "dripfleet retry --sequence win-back --reason refused --since 2h --dry-run\n\n"
        "dripfleet retry --sequence win-back --step first-offer --late",
    )(retry)


def retry(
    ids: list[int] | None = typer.Argument(
        None, metavar="[MESSAGE_ID]...", help="Row ids of messages."
    ),
    sequence: str | None = typer.Option(None, help="All that failed in this sequence."),
    step: str | None = typer.Option(None, help="With --sequence or --list: only this step."),
    reason: str | None = typer.Option(
        None,
        help="With --sequence or --list: only what failed for this reason (refused, poison, …).",
    ),
    since: str | None = typer.Option(
        None, help="With --sequence or --list: only what failed in the last 30m, 2h, 3d."
    ),
    late: bool = typer.Option(
        False, "--late", help="Those too whose time is over, outside their sending window."
    ),
    list_: bool = typer.Option(
        False, "--list", help="Show those that failed, and whether each may be tried again."
    ),
    most: int = typer.Option(500, min=1, help="With --list: how many at most, the newest first."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would happen, write nothing."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> int:
    """Try failed mails again, with the template and the data of now; safe to repeat.

    An enrollment steps back to the mail and goes on from there when it has ended: waits behind it
    begin again, mails that were sent are not sent again. One that completed, or left because of the
    failure, is opened again. Refused, each with its reason: a mail whose enrollment has another mail
    under way or sent a later one, people who were stopped, suppressed or opted out, enrollments that
    something else ended, a mail of which a copy may be out, one whose time is over (see --late).
    Exit 1 if an id is unknown.
    """
    if list_:
        if ids:
            raise typer.BadParameter(
                "--list takes no message ids; `dripfleet message show ID` does"
            )
        return _list(sequence, step, reason, _span(since), late, most, as_json)
    if bool(ids) == (sequence is not None):
        raise typer.BadParameter("expected either message ids, or --sequence KEY")
    if sequence is None and (step or reason or since):
        raise typer.BadParameter("--step, --reason and --since choose among those of a --sequence")
    check_ids(ids or [])
    span = _span(since)
    from tasks.moves import operate
    from tasks.moves.settings import DeliverySettings

    settings, done = DeliverySettings(), 0
    refused: list[Refusal] = []
    with connected() as services, progress("looking" if dry_run else "retrying") as bar:
        database = services.database

        def take(batch: list[int]) -> None:
            nonlocal done
            told = _one(database, batch, settings, late, dry_run)
            done += len(told.done)
            refused.extend(told.refused)
            bar.show(done + len(refused), None, f"{number(done)} of {number(done + len(refused))}")

        try:
            if ids:
                for at in range(0, len(ids), operate.BATCH):
                    take(ids[at : at + operate.BATCH])
            else:
                assert sequence is not None
                for batch in _batches(database, sequence, step, reason, span):
                    take(batch)
        except KeyboardInterrupt:
            say(f"stopped after {number(done)}; run it again to go on")
            raise
    tell_refused(refused)
    emit(
        outcome("retried", done, refused) | {"dry_run": dry_run},
        title="what would happen" if dry_run else None,
        as_json=as_json,
    )
    return ExitCode.FAULT if any(r.reason == "unknown" for r in refused) else ExitCode.OK


def check_ids(ids: list[int]) -> None:
    """Refuse numbers that cannot be ids of messages, before Postgres does in its own words."""
    for each in ids:
        if not 0 < each <= LARGEST:
            raise typer.BadParameter(f"{each} is no message id: expected a number above zero")


def outcome(verb: str, done: int, refused: list[Refusal]) -> dict[str, Any]:
    """What a move by hand did, for `emit`: a count, and the refusals by reason."""
    return {verb: done, "refused": dict(Counter(r.reason for r in refused))}


def tell_refused(refused: list[Refusal], most: int = 5) -> None:
    """Say why messages were left alone, with the first ids of each reason."""
    for reason, count in Counter(r.reason for r in refused).most_common():
        first = [r for r in refused if r.reason == reason][:most]
        which = ", ".join(f"{r.id} ({r.state})" if r.state else str(r.id) for r in first)
        more = ", …" if count > len(first) else ""
        say(f"left alone {number(count)}: {WHY[reason]}: {which}{more}", style="yellow")


def _list(
    sequence: str | None,
    step: str | None,
    reason: str | None,
    since: dt.timedelta | None,
    late: bool,
    most: int,
    as_json: bool,
) -> int:
    from tasks.moves.failed import failed_mails
    from tasks.moves.settings import DeliverySettings
    from tasks.sequence.catalog import require

    with connected() as services:
        if sequence is not None:
            with services.database.transaction() as connection:
                require(connection, sequence)
        with services.database.snapshot() as connection:
            found = failed_mails(
                connection, DeliverySettings(), sequence=sequence, step=step, reason=reason,
                since=since, late=late, most=most,
            )  # fmt: skip
    rows = [
        {**plain(each), "retry": "yes" if each.refusal is None else f"no: {WHY[each.refusal]}"}
        for each in found
    ]
    columns = (
        "id",
        "sequence_key",
        "step_id",
        "address",
        "reason",
        "crashes",
        "failed_at",
        "retry",
    )
    emit(rows, columns=columns, as_json=as_json)
    if len(found) == most:
        say(f"there may be more than these {number(most)}; --most shows them")
    return ExitCode.OK


def _one(database: Database, ids: list[int], settings: Any, late: bool, dry_run: bool) -> Operated:
    from tasks.moves.operate import retry as move

    opened = database.snapshot() if dry_run else database.transaction()
    with opened as connection:
        return move(connection, ids, settings, late=late, dry_run=dry_run)


def _batches(
    database: Database,
    sequence: str,
    step: str | None,
    reason: str | None,
    since: dt.timedelta | None,
) -> Iterator[list[int]]:
    from tasks.moves.operate import BATCH, failed_of, last_id
    from tasks.sequence.catalog import require

    with database.transaction() as connection:
        require(connection, sequence)
        last, after = last_id(connection), 0
    while True:
        with database.snapshot() as connection:
            found = failed_of(
                connection, sequence, after=after, last=last, step=step, reason=reason, since=since
            )
        if found:
            yield found
        if len(found) < BATCH:
            return
        after = found[-1]


def _span(since: str | None) -> dt.timedelta | None:
    from schedules.durations import parse_duration

    try:
        return None if since is None else parse_duration(since)
    except ValueError as fault:
        raise typer.BadParameter(str(fault), param_hint="--since") from None
