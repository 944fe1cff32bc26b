"""`dripfleet events`: what subscribers did elsewhere comes in."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import typer

from workers.cli.context import connected
from workers.cli.render import emit, number, plain, progress, say
from workers.cli.segment import without_log
from workers.cli.subscribers import beside, opened, position, tell_rejects

if TYPE_CHECKING:
    from tasks.audience.events import EventTally

events = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Bring in what subscribers did."
)


def register(app: typer.Typer) -> None:
    """Add `dripfleet events`."""
    app.add_typer(events, name="events")


@events.callback()
def _group() -> None:
    """Bring in what subscribers did."""


@events.command(
    "import",
    epilog="Examples:\n\ndripfleet events import purchases.csv --source shop\n\n"
    "dripfleet events import purchases.csv --source shop --dry-run\n\n"
    "dripfleet events import purchases.parquet --source shop\n\n"
    "dripfleet events import clicks.ndjson --source clicks\n\n"
    "dripfleet events import sample.csv --source sample --shift-to-today",
)
def import_(
    file: str = typer.Argument(
        help="A CSV file in UTF-8 with a header row, a Parquet file, NDJSON, or - for stdin."
    ),
    source: str | None = typer.Option(
        None, help="Who gave the source_ids out; by default the file's name."
    ),
    shift_to_today: bool = typer.Option(
        False,
        "--shift-to-today",
        help="Move all dates by whole days, the last one to yesterday; fixed at first import.",
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would happen, write nothing."),
    rejects: Path | None = typer.Option(
        None, help="Where refused rows go; by default FILE.rejects.csv."
    ),
    as_json: bool = typer.Option(False, "--json", help="Summary as JSON."),
) -> None:
    """Bring events in from a file; an event that is there already is not recorded twice.

    Columns: email or external_id, name, occurred_at (ISO 8601), source_id; every other column
    becomes a property: text, or as `amount:number`, `items:int`, `paid:bool` say, or as its type in
    Parquet. A line of NDJSON is an object of the same names. Rows whose subscriber is unknown go to
    the rejects file.
    """
    from tasks.audience.events import EventTally, import_events
    from tasks.audience.rejects import Rejects
    from tasks.audience.settings import load

    if source is None and file == "-":
        raise typer.BadParameter("stdin has no name; name the source with --source")
    origin = source or Path(file).stem
    with (
        opened(file) as (stream, name),
        _seekable(stream, shift_to_today and file == "-") as content,
        connected() as services,
    ):
        refused = Rejects(None if dry_run else rejects or beside(file))
        so_far = EventTally()
        with progress("importing") as bar:

            def on_chunk(tally: EventTally) -> None:
                nonlocal so_far
                so_far = tally
                done, total = position(content)
                bar.show(done, total, f"{number(tally.rows)} rows")

            try:
                import_events(
                    services.database,
                    content,
                    name=name,
                    source=origin,
                    secret=load().key,
                    rejects=refused,
                    shift_to_today=shift_to_today,
                    dry_run=dry_run,
                    on_chunk=on_chunk,
                )
            except KeyboardInterrupt:
                say(f"stopped after {number(so_far.rows)} rows; run it again to go on")
                raise
            finally:
                refused.close()
    _tell_shift(so_far, origin, shift_to_today)
    tell_rejects(so_far.reasons, so_far.first, refused.path)
    _summary(so_far, dry_run, as_json)


@events.command(
    epilog="Examples:\n\ndripfleet events add zoe@example.com purchase --property amount:number=19.9\n\n"
    "dripfleet events add crm-4711 cancelled --at 2026-02-28T14:30:00+01:00 --source shop"
    " --source-id 81\n\ndripfleet events add zoe@example.com purchase --dry-run",
)
def add(
    who: str = typer.Argument(metavar="EMAIL", help="An e-mail address, or an external id."),
    name: str = typer.Argument(metavar="NAME", help="What happened, in a word: purchase."),
    at: str | None = typer.Option(
        None, help="When: ISO 8601, in UTC where it names no offset. By default now."
    ),
    properties: list[str] = typer.Option(
        [],
        "--property",
        metavar="KEY=VALUE",
        help="May be given again; KEY:int, KEY:number and KEY:bool are no text.",
    ),
    source: str = typer.Option("cli", help="Who gave the source id out."),
    source_id: str | None = typer.Option(
        None, help="With it the event is recorded once, however often this is run."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would happen, write nothing."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> None:
    """Record one event of a subscriber, as a row of `events import` would.

    The date is taken as it is given, also where the imports of its source are shifted.
    """
    from tasks.audience.event_row import BadEvent, moment
    from tasks.audience.one_event import properties_of, record_event
    from tasks.audience.settings import load
    from tasks.audience.store import check_secret, get

    try:
        when = None if at is None else moment(at)
    except BadEvent as fault:
        raise typer.BadParameter(str(fault), param_hint="--at") from None
    try:
        known = properties_of(properties)
    except ValueError as fault:
        raise typer.BadParameter(str(fault), param_hint="--property") from None
    with connected() as services:
        secret = load().key
        opened = services.database.snapshot() if dry_run else services.database.transaction()
        with opened as connection:
            check_secret(connection, secret)
            subscriber = get(connection, who, secret)
            done = record_event(
                connection,
                subscriber.id,
                name,
                at=when,
                properties=known,
                source=source,
                source_id=source_id,
                dry_run=dry_run,
            )
    if not done.new:
        say(f"an event {source_id!r} of source {source!r} is there already; nothing is recorded")
    emit(
        {
            "new": done.new,
            "id": done.id,
            "subscriber_id": subscriber.id,
            "name": name,
            "occurred_at": done.occurred_at,
            "properties": known,
            "dry_run": dry_run,
        },
        title="what would happen" if dry_run else None,
        as_json=as_json,
    )


@events.command(
    epilog="Examples:\n\ndripfleet events refused\n\ndripfleet events refused --retry\n\n"
    "dripfleet events refused -n 1000 --json\n\ndripfleet events refused --drop",
)
def refused(
    n: int = typer.Option(50, "-n", min=1, max=10_000, help="How many of them."),
    after: int = typer.Option(0, help="Go on behind this id."),
    retry: bool = typer.Option(False, "--retry", help="Record what can be recorded now."),
    drop: bool = typer.Option(False, "--drop", help="Forget them."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> None:
    """List events that producers sent (`track.record`) and that were refused, with the reason.

    They are kept until they are recorded, as with --retry once their subscribers are there, or
    dropped.
    """
    from tasks.audience import track
    from tasks.audience.settings import load
    from tasks.audience.store import check_secret

    if retry and drop:
        raise typer.BadParameter("expected --retry or --drop, not both")
    with connected() as services, services.database.transaction() as connection:
        rows = track.refused(connection, n, after)
        if retry:
            secret = load().key
            check_secret(connection, secret)
            with without_log():
                told = track.retry(connection, secret, rows)
            emit(told, as_json=as_json)
            return
        if drop:
            say(f"dropped {number(track.forget(connection, [row['id'] for row in rows]))} events")
            return
    emit(plain(rows), title="Refused events", as_json=as_json)


@contextmanager
def _seekable(stream: BinaryIO, needed: bool) -> Iterator[BinaryIO]:
    """The stream, kept in a nameless file where it is a pipe and has to be read twice."""
    if not needed:
        yield stream
        return
    with tempfile.TemporaryFile() as kept:
        shutil.copyfileobj(stream, kept)
        kept.seek(0)
        yield kept


def _tell_shift(tally: EventTally, origin: str, asked: bool) -> None:
    days = tally.shift.days
    if tally.shift_fixed_before and (asked or days):
        say(
            f"the dates of source {origin!r} move by {number(days)} days, as its first import fixed"
            " it"
        )
    elif days:
        say(f"the dates of source {origin!r} move by {number(days)} days, from now on")


def _summary(tally: EventTally, dry_run: bool, as_json: bool) -> None:
    data = {n: value for n, value in plain(tally).items() if n not in ("first", "seconds", "shift")}
    data |= {
        "shift_days": tally.shift.days,
        "rows": tally.rows,
        "rows_per_second": round(tally.rows / max(tally.seconds, 1e-3)),
        "dry_run": dry_run,
    }
    if not as_json:
        del data["reasons"]
    emit(data, title="what would happen" if dry_run else None, as_json=as_json)
