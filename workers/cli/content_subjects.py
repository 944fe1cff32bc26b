"""`dripfleet content subject-lines`: subjects for a mail that there is, as arms of an experiment."""

from __future__ import annotations

import os
import re
import shutil
import string
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from workers.cli.content_work import QUEUE, WAIT, Done, have_done, of_job, tell_who_wrote
from workers.cli.render import emit, say

AS_IT_IS = "now"
"""The arm of the subject that the mail has."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is asked about: a template, and the step that sends it where one was named."""

    template: str
    step: str = "mail"
    next: str | None = None
    personalize: str | None = None


def register(content: typer.Typer) -> None:
    """Add `dripfleet content subject-lines`."""
    content.command(
        "subject-lines",
        epilog="Examples:\n\ndripfleet content subject-lines win-back/hello\n\n"
        "dripfleet content subject-lines schedules/sequences/win-back.yaml:hello -n 3 --json",
    )(subject_lines)


def subject_lines(
    what: str = typer.Argument(
        metavar="TEMPLATE|FILE:STEP", help="A template such as win-back/hello, or a sending step."
    ),
    n: int = typer.Option(5, "-n", min=1, max=20, help="How many lines."),
    write: bool = typer.Option(
        False, "--write", help="Write a template an arm, beside the one that there is."
    ),
    templates: Path | None = typer.Option(
        None, envvar="DRIPFLEET_TEMPLATES", help="Folder of templates; default: those that ship."
    ),
    language: str = typer.Option("en", help="Of the mail."),
    queue: bool = QUEUE,
    wait: bool = WAIT,
    job: int | None = typer.Option(None, help="The lines of this job; nothing is asked for."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> None:
    """Ask the model for other subjects of a mail; each is checked, and they are ranked by their facts.

    Figures, offers and links are refused that the mail does not have for everybody. Beside the lines stands a piece
    of YAML: an experiment step with an arm a line. This release does not run experiments; the piece is
    for the one that does, and --write makes the templates that its arms send, which any sending step
    can name today.
    """
    from tasks import names
    from tasks.errors import Permanent
    from workers.cli.proof import installed_templates

    if write and templates is None:
        raise typer.BadParameter("--write needs --templates, a folder of your own")
    root = templates or installed_templates()
    place = _place(what)
    if job is not None:
        done: Done | None = of_job(job, names.CONTENT_SUBJECT_LINES)
        if done is not None and done.asked["name"] != place.template:
            raise Permanent(f"job {job} is about {done.asked['name']!r}, not {place.template!r}")
    else:
        from tasks.personalize.subject_lines import SubjectLines

        asked = SubjectLines(place.template, *_for_everybody(place.template, root), language, n)
        done = have_done(
            names.CONTENT_SUBJECT_LINES, place.template, asked.to_json(), by_model=True,
            queue=queue, wait=wait,
        )  # fmt: skip
    if done is None:
        return
    lines: list[dict[str, Any]] = list(done.found["lines"])
    arms = dict(zip(string.ascii_lowercase, lines, strict=False))
    snippet = experiment(place, list(arms))
    if write:
        for arm, each in arms.items():
            say(f"wrote {_write(root, place.template, arm, each['subject'])}")
    rows = [{"arm": arm, **each} for arm, each in arms.items()]
    if as_json or not sys.stdout.isatty():
        told = {"template": place.template, "subject": done.asked["subject"], "lines": rows}
        emit(
            {
                **told,
                "experiment": snippet,
                "job": done.job,
                "model": done.model,
                "cost": done.cost,
            },
            as_json=True,
        )
    else:
        columns = ("arm", "subject", "characters", "spam_points", "likeness", "notes")
        emit(rows, columns=columns, title=f"Now: {done.asked['subject']}")
        typer.echo(snippet, nl=False)
    if len(lines) < done.asked["n"]:
        say(f"{len(lines)} of {done.asked['n']} lines passed the checks")
    tell_who_wrote(done.model)


def experiment(place: Place, arms: list[str]) -> str:
    """The YAML of an experiment step over the subject as it is and these arms, and of their sends."""
    share = 100 // (len(arms) + 1)
    shares = {AS_IT_IS: 100 - share * len(arms), **dict.fromkeys(arms, share)}
    step = {AS_IT_IS: place.step, **{arm: f"{place.step}-{arm}" for arm in arms}}
    ways = {
        AS_IT_IS: place.template,
        **{arm: f"{place.template}-{arm}" for arm in arms},
    }

    def flow(pairs: dict[str, Any]) -> str:
        return "{" + ", ".join(f"{name}: {value}" for name, value in pairs.items()) + "}"

    # Without it each arm would fall through to the mail of the next one.
    after = place.next or f"{place.step}-after"
    words = f", personalize: {place.personalize}" if place.personalize else ""
    lines = [
        f"  - id: {place.step}-subject",
        "    experiment:",
        f"      arms: {flow(shares)}",
        "      metric: goal",
        "      stop: {test: sequential, alpha: 0.05, min_per_arm: 1000, max_days: 30}",
        f"    paths: {flow(step)}",
    ]
    lines += [
        f"  - {{id: {step[arm]}, send: {{template: {template}{words}}}, next: {after}}}"
        for arm, template in ways.items()
    ]
    if place.next is None:
        lines.append(f"  - {{id: {after}, exit: {{reason: completed}}}}   # or what comes next")
    return "\n".join(lines) + "\n"


def _place(what: str) -> Place:
    """A template, or the step of a file.

    Raises:
        DefinitionError: the file cannot be used.
        BadParameter: it has no such sending step.
    """
    file, colon, step_id = what.rpartition(":")
    if not colon:
        return Place(what)
    from schedules.definition import SendStep
    from schedules.durations import format_duration
    from schedules.loader import load

    sequence = load(file)
    sends = {step.id: step for step in sequence.steps if isinstance(step, SendStep)}
    if step_id not in sends:
        raise typer.BadParameter(
            f"{file} has no sending step {step_id!r}: expected one of {', '.join(sends) or 'none'}"
        )
    step = sends[step_id]
    personal = step.personalize
    words = None
    if personal is not None:
        words = f"{{prompt: {personal.prompt}, lead: {format_duration(personal.lead)}}}"
        if personal.segment is not None:
            words = f"{words[:-1]}, per: segment, segment: {personal.segment}}}"
    return Place(step.template, step.id, step.next, words)


def _for_everybody(name: str, root: Path) -> tuple[str, str]:
    """Subject and text of a mail as somebody gets it of whom nothing is known.

    A line goes to everybody, so it must hold no figure and no name of one subscriber.
    """
    from tasks.errors import Permanent
    from workers.cli.content import rendered

    try:
        mail = rendered(name, root, "minimal", None)
    except Permanent:
        mail = rendered(name, root, "full", None)
        known = re.compile(r"\d|\bAda\b|\bGB\b")
        text = "\n".join(line for line in mail.text.splitlines() if not known.search(line))
        return known.sub("", mail.subject), text
    return mail.subject, mail.text


def _write(root: Path, name: str, arm: str, subject: str) -> Path:
    """Write the template of an arm: the mail as it is, under another subject.

    Raises:
        Permanent: it is there already, or cannot be sent; nothing is left behind.
    """
    from tasks.errors import Permanent
    from tasks.personalize.drafted import literal
    from workers.cli.content import rendered

    target = root / f"{name}-{arm}"
    if target.exists():
        raise Permanent(f"{target} is there already, and nothing is written over; take it away")
    part = target.with_name(f"{target.name}-part-{os.getpid()}")
    part.mkdir()
    try:
        for path in ("body.txt", "body.html"):
            if (root / name / path).is_file():
                shutil.copy(root / name / path, part / path)
        (part / "subject.txt").write_text(f"{literal(subject)}\n", "utf-8")
        rendered(str(part.relative_to(root)), root, "full", None)
        os.rename(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target
