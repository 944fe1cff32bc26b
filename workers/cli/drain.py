"""`dripfleet sequence drain`: nobody new comes in, and who is under way goes on to the end."""

from __future__ import annotations

import typer

from workers.cli.context import connected
from workers.cli.render import number, say


def register(sequence: typer.Typer) -> None:
    """Add `drain` to the commands of `dripfleet sequence`."""
    sequence.command(
        epilog="Examples:\n\ndripfleet sequence drain win-back --reason 'win-back-2 takes its place'\n\n"
        "dripfleet sequence drain win-back --undo",
    )(drain)


def drain(
    key: str = typer.Argument(help="Of the sequence."),
    reason: str = typer.Option("", help="Why, for those who ask later; `explain` shows it."),
    undo: bool = typer.Option(False, "--undo", help="Let people in again, from now on."),
) -> None:
    """Let nobody new into a sequence; who is in it goes on to the end.

    Whoever asks to come in, by an event, a segment, the clock or by hand, is refused, and each refusal
    is counted (`sequence door`, `explain`). Who waits for a place is refused too, and does not come back
    by --undo. (`publish: {enrolled: drain}` of a file is another thing: there those under way leave.)
    """
    from tasks.sequence import drain as drains
    from tasks.sequence.catalog import require

    if undo == bool(reason.strip()):
        raise typer.BadParameter(
            "expected a few words that say why, or --undo, and not both", param_hint="--reason"
        )
    with connected() as services, services.database.transaction() as connection:
        require(connection, key)
        if undo:
            ended = drains.undo(connection, key)
        else:
            new = drains.drain(connection, key, reason.strip())
            [found] = drains.draining(connection, key)
    if undo:
        told = "takes people in again" if ended else "took people in all the while"
        say(f"sequence {key!r} {told}")
        return
    if not new:
        say(f"sequence {key!r} {found} already; its reason stays")
    asking = f"; {number(found.asking)} who ask to come in are refused" if found.asking else ""
    say(f"sequence {key!r} takes nobody new; {number(found.active)} go on to the end{asking}")
