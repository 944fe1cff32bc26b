"""`dripfleet sequence new`: a copy of a ready sequence, to be made one's own."""

from __future__ import annotations

from pathlib import Path

import typer

from workers.cli.render import ExitCode, emit, say

SHARED = ("templates/_base/", "segments/")


def register(sequence: typer.Typer) -> None:
    """Add `new` to the commands of `dripfleet sequence`."""
    sequence.command(
        epilog="Examples:\n\ndripfleet sequence new --list\n\n"
        "dripfleet sequence new my-welcome --from onboarding",
    )(new)


def new(
    name: str = typer.Argument("", help="The key of the new one, such as my-welcome."),
    source: str = typer.Option(
        "", "--from", help="The key of a ready sequence, such as onboarding."
    ),
    into: Path = typer.Option(Path(), "--into", help="The folder to write to; by default here."),
    listed: bool = typer.Option(False, "--list", help="Say which ready sequences there are."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> None:
    """Copy a ready sequence and its templates under a name of their own; nothing is overwritten."""
    from schedules.ready import copy, ready
    from workers.cli.proof import installed_templates

    if listed:
        rows = [{"key": each.key, "title": each.title, "about": each.about} for each in ready()]
        emit(rows, title="Ready sequences", as_json=as_json)
        return
    if not name or not source:
        raise typer.BadParameter("expected a NAME and --from KEY; --list names the keys there are")
    try:
        files = copy(source, name, installed_templates())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    # What several share is there after the first copy, and is the operator's own by then.
    own = [path for path in files if not path.startswith(SHARED)]
    if there := [path for path in own if (into / path).exists()]:
        say(f"{into / there[0]} is there already; nothing was written: take another name or folder")
        raise typer.Exit(ExitCode.FAULT)
    written = []
    for path, text in files.items():
        if not (into / path).exists():
            (into / path).parent.mkdir(parents=True, exist_ok=True)
            (into / path).write_text(text, encoding="utf-8", newline="\n")
            written.append(path)
    emit({"written": written}, as_json=as_json)
    if any(path.startswith("segments/") for path in files):
        say(
            f"it asks for segments: `dripfleet segment apply {into / 'segments'}/*.yaml` comes first"
        )
    folder = into / "templates"
    say(
        f"next: change the words, then `dripfleet sequence validate {into / (name + '.yaml')} --templates {folder}`"
    )
