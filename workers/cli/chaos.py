"""`dripfleet chaos`: the fleet under random faults, on servers of its own, and whether it kept its word."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from workers.cli.render import ExitCode, emit, number, plain, say

if TYPE_CHECKING:
    from workers.chaos.run import Result


def register(app: typer.Typer) -> None:
    """Add `dripfleet chaos`."""
    app.command(
        epilog="Examples:\n\ndripfleet chaos --list\n\ndripfleet chaos --minutes 0.5 --seed 7"
        ' --only "kill send"\n\ndripfleet chaos --minutes 3 --runs 10',
    )(chaos)


def chaos(
    minutes: float = typer.Option(
        3.0, min=0.05, help="How long faults are begun, each at least once."
    ),
    seed: int | None = typer.Option(None, min=0, help="Of plan, people and sink; else drawn."),
    runs: int = typer.Option(1, min=1, help="So many runs, with the seeds that follow."),
    only: list[str] | None = typer.Option(
        None, metavar="FAULT", help="Only this fault; may be given again."
    ),
    shorter: float = typer.Option(
        60.0, min=1, help="Durations of delivery are divided by this, in their real proportion."
    ),
    negative_control: bool = typer.Option(
        False, help="Take one guard out: the run must then find copies, and ends with 3."
    ),
    list_faults: bool = typer.Option(False, "--list", help="Name the faults, and leave."),
    keep: bool = typer.Option(False, help="Keep the folder of a run that passed, too."),
    as_json: bool = typer.Option(False, "--json", help="Every figure as JSON."),
) -> None:
    """Run a fleet of its own under random faults, and judge it by the ledger of its sink.

    Nothing of yours is touched: Postgres, Valkey, sink and workers are started in a folder of
    DRIPFLEET_HOME. Ends with 0 if nothing was lost, no copy went out but by a counted doubt, and
    every planned fault took effect; else with 3, and the folder with its logs stays.
    """
    import os
    import random
    import signal

    from workers.chaos.catalogue import CATALOGUE
    from workers.chaos.run import run

    if list_faults:
        emit([{"fault": f.name, "what": f.sentence} for f in CATALOGUE.values()], as_json=as_json)
        return
    # A service manager's word, and CI's: stop what was started, unmount, and leave.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    first = random.SystemRandom().randrange(1 << 31) if seed is None else seed
    home = Path(os.environ.get("DRIPFLEET_HOME") or "var")
    results = []
    for this in range(first, first + runs):
        root = home / "chaos" / str(this)
        shutil.rmtree(root, ignore_errors=True)
        _announce(this, minutes, shorter)
        began = time.monotonic()
        result = run(
            root,
            seconds=minutes * 60,
            seed=this,
            only=_control() if negative_control else only or (),
            shorter=shorter,
            guard_off="armed-lease" if negative_control else None,
            latency=0.3 if negative_control else 0.005,
            smtp=not negative_control,
            say=say,
        )
        results.append(result)
        _tell(result, time.monotonic() - began, as_json=as_json or not sys.stdout.isatty())
        if result.faults:
            say(f"its folder, with logs and ledger, stays: {root}")
        elif not keep:
            shutil.rmtree(root, ignore_errors=True)
    if as_json or not sys.stdout.isatty():
        emit([plain(result) for result in results], as_json=True)
    if any(result.faults for result in results):
        raise typer.Exit(ExitCode.FINDINGS)


def _control() -> tuple[str, ...]:
    """What leads to an armed lease that nobody ends: the guard that is out stands against it."""
    return ("lose machine",)


def _announce(seed: int, minutes: float, shorter: float) -> None:
    from tasks.moves.settings import DeliverySettings

    short = DeliverySettings().shortened(shorter)
    say(
        f"seed {seed}, {minutes:g} min; durations {shorter:g} times shorter: working lease"
        f" {short.working_lease:g} s, armed lease {short.armed_lease:g} s, reply wait"
        f" {short.reply_wait:g} s, doubt hold {short.doubt_hold:g} s, back-off from"
        f" {short.backoff_first:g} s"
    )


def _tell(result: Result, seconds: float, *, as_json: bool) -> None:
    """Faults in a table, then the figures in a sentence each."""
    if not as_json:
        emit(
            [
                {
                    "fault": each.name,
                    "planned": each.planned,
                    "fired": each.fired,
                    "": each.lacks or each.sentence,
                }
                for each in result.played
            ],
            title=f"faults of seed {result.seed}",
        )
    skipped = [f"{each.name}: {each.lacks}" for each in result.played if each.lacks]
    for line in skipped:
        say(f"skipped {line}")
    states = ", ".join(f"{number(n)} {s.replace('_', ' ')}" for s, n in result.states.items())
    fates = ", ".join(f"{number(n)} {fate}" for fate, n in result.fates.items()) or "none"
    fired = sum(each.fired for each in result.played)
    settled = (
        "not settled" if result.settled_in is None else f"settled in {result.settled_in:.0f} s"
    )
    say(
        f"seed {result.seed}: {number(result.enrolled)} enrolled, {number(result.mails)} mails at the"
        f" sink; {states}"
    )
    say(f"faults fired: {number(fired)}; {settled}; {seconds:.0f} s in all")
    say(f"in doubt: {number(result.doubts)} attempts; of their messages {fates}")
    say(
        f"copies: {number(result.copies)}, of which a resent doubt explains those of"
        f" {number(result.explained)} messages; lost: {number(result.lost)}"
    )
    for row in result.unsettled:
        say(f"  not settled: {row}")
    for fault in result.faults:
        say(f"FAILED: {fault}", style="red")
    if not result.faults:
        say(f"seed {result.seed}: passed", style="green")
