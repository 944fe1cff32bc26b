"""`dripfleet subscribers`: bring people in, look at one, stop one; give out or erase what is known."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import typer

from workers.cli.context import connected
from workers.cli.render import emit, number, plain, progress, say
from workers.cli.topic import tell_asked

if TYPE_CHECKING:
    from tasks.audience.importer import Tally
    from tasks.audience.store import Dossier

subscribers = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Bring subscribers in, look at one, stop one; export or erase what is known of them.",
)


def register(app: typer.Typer) -> None:
    """Add `dripfleet subscribers`."""
    app.add_typer(subscribers, name="subscribers")


@subscribers.command(
    "import",
    epilog="Examples:\n\ndripfleet subscribers import people.csv --dry-run\n\n"
    "dripfleet subscribers import people.csv\n\n"
    "dripfleet subscribers import people.parquet\n\n"
    "zcat people.csv.gz | dripfleet subscribers import -",
)
def import_(
    file: str = typer.Argument(
        help="A CSV file in UTF-8 with a header row, a Parquet file, or - for stdin."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would happen, write nothing."),
    rejects: Path | None = typer.Option(
        None, help="Where refused rows go; by default FILE.rejects.csv."
    ),
    as_json: bool = typer.Option(False, "--json", help="Summary as JSON."),
) -> None:
    """Bring subscribers in from a CSV or Parquet file; who is there already is brought up to date.

    Columns: email (required), first_name, locale, zone, external_id, topic:KEY (yes or no); every
    other column becomes an attribute: text, or as `orders:int`, `spent:number`, `vip:bool` say, or
    as its type in Parquet. What is empty overwrites nothing, a stop stays a stop, and a bad row goes
    to the rejects file. Stopped with Ctrl-C, it can simply be run again.
    """
    from tasks.audience.importer import Tally, import_subscribers
    from tasks.audience.rejects import Rejects
    from tasks.audience.settings import load

    with opened(file) as (source, name), connected() as services:
        refused = Rejects(None if dry_run else rejects or beside(file))
        so_far = Tally()
        with progress("importing") as bar:

            def on_chunk(tally: Tally) -> None:
                nonlocal so_far
                so_far = tally
                done, total = position(source)
                bar.show(done, total, f"{number(tally.rows)} rows, {_rate(tally)}")

            try:
                import_subscribers(
                    services.database,
                    source,
                    name=name,
                    secret=load().key,
                    rejects=refused,
                    dry_run=dry_run,
                    on_chunk=on_chunk,
                )
            except KeyboardInterrupt:
                say(f"stopped after {number(so_far.rows)} rows; run it again to go on")
                raise
            finally:
                refused.close()
        if so_far.pending and not dry_run:
            tell_asked(services.database)
    _summary(so_far, refused.path, dry_run, as_json)


@subscribers.command(
    epilog="Examples:\n\ndripfleet subscribers show zoe@example.com\n\n"
    "dripfleet subscribers show crm-4711 --json",
)
def show(
    who: str = typer.Argument(help="An e-mail address, or an external id."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> None:
    """Show a subscriber: consents, suppressions, enrollments, messages, last decisions."""
    from tasks.audience.settings import load
    from tasks.audience.store import dossier, get

    with connected() as services, services.database.snapshot() as connection:
        found = dossier(connection, get(connection, who, load().key))
    _show(found, as_json)


@subscribers.command(
    epilog="Examples:\n\ndripfleet subscribers stop zoe@example.com --reason unsubscribe\n\n"
    "dripfleet subscribers stop zoe@example.com --reason complaint --dry-run",
)
def stop(
    who: str = typer.Argument(help="An e-mail address, or an external id."),
    reason: str = typer.Option(help="Why, in a word: unsubscribe, complaint, operator."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would happen, write nothing."),
) -> None:
    """Stop a subscriber for good: nothing more is sent, what is queued neither."""
    from tasks.audience.settings import load
    from tasks.audience.store import dossier, get
    from tasks.audience.store import stop as stop_now

    reason = reason.strip()
    if not reason:
        raise typer.BadParameter("expected a word that says why, such as unsubscribe")
    with connected() as services:
        secret = load().key
        if dry_run:
            with services.database.snapshot() as connection:
                found = dossier(connection, get(connection, who, secret), most=1_000)
            active = sum(bool(e["active"]) for e in found.enrollments)
            queued = sum(m["state"] in ("scheduled", "working") for m in found.messages)
            say(f"would stop {who}: {active} enrollments end, {queued} queued messages suppressed")
            return
        with services.database.transaction() as connection:
            subscriber = get(connection, who, secret)
            ended, suppressed = stop_now(connection, subscriber.id, reason)
    if subscriber.stopped_at is not None:
        say(f"{who} was stopped before, at {subscriber.stopped_at:%Y-%m-%d %H:%M %Z}")
    else:
        say(f"stopped {who}: {ended} enrollments ended, {suppressed} queued messages suppressed")


@subscribers.command(
    epilog="Examples:\n\ndripfleet subscribers export zoe@example.com",
)
def export(
    who: str = typer.Argument(help="An e-mail address, or an external id."),
) -> None:
    """Write everything that is stored about a subscriber as JSON: every row of every table."""
    from tasks.audience.personal_data import export as everything
    from tasks.audience.settings import load
    from tasks.audience.store import get

    with connected() as services, services.database.snapshot() as connection:
        found = everything(connection, get(connection, who, load().key))
    emit(found, as_json=True)


@subscribers.command(
    epilog="Examples:\n\ndripfleet subscribers erase zoe@example.com --dry-run\n\n"
    "dripfleet subscribers erase zoe@example.com --yes",
)
def erase(
    who: str = typer.Argument(help="An e-mail address, or an external id."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would go, and erase nothing."),
    yes: bool = typer.Option(False, "--yes", help="Really erase: it cannot be undone."),
    as_json: bool = typer.Option(False, "--json", help="Counts as JSON."),
) -> None:
    """Erase a subscriber: what is known of them goes, also from events and what was frozen of mails.

    They get nothing more, and a keyed hash of the address keeps it so, whoever brings the address in
    again. That mails were sent still counts. A mail in flight is settled first, and taken by the upkeep
    pool within ten minutes of that.
    """
    from tasks.audience.settings import load
    from tasks.audience.store import check_secret, get
    from tasks.moves.erase import erase as erase_now

    if not (yes or dry_run):
        raise typer.BadParameter("this cannot be undone: look with --dry-run, then add --yes")
    with connected() as services:
        secret = load().key
        with services.database.engine.connect() as connection, connection.begin() as transaction:
            check_secret(connection, secret)
            subscriber = get(connection, who, secret)
            done = erase_now(connection, subscriber.id, subscriber.address, subscriber.external_id)
            if dry_run:
                transaction.rollback()
    if done.in_flight:
        say(
            f"{done.in_flight} mails are in flight: upkeep takes the rest of them when they are settled"
        )
    title = "what would go" if dry_run else "what went"
    emit(
        {**done.rows, "in_flight": done.in_flight, "dry_run": dry_run}, title=title, as_json=as_json
    )


@contextmanager
def opened(file: str) -> Iterator[tuple[BinaryIO, str]]:
    """The bytes of a file, or of stdin for `-`, and what to call them.

    Raises:
        typer.BadParameter: it is a folder, is not there, or may not be read.
    """
    if file == "-":
        yield sys.stdin.buffer, "stdin"
        return
    try:
        source = open(file, "rb")
    except OSError as error:
        raise typer.BadParameter(
            f"{file}: {error.strerror}; expected a CSV or Parquet file, or -"
        ) from None
    with source:
        yield source, file


def beside(file: str) -> Path:
    """Where the refused rows of a file go if nothing else is said."""
    return Path("stdin.rejects.csv" if file == "-" else f"{file}.rejects.csv")


def position(source: BinaryIO) -> tuple[int, int | None]:
    """Octets read of a file, and of how many; (0, None) for a pipe."""
    import os
    import stat

    try:
        status = os.fstat(source.fileno())
        return (source.tell(), status.st_size) if stat.S_ISREG(status.st_mode) else (0, None)
    except OSError:
        return 0, None


def tell_rejects(reasons: dict[str, int], first: list[tuple[int, str]], path: Path | None) -> None:
    """Say why rows were refused, the most frequent reasons first, and where they are."""
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1])[:5]:
        lines = [str(line) for line, why in first if why == reason]
        where = f" (line {', '.join(lines)})" if lines else ""
        say(f"  {number(count)} × {reason}{where}", style="yellow")
    if reasons and path is not None:
        say(
            f"refused rows are listed in {path}; mend them in your file and import it again:"
            " what stands already stays as it is",
            style="yellow",
        )


def _summary(tally: Tally, path: Path | None, dry_run: bool, as_json: bool) -> None:
    if tally.unknown_zones:
        say(f"{number(tally.unknown_zones)} unknown time zones were left out", style="yellow")
    if tally.unknown_locales:
        say(f"{number(tally.unknown_locales)} unknown locales were left out", style="yellow")
    tell_rejects(tally.reasons, tally.first, path)
    data = {
        name: value for name, value in plain(tally).items() if name not in ("first", "seconds")
    } | {"rows": tally.rows, "rows_per_second": round(tally.rows / max(tally.seconds, 1e-3))}
    if not as_json:
        del data["reasons"]
    title = "what would happen" if dry_run else None
    emit(data | {"dry_run": dry_run}, title=title, as_json=as_json)


def _rate(tally: Tally) -> str:
    return f"{number(tally.rows / max(tally.seconds, 1e-3))}/s"


def _show(found: Dossier, as_json: bool) -> None:
    if as_json or not sys.stdout.isatty():
        emit(found, as_json=True)
        return
    person = plain(found.subscriber)
    emit(person, title=found.subscriber.address)
    for part, rows in plain(found).items():
        if part != "subscriber" and rows:
            emit(rows, title=part)
