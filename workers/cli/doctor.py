"""`dripfleet doctor`: what is wrong, and the next move."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from workers.cli.doctor_dns import dns
from workers.cli.render import ExitCode, emit, say

if TYPE_CHECKING:
    from workers.doctor import Finding

STYLES = {"fine": "green", "warning": "yellow", "error": "red"}


def register(app: typer.Typer) -> None:
    """Add `dripfleet doctor` and `dripfleet doctor dns`."""
    group = typer.Typer(
        invoke_without_command=True,
        epilog="Examples:\n\ndripfleet doctor\n\ndripfleet doctor --json",
    )
    group.callback()(doctor)
    group.command(
        epilog="Examples:\n\ndripfleet doctor dns mail.example.com --ip 192.0.2.25\n\n"
        "dripfleet doctor dns example.com --selector s2026 --json"
    )(dns)
    app.add_typer(group, name="doctor")


def doctor(
    context: typer.Context,
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> int:
    """Look at servers, schema, pools, ticks, queues, doubts, templates, schedules, this machine.

    Each finding is fine, a warning or an error, with the next move. Exit 3 if there is an error;
    warnings alone (something is paused, waits for you, or was never started) leave it at 0.
    """
    if context.invoked_subcommand is not None:
        return ExitCode.OK
    from workers.doctor import examine
    from workers.embedded.stack import Stack

    with Stack(say=say) as stack:
        stack.adopt()
        found = examine(stack.database_url, stack.redis_url, stack.smtp_url)
    return tell(found, as_json)


def tell(found: list[Finding], as_json: bool) -> int:
    """Hand the findings out, the gravest last on a terminal, where one reads first."""
    order = list(STYLES)
    if as_json or not sys.stdout.isatty():
        emit(found, as_json=True)
    else:
        found = sorted(found, key=lambda finding: order.index(finding.severity))
        emit(found, columns=["severity", "check", "says", "next"])
    errors = sum(finding.severity == "error" for finding in found)
    warnings = sum(finding.severity == "warning" for finding in found)
    worst = "error" if errors else "warning" if warnings else "fine"
    say(f"{errors} errors, {warnings} warnings", style=STYLES[worst])
    return ExitCode.FINDINGS if errors else ExitCode.OK
