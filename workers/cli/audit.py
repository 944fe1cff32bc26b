"""`dripfleet verify`: whether every promise holds, row by row, on a fleet that may be at work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from workers.cli.context import connected
from workers.cli.render import ExitCode, emit, number, plain, say

if TYPE_CHECKING:
    from tasks.upkeep.verify import Report


def register(app: typer.Typer) -> None:
    """Add `dripfleet verify`."""
    app.command(
        epilog="Examples:  dripfleet verify  ·  dripfleet verify --sink var/sink/ledger.jsonl  ·"
        "  dripfleet verify --json | jq .clean"
    )(verify)


def verify(
    sink: Path | None = typer.Option(
        None,
        exists=True,
        dir_okay=False,
        readable=True,
        metavar="LEDGER",
        help="The ledger.jsonl of the mail sink: also find copies, strangers and losses.",
    ),
    first: int = typer.Option(10, min=1, help="How many rows to name for each finding."),
    as_json: bool = typer.Option(False, "--json", help="The whole report as JSON."),
) -> None:
    """Check every promise of delivery; read-only, on a live fleet.

    Ends with 0 if all hold and with 3 if one is broken, naming the rows that break it. What is
    still in flight is no finding; DRIPFLEET_OVERDUE_SLO says how late due work may be (900 s).
    """
    from tasks.moves.settings import DeliverySettings
    from tasks.upkeep import verify as audit

    with connected() as services:
        report = audit.verify(
            services.database,
            DeliverySettings(),
            audit.VerifySettings(),
            ledger=SinkLedger(sink) if sink else None,
            first=first,
        )
    if as_json or not sys.stdout.isatty():
        emit({**plain(report), "summary": summary(report)}, as_json=True)
    else:
        show(report)
    say(summary(report), style="green" if report.clean else "red")
    if not report.clean:
        raise typer.Exit(ExitCode.FINDINGS)


class SinkLedger:
    """The ledger file of a sink that may still write to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def length(self) -> int:
        """How many whole lines it has now."""
        with self.path.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))

    def message_ids(self) -> Iterator[str]:
        """The Message-ID of each line, oldest first.

        Raises:
            Permanent: a line that is not of a ledger.
        """
        from tasks.errors import Permanent
        from workers.embedded.ledger import read_ledger

        try:
            for line in read_ledger(self.path):
                yield line.message_id
        except ValueError as fault:
            raise Permanent(
                f"{fault}; --sink takes the ledger.jsonl that a mail sink wrote"
            ) from fault


def summary(report: Report) -> str:
    """The one sentence that an audit ends with."""
    parts = [f"{number(report.counted['messages'])} messages"]
    parts += [f"{number(n)} {state.replace('_', ' ')}" for state, n in report.states.items()]
    if report.sink is not None:
        parts.append(f"{number(report.sink.known)} of them at the sink")
        if report.sink.foreign:
            parts.append(f"{number(report.sink.foreign)} mails there are not of this database")
        if report.sink.copies_in_doubt:
            parts.append(f"{number(report.sink.copies_in_doubt)} copied by a resent doubt")
    counts = ", ".join(parts)
    if report.clean:
        return f"clean: {counts}"
    broken = [f"{f.name} ({number(f.count)})" for f in report.findings if f.count]
    return f"broken: {', '.join(broken)}; {counts}"


def show(report: Report) -> None:
    """Print a line an invariant, and the rows that break one."""
    emit(
        [
            {
                "": finding.name,
                "promise": finding.promise,
                "found": number(finding.count) if finding.count else "ok",
            }
            for finding in report.findings
        ]
    )
    for finding in report.findings:
        if finding.count:
            shown = f", the first {len(finding.rows)}" if finding.count > len(finding.rows) else ""
            say(f"\n{finding.name}: {finding.sentence}", style="yellow")
            emit(finding.rows, title=f"{finding.name}: {number(finding.count)} rows{shown}")
    emit(
        [{**plain(line), "rate": f"{line.rate:.3%}"} for line in report.doubt],
        title="in doubt, by stream (reported, not judged)",
    )
    if report.counted["parked_awake"]:
        say(
            f"{number(report.counted['parked_awake'])} rows are parked though their sequence runs;"
            " the reaper wakes them, so look again in a minute"
        )
