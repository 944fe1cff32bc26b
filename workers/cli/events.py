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
    "dripfleet events import sample.csv --source sample --shift-to-today",
)
def import_(
    file: str = typer.Argument(help="A CSV file in UTF-8 with a header row, or - for stdin."),
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
    """Bring events in from a CSV file; an event that is there already is not recorded twice.

    Columns: email or external_id, name, occurred_at (ISO 8601), source_id; every other column
    becomes a property. Rows whose subscriber is unknown go to the rejects file.
    """
    from tasks.audience.events import EventTally, import_events
    from tasks.audience.rejects import Rejects
    from tasks.audience.settings import load

    if source is None and file == "-":
        raise typer.BadParameter("stdin has no name; name the source with --source")
    origin = source or Path(file).name.removesuffix(".csv")
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
