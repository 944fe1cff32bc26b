"""`dripfleet sequence plan`: what an edit would do to those under way, before it does it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from workers.cli.context import connected
from workers.cli.render import emit, number

if TYPE_CHECKING:
    from tasks.sequence.migrate import Effect
    from tasks.sequence.publish import Published

COLUMNS = (
    "id", "change", "here", "entered", "moved", "retimed", "removed", "due_now", "mails_24h",
)  # fmt: skip


def register(sequence: typer.Typer) -> None:
    """Add `plan` to the commands of `dripfleet sequence`."""
    sequence.command(
        epilog="Examples:\n\ndripfleet sequence plan winback.yaml --templates ./templates\n\n"
        "dripfleet sequence plan schedules/sequences/*.yaml --json",
    )(plan)


def plan(
    files: list[str] = typer.Argument(help="Sequence files, as `apply` would be given them."),
    templates: Path | None = typer.Option(
        None,
        "--templates",
        envvar="DRIPFLEET_TEMPLATES",
        help="The folder of templates; by default the one that is installed.",
    ),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> None:
    """Show what `apply` would do to those under way, step by step; nothing is changed.

    Who comes to stand in a step (entered), leaves it for another (moved), waits until another time
    (retimed) or leaves the sequence (removed); who had completed it and goes on (reopened, where
    `publish` says `finished: reopen`); who would be due at once; and the mails of the next 24 hours,
    if every gate lets them pass. `apply` does these numbers, as far as nobody moves in between.
    """
    from tasks.sequence.publish import preview
    from workers.cli.sequence import prove_files

    planned = []
    with connected() as services:
        proof = prove_files(services.database, files, templates)
        for file in proof.require():
            with services.database.snapshot() as connection:
                planned.append(preview(connection, file.loaded, file.bundles))
    if as_json or not sys.stdout.isatty():
        emit(planned, as_json=True)
        return
    for each in planned:
        show(each)


def show(planned: Published) -> None:
    """Print what an edit does: a sentence, a table of steps, and what it makes due."""
    effect = planned.effect
    if effect is None:
        news = "is new: nobody is in it" if planned.changed else "does not change"
        typer.echo(f"{planned.key}: {news}")
        return
    typer.echo(f"{planned.key}: version {planned.version}; {in_words(effect)}")
    steps: list[Any] = effect.steps
    if effect.people or effect.reopened:
        emit(steps, columns=(*COLUMNS, "reopened") if effect.reopened else COLUMNS)
    else:
        emit(steps, columns=COLUMNS[:2])


def in_words(effect: Effect, *, done: bool = False) -> str:
    """Return what an edit would do, or did, in one sentence."""
    told = [f"{number(effect.people)} under way are taken over"]
    if effect.enrolled == "pin":
        told = [
            f"{number(effect.stay)} under way keep the version they go by (publish: enrolled: pin)"
        ]
    elif not effect.people:
        told = ["nobody is under way"]
    if effect.closed:
        told.append("who had completed stays so, since the sequence takes nobody new")
    if effect.reopened:
        told.append(f"{number(effect.reopened)} who had completed go on (finished: reopen)")
    elif not effect.people:
        return ", ".join(told)
    told += [f"{number(n)} {word}" for word, n in (
        ("moved", effect.moved), ("retimed", effect.retimed), ("removed", effect.removed),
    ) if n]  # fmt: skip
    told.append(f"{'due now' if done else 'would become due now'}: {number(effect.due_now)}")
    if effect.due_now:
        told.append(f"{number(effect.immediate_sends)} of them with a mail")
    told.append(f"mails in the next 24 h: {number(effect.mails_24h)}")
    return ", ".join(told)
