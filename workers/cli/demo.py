"""`dripfleet demo`: the main job, on real customers, on this machine."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from workers.cli.render import ExitCode, emit, number, say

if TYPE_CHECKING:
    from models.session import Database
    from tasks.upkeep.overview import Overview
    from workers.embedded.stack import Stack
    from workers.supervisor import Fleet

STILL = 120.0  # seconds without a change after which something is wrong


def register(app: typer.Typer) -> None:
    """Add `dripfleet demo`."""
    app.command(
        epilog="Examples:\n\ndripfleet demo --customers 2000 --exit",
    )(demo)


def demo(
    customers: int | None = typer.Option(
        None, min=1, help="Only the first so many of the 23 570 customers."
    ),
    leave: bool = typer.Option(
        False, "--exit", help="Stop at the end; on a terminal the fleet else stays up."
    ),
) -> None:
    """Run the whole fleet on real customers, mailing to a sink on this machine, and prove it.

    Starts what no DRIPFLEET_…_URL names, brings in 23 570 customers with their 69 659 purchases,
    publishes two sequences, trains and makes a churn score, enrolls, sends, and checks every promise
    against the sink's own ledger. Meanwhile the quantum pool divides the customers in three, beside
    every classical solver.
    A second run goes on from what is there. No mail leaves this machine.
    """
    from models.migrate import migrate
    from models.session import Database
    from workers.cli.fleet import serve_edge, tell_edge, tell_flower
    from workers.demo import scores, segments, story, words
    from workers.embedded.stack import Stack
    from workers.supervisor import Fleet

    began = time.monotonic()
    talk = _Talk()
    with Stack(say=say, loopback_only=True) as stack:
        edge = serve_edge(stack)
        stack.adopt()
        _require_relay(stack.smtp_url)
        database = Database(stack.database_url, name="dripfleet-demo")
        migrate(database)
        fleet = Fleet(stack, edge=edge, say=talk)
        with fleet.signals():
            try:
                fleet.start()
                started = time.monotonic()
                imported = story.bring_in(database, customers, say)
                segment = segments.ask(database)
                story.publish_both(database, say)
                fleet.wait_ready()
                seconds = time.monotonic() - started  # the import went on meanwhile
                if not fleet.stopping.is_set():
                    say(f"the fleet answers: {len(fleet.pids())} processes, after {seconds:.1f} s")
                    tell_flower(fleet)
                    tell_edge(fleet)
                    tallies = story.enroll(
                        database, customers, imported.shift,
                        lambda: scores.make(database, fleet, say),
                    )  # fmt: skip
                    for key, tally in tallies.items():
                        say(
                            f"{key}: {number(tally.enrolled)} enrolled,"
                            f" {number(tally.already_enrolled)} were already"
                        )
                    _watch(database, fleet, stack, talk)
                if not fleet.stopping.is_set():
                    say(f"done after {time.monotonic() - began:.0f} s")
                    words.tell(database, say)
                    _tell_segment(database, fleet, segment)
                    clean = _conclude(database, stack)
                    if not leave and sys.stdout.isatty() and sys.stdin.isatty():
                        say("the fleet stays up until Ctrl-C")
                        tell_flower(fleet)
                        fleet.run()
                    if not clean:
                        raise typer.Exit(ExitCode.FINDINGS)
                else:
                    raise typer.Exit(ExitCode.INTERRUPTED)
            finally:
                say("stopping: beat, planner, delivery, the rest")
                fleet.stop()
                database.close()
                say("stopped; run it again to go on from here")


class _Talk:
    """What the fleet has to say; above the progress while that is on the screen."""

    def __init__(self) -> None:
        self.out: Callable[[str], object] = say

    def __call__(self, text: str) -> None:
        self.out(text)


def _require_relay(url: str) -> None:
    """A relay that is not there would leave the demo waiting for it."""
    from tasks.errors import Transient
    from tasks.send.relay import Relay

    relay = Relay.parse(url)
    try:
        socket.create_connection((relay.host, relay.port), timeout=5).close()
    except OSError as error:
        raise Transient(
            f"the relay {relay} does not answer ({error.strerror or error}); start it, or unset"
            " DRIPFLEET_SMTP_URL to use the mail sink that ships"
        ) from error


def _watch(database: Database, fleet: Fleet, stack: Stack, talk: _Talk) -> None:
    """Show progress until nothing more is due now."""
    from sqlalchemy.exc import OperationalError

    from tasks.errors import Transient
    from workers.demo import story

    before: Overview | None = None
    changed = time.monotonic()
    with _screen(talk) as show:
        while not fleet.stopping.is_set():
            try:
                now, done = story.look(database)
            except OperationalError:
                if time.monotonic() - changed > STILL:
                    raise
                fleet.run(1.0)  # it brings an embedded Postgres back
                continue
            rate = now.sent_per_second(before) if before is not None else 0.0
            show(now, rate)
            if done:
                return
            if before is None or (before.planned, before.sent) != (now.planned, now.sent):
                changed = time.monotonic()
            elif time.monotonic() - changed > STILL:
                raise Transient(
                    f"nothing has moved for {STILL:g} s; run `dripfleet status` and `dripfleet"
                    f" doctor` in a second terminal, and look into {stack.home.shown(stack.home.logs)}"
                )
            before = now
            fleet.run(1.0)


@contextmanager
def _screen(talk: _Talk) -> Iterator[Any]:
    """Live on a terminal; elsewhere a line every five seconds."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(stderr=True), refresh_per_second=4) as live:
            talk.out = lambda text: live.console.print(text, markup=False, highlight=False)
            try:
                yield lambda now, rate: live.update(_table(now, rate))
            finally:
                talk.out = say
        return
    last = 0.0
    final: list[str] = []

    def line(now: Overview, rate: float) -> None:
        nonlocal last
        final[:] = [_line(now, rate)]
        if time.monotonic() - last >= 5.0:
            last = time.monotonic()
            say(final.pop())

    yield line
    if final:
        say(final[0])


def _figures(now: Overview, rate: float) -> list[tuple[str, str]]:
    return [
        ("enrolled", number(now.enrolled)),
        ("planned", number(now.planned)),
        ("sent", number(now.sent)),
        ("per second", number(round(rate))),
        ("in doubt", number(now.in_doubt)),
        ("failed", number(now.failed)),
        ("queue", number(now.due + now.working + now.armed)),
    ]


def _line(now: Overview, rate: float) -> str:
    return "  ".join(f"{name} {value}" for name, value in _figures(now, rate))


def _table(now: Overview, rate: float) -> Any:
    from rich.table import Table

    figures = _figures(now, rate)
    table = Table(box=None)
    for name, _ in figures:
        table.add_column(name, justify="right", min_width=9)
    table.add_row(*(value for _, value in figures))
    return table


def _tell_segment(database: Database, fleet: Fleet, run: int | None) -> None:
    """What the quantum pool made of the customers meanwhile, and who really won."""
    from workers.demo import segments

    if run is None:
        say("no segments: the extra quantum is not installed (pip install 'dripfleet[quantum]')")
        return
    until = time.monotonic() + segments.PATIENCE
    began = time.monotonic()
    while not fleet.stopping.is_set():
        row = segments.look(database, run)
        if row.stage == "done":
            break
        if row.stage == "refused" or time.monotonic() >= until:
            say(f"segment {segments.NAME}: {row.why or f'still at stage {row.stage}'}")
            return
        fleet.run(0.2)
    else:
        return
    made = row.report
    waited = time.monotonic() - began
    say(f"segment {segments.NAME}, by QAOA on {', '.join(made['backend']['actual'])}"
        f" ({waited:.0f} s after the mail):")  # fmt: skip
    for each in made["segments"]:
        say(f"  {each['label']}: {number(each['subscribers'])} subscribers; {each['in_words']}")
    say("each cut against the exact optimum, and the seconds that it took:")
    for line in segments.solvers(made):
        say(f"  {line}")
    say(f"verdict: {made['verdict']} ({made['why']})")


def _conclude(database: Database, stack: Stack) -> bool:
    """What came of it, where to read a mail, and whether every promise holds."""
    from tasks.moves.settings import DeliverySettings
    from tasks.upkeep import verify as audit
    from workers.cli.audit import SinkLedger, show, summary
    from workers.demo import story
    from workers.demo.customers import SOURCE

    emit(story.outcomes(database), title="What became of each step")
    example = story.a_mail(database)
    here = "dripfleet" if shutil.which("dripfleet") else os.path.relpath(sys.argv[0])
    say(f"read a mail: {here} message show {example}")
    say(f"ask why:     {here} explain {SOURCE}-00001")
    ledger = stack.home.mail / "ledger.jsonl"
    embedded = "sink" in stack.embedded
    report = audit.verify(
        database,
        DeliverySettings(),
        audit.VerifySettings(),
        ledger=SinkLedger(ledger) if embedded else None,
    )
    if in_doubt := report.states.get("in_doubt", 0):
        hold = DeliverySettings().doubt_hold / 60
        say(
            f"{number(in_doubt)} in doubt: their reply never came; the stream's policy settles them"
            f" {hold:.0f} minutes after that, while the fleet runs"
        )
    if not report.clean:
        show(report)
    command = f"{here} verify" + (f" --sink {stack.home.shown(ledger)}" if embedded else "")
    say(f"{command}: {summary(report)}", style="green" if report.clean else "red")
    return report.clean
