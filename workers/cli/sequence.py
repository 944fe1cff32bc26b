"""`dripfleet sequence`: check, publish, look at, pause and resume; and `dripfleet enqueue`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from workers.cli import drain, edit, enqueue, new_sequence, schema, simulate
from workers.cli.context import connected
from workers.cli.render import ExitCode, emit, number, plain, progress, say

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from models.session import Database
    from workers.cli.proof import Proof

sequence = typer.Typer(no_args_is_help=True, help="Check, publish, look at and pause sequences.")

FILES = typer.Argument(help="Sequence files, such as schedules/sequences/*.yaml.")
TEMPLATES = typer.Option(
    None,
    "--templates",
    envvar="DRIPFLEET_TEMPLATES",
    help="The folder of templates; by default the one that is installed.",
)
AS_JSON = typer.Option(False, "--json", help="JSON on a terminal too.")


def register(app: typer.Typer) -> None:
    """Add `dripfleet sequence` and `dripfleet enqueue`."""
    drain.register(sequence)
    edit.register(sequence)
    simulate.register(sequence)
    schema.register(sequence)
    new_sequence.register(sequence)
    app.add_typer(sequence, name="sequence")
    enqueue.register(app)


@sequence.command(
    epilog="Examples:\n\ndripfleet sequence validate schedules/sequences/*.yaml\n\n"
    "dripfleet sequence validate new.yaml --templates ./templates --offline",
)
def validate(
    files: list[str] = FILES,
    templates: Path | None = TEMPLATES,
    offline: bool = typer.Option(
        False, "--offline", help="Ask no database: topics are not looked up, samples are made up."
    ),
    as_json: bool = AS_JSON,
) -> None:
    """Find everything that is wrong with sequence files and their templates; exit 3 if anything is.

    What filters would hold against the rendered mails is told too, and is `apply`'s to refuse.
    Templates are rendered, in a confined process, for up to five real subscribers, or for three
    made-up ones where there are none. No server is started for it.
    """
    from workers.cli import inbox

    if offline or not _database_stands():
        if not offline:
            say("no database runs: topics are not looked up, and sample subscribers are made up")
        proof = prove_files(None, files, templates)
    else:
        with connected() as services:
            proof = prove_files(services.database, files, templates)
    _tell(proof)
    inbox.tell(inbox.look(proof))
    if as_json or not sys.stdout.isatty():
        emit({"findings": proof.findings, "warnings": proof.warnings}, as_json=True)
    if proof.findings:
        raise typer.Exit(ExitCode.FINDINGS)
    say(f"{number(len(files))} file{'s are' if len(files) > 1 else ' is'} sound")


@sequence.command(
    epilog="Examples:\n\ndripfleet sequence apply schedules/sequences/thank-you.yaml schedules/sequences/win-back.yaml --create-topics\n\n"
    "dripfleet sequence apply winback.yaml --templates ./templates",
)
def apply(
    files: list[str] = FILES,
    create_topics: bool = typer.Option(
        False, "--create-topics", help="Make the topics that do not exist yet."
    ),
    templates: Path | None = TEMPLATES,
    yes: bool = typer.Option(
        False, "--yes", help="Also where an edit makes more mails due than max_immediate_sends."
    ),
    review: bool = typer.Option(
        True, help="Look at the rendered mails as filters do; errors there refuse real senders."
    ),
    as_json: bool = AS_JSON,
) -> None:
    """Publish sequence files and their templates; nothing is, while one of them has a fault.

    What did not change makes no new version. Those under way go on by a new version, unless its
    `publish` section says otherwise; `dripfleet sequence plan` shows what that means for them before.
    Mails not yet begun take the newest template.
    """
    from tasks.audience.store import ensure_topic
    from tasks.sequence.publish import TooMany, publish
    from workers.cli import inbox

    with connected() as services:
        proof = prove_files(services.database, files, templates, create_topics=create_topics)
        _tell(proof, findings=False)
        published = []
        prepared = proof.require()
        if review:
            seen = inbox.look(proof)
            inbox.tell(seen)
            if inbox.refuses(seen):
                say(
                    "nothing was published: correct the errors, or apply with --no-review",
                    style="red",
                )
                raise typer.Exit(ExitCode.FINDINGS)
        for file in prepared:
            topic = file.loaded.sequence.topic
            try:
                with services.database.transaction() as connection:
                    if create_topics and topic and ensure_topic(connection, topic):
                        say(f"made the topic {topic!r}; subscribers opt in to it by import")
                    done = publish(
                        connection, file.loaded, file.source, file.bundles, file.prompts, yes=yes
                    )
            except TooMany as refusal:
                say(str(refusal), style="red")
                raise typer.Exit(ExitCode.FINDINGS) from refusal
            published.append(done)
            news = f"version {done.version}" + (" is new" if done.changed else ", unchanged")
            if done.templates:
                news += f"; new sources for {', '.join(done.templates)}"
            if done.effect is not None and (
                done.effect.people or done.effect.stay or done.effect.reopened or done.effect.closed
            ):
                news += f"; {edit.in_words(done.effect, done=True)}"
            say(f"{done.key}: {news}")
    if as_json or not sys.stdout.isatty():
        emit(published, as_json=True)


@sequence.command(
    "list", epilog="Examples:\n\ndripfleet sequence list\n\ndripfleet sequence list --json"
)
def list_(as_json: bool = AS_JSON) -> None:
    """List the published sequences: who is in them, and what was sent."""
    from tasks.sequence.catalog import listed

    with connected() as services, services.database.snapshot() as connection:
        found = listed(connection)
    if not found:
        say("no sequence is published; `dripfleet sequence apply FILE` publishes one")
    rows = []
    for row in plain(found):
        row["class"] = row.pop("class_")
        rows.append(row)
    columns = ["key", "class", "version", "active", "ended", "sent", "failed", "not_sent"]
    if any(row["paused_at"] for row in rows):
        columns += ["paused_at", "pause_reason"]
    if any(row["draining_since"] for row in rows):
        columns += ["draining_since", "drain_reason"]
    emit(rows, columns=columns, as_json=as_json)


@sequence.command(
    epilog="Examples:\n\ndripfleet sequence show thank-you\n\ndripfleet sequence show thank-you --json"
)
def show(key: str = typer.Argument(help="Of the sequence."), as_json: bool = AS_JSON) -> None:
    """Show a sequence: its steps, who stands where, and what became of the mails of each."""
    from tasks.sequence.catalog import shown

    with connected() as services, services.database.snapshot() as connection:
        found = shown(connection, key)
    if as_json or not sys.stdout.isatty():
        emit(found, as_json=True)
        return
    from workers.cli.drawing import steps_as_lines

    typer.echo("\n".join(steps_as_lines(found)))


@sequence.command(
    epilog="Examples:\n\ndripfleet sequence pause win-back --reason 'wrong price in the offer'",
)
def pause(
    key: str = typer.Argument(help="Of the sequence."),
    reason: str = typer.Option(help="Why, for those who ask later; `explain` shows it."),
) -> None:
    """Hold a sequence: nobody enters, nothing is sent, nobody leaves for it; `resume` goes on."""
    from tasks.moves import pause as moves
    from tasks.sequence.catalog import require

    if not reason.strip():
        raise typer.BadParameter("expected a few words that say why", param_hint="--reason")
    with connected() as services:
        with services.database.transaction() as connection:
            require(connection, key)
            new = moves.pause(connection, key, reason.strip())
        if not new:
            say(f"sequence {key!r} was paused already; its reason stays")
        parked = _until_done(services.database, moves.park, "holding what is due")
    held = f"; {number(parked)} messages that were due are held" if parked else ""
    if new:
        say(f"paused {key!r}{held}; mails already at the relay cannot be called back")


@sequence.command(epilog="Examples:\n\ndripfleet sequence resume win-back")
def resume(key: str = typer.Argument(help="Of the sequence.")) -> None:
    """Let a paused sequence go on; what was held is due at the time it was.

    Where `pause: {clock: freeze}` stands in its file, it is due as much later as the pause was long.
    """
    from tasks.moves import pause as moves
    from tasks.sequence.catalog import require

    with connected() as services:
        with services.database.transaction() as connection:
            paused = require(connection, key)
            moves.resume(connection, key)
        woken = _until_done(services.database, moves.wake, "waking what was held")
    if not paused:
        say(f"sequence {key!r} was not paused")
    else:
        say(f"resumed {key!r}; {number(woken)} enrollments and messages were woken")


@sequence.command(
    epilog="Examples:\n\ndripfleet sequence door win-back\n\ndripfleet sequence door win-back --json",
)
def door(key: str = typer.Argument(help="Of the sequence."), as_json: bool = AS_JSON) -> None:
    """Show how people come in: what lets them in, who waits for what, and why others did not.

    `explain` says it of one person.
    """
    from tasks.sequence import entries

    with connected() as services, services.database.snapshot() as connection:
        found = entries.door(connection, key)
    emit(found, as_json=as_json)


@sequence.command(
    epilog="Examples:\n\ndripfleet sequence report win-back\n\n"
    "dripfleet sequence report win-back --html win-back.html",
)
def report(
    key: str = typer.Argument(help="Of the sequence."),
    html: Path | None = typer.Option(None, "--html", help="Write it as one page, with plots."),
    as_json: bool = AS_JSON,
) -> None:
    """Show what people came out with: conversions of those who were mailed, beside those held out.

    Who is held out walks the whole sequence without a mail, so both arms have the same time. What the
    mails brought is said with its interval, or that the numbers do not carry it.
    """
    from tasks.sequence import report as reports

    with connected() as services, services.database.snapshot() as connection:
        found = reports.report(connection, key)
    if html is not None:
        from tasks.sequence.report_page import page

        html.write_text(page(plain(found)), encoding="utf-8")
        say(f"{html} is written")
    if as_json or not sys.stdout.isatty():
        emit(found, as_json=True)
        return
    say(f"goal: {found.goal or 'none'}; holdout: {found.holdout or 'none'}")
    rows = [{k: v for k, v in row.items() if k != "ends"} for row in plain(found.arms)]
    emit(rows, as_json=False)
    if found.lift is not None:
        typer.echo(found.lift.said)
        if found.uplift is not None:
            typer.echo(found.uplift)
        from workers.cli.lift_parts import show

        show(plain(found.lift.parts))


def _until_done(database: Database, move: Callable[[Connection], int], what: str) -> int:
    """Repeat a move that takes up to 5 000 rows, a transaction each, until there are none."""
    total = 0
    with progress(what) as bar:
        while True:
            with database.transaction() as connection:
                moved = move(connection)
            total += moved
            bar.show(total, None, number(total))
            if not moved:
                return total


def prove_files(
    database: Database | None,
    files: list[str],
    templates: Path | None,
    create_topics: bool = False,
) -> Proof:
    """Prove files as `apply` asks for it; without a database, on made-up subscribers."""
    from tasks.membership import segment_keys
    from tasks.sequence.publish import sample_subscribers, topic_keys
    from tasks.sequence.unseen import seen
    from workers.cli.proof import installed_templates, prove

    root = templates or installed_templates()
    if not root.is_dir():
        raise typer.BadParameter(f"{root} is no folder; expected the one of the templates")
    if database is None:
        return prove(files, root)
    with database.snapshot() as connection:
        topics = None if create_topics else topic_keys(connection)
        samples = sample_subscribers(connection)
        segments = segment_keys(connection)
        known = seen(connection)
    return prove(files, root, topics=topics, segments=segments, samples=samples, known=known)


def _tell(proof: Proof, findings: bool = True) -> None:
    for warning in proof.warnings:
        say(f"warning: {warning}", style="yellow")
    for finding in sorted(proof.findings) if findings else ():
        say(str(finding), style="red")


def _database_stands() -> bool:
    """Whether there is a database to ask, without starting one."""
    if os.environ.get("DRIPFLEET_DATABASE_URL", "").strip():
        return True
    root = Path(os.environ.get("DRIPFLEET_HOME") or "var")
    if not (root / "run").is_dir():
        return False
    from workers.embedded.home import Home

    with Home(root) as home:
        return home.running("postgres") is not None
