"""`dripfleet schedules`: what starts by the clock; a file of cron lines becomes the fleet's."""

from __future__ import annotations

import typer

from workers.cli.context import connected
from workers.cli.render import emit, number, plain, say

schedules = typer.Typer(no_args_is_help=True, help="Say what starts by the clock, and when.")

AS_JSON = typer.Option(False, "--json", help="JSON on a terminal too.")


def register(app: typer.Typer) -> None:
    """Add `dripfleet schedules`."""
    app.add_typer(schedules, name="schedules")


@schedules.command(
    epilog="Examples:\n\ndripfleet schedules apply schedules/cron.yaml --dry-run\n\n"
    "dripfleet schedules apply schedules/cron.yaml",
)
def apply(
    file: str = typer.Argument(help="A file of cron lines, such as schedules/cron.yaml."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would change, write nothing."),
    as_json: bool = AS_JSON,
) -> None:
    """Make the fleet's schedules those of a file; nothing changes while the file has a fault.

    Lines that the file no longer has stop, also where they had begun. A changed expression or zone
    counts from now. It holds from the next scan on, and no worker is started again.
    """
    from schedules.cron import read
    from schedules.findings import DefinitionError
    from tasks.sequence import crontab

    loaded = read(file)
    with connected() as services:
        database = services.database
        with database.snapshot() if dry_run else database.transaction() as connection:
            if found := crontab.findings(connection, loaded):
                raise DefinitionError(found)
            changes = (crontab.compare if dry_run else crontab.apply)(connection, loaded)
    counts = {"added": 0, "changed": 0, "removed": 0, "unchanged": 0}
    for each in changes:
        counts[each.change] += 1
    title = "What would change" if dry_run else "Schedules"
    emit(plain(changes), title=title, as_json=as_json)
    told = ", ".join(f"{number(count)} {change}" for change, count in counts.items() if count)
    say(f"{'would be ' if dry_run else ''}{told or 'nothing is scheduled'}")


@schedules.command(
    "list", epilog="Examples:\n\ndripfleet schedules list\n\ndripfleet schedules list --json"
)
def list_(as_json: bool = AS_JSON) -> None:
    """List the schedules: what each does, when it fires next, and what came of the last fire."""
    from tasks.sequence.timetable import listed

    with connected() as services, services.database.snapshot() as connection:
        rows = plain(listed(connection))
    columns = (
        "key", "cron", "zone", "does", "paused", "next_fire_at", "last_fire_at", "last_state",
        "last_detail", "entered", "missed", "fault",
    )  # fmt: skip
    emit(rows, columns=columns, title="Schedules", as_json=as_json)


@schedules.command(
    "next",
    epilog="Examples:\n\ndripfleet schedules next\n\ndripfleet schedules next monday-news -n 10",
)
def next_(
    key: str | None = typer.Argument(None, help="Key of a schedule; by default all of them."),
    n: int = typer.Option(5, "-n", min=1, max=1000, help="How many fires."),
    as_json: bool = AS_JSON,
) -> None:
    """Say when schedules fire next: the instant, and the local time that the line says.

    Where clocks go forward over that local time, the instant is the first one after the gap.
    """
    from tasks.sequence.timetable import coming

    with connected() as services, services.database.snapshot() as connection:
        rows = plain(coming(connection, n, key))
    if not rows:
        say("nothing fires: no schedule stands, or it is paused; see `dripfleet schedules list`")
    emit(rows, title="Next fires", as_json=as_json)
