"""`dripfleet content`: a mail looked at before anybody gets it; no model and no server is needed."""

from __future__ import annotations

import datetime as dt
import email
import email.policy
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from workers.cli.render import ExitCode, emit, plain, say

if TYPE_CHECKING:
    from tasks.personalize.comparison import Read
    from tasks.send.render import Rendered

content = typer.Typer(no_args_is_help=True, help="Look at a mail before anybody gets it.")

TEMPLATES = typer.Option(
    None, envvar="DRIPFLEET_TEMPLATES", help="Folder of templates; default: those that ship."
)
CASE = typer.Option("full", help="Whom to render it for: full, minimal or non-ascii.")
PROMPT = typer.Option(None, help="With the first variant of this prompt in its slots.")


def register(app: typer.Typer) -> None:
    """Add `dripfleet content`."""
    app.add_typer(content, name="content")


@content.command(
    epilog="Examples:\n\ndripfleet content preview win-back/hello\n\n"
    "dripfleet content preview win-back/hello --prompt win-back/hello --html hello.html"
)
def preview(
    template: str = typer.Argument(help="Name of a template, such as win-back/hello."),
    templates: Path | None = TEMPLATES,
    case: str = CASE,
    prompt: str | None = PROMPT,
    html: Path | None = typer.Option(None, help="Write the HTML part into this file."),
) -> None:
    """Show a mail as text, as a made-up subscriber would get it; its HTML part goes into a file."""
    from tasks.errors import Permanent

    made = _rendered(template, templates, case, prompt)
    typer.echo(f"Subject: {made.subject}\n\n{made.text}", nl=not made.text.endswith("\n"))
    if html is not None:
        if made.html is None:
            raise Permanent(
                f"template {template!r} has no body.html; make one, or leave --html out"
            )
        html.write_text(made.html, "utf-8")
        say(f"the HTML part is in {html}")


@content.command(
    epilog="Examples:\n\ndripfleet content review win-back/hello\n\n"
    "dripfleet content review win-back/hello --prompt win-back/hello --json"
)
def review(
    what: str = typer.Argument(help="Name of a template, or a mail as a file that ends in .eml."),
    templates: Path | None = TEMPLATES,
    case: str = CASE,
    prompt: str | None = PROMPT,
    language: str = typer.Option("en", help="Of the mail; grade and sentiment are for en alone."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> int:
    """Look for spam words, length, links, reading grade, sentiment, alt texts, contrast, language.

    Exit 3 if there is an error; warnings alone leave it at 0.
    """
    from tasks.personalize.review import review as look

    if what.endswith(".eml"):
        read = _read(Path(what))
        subject, text, html = read.subject, read.plain, read.html
    else:
        made = _rendered(what, templates, case, prompt)
        subject, text, html = made.subject, made.text, made.html
    found = look(subject, text, html, language=language, sentiment=_scorer(language))
    emit(plain({"figures": found.figures, "notes": found.notes}), title=what, as_json=as_json)
    errors = sum(note.severity == "error" for note in found.notes)
    say(f"{errors} errors, {len(found.notes) - errors} warnings")
    return ExitCode.FINDINGS if errors else ExitCode.OK


@content.command(
    epilog="Examples:\n\ndripfleet content compare theirs.eml --ours win-back/hello\n\n"
    "dripfleet content compare theirs.eml --ours win-back/hello --json"
)
def compare(
    theirs: list[Path] = typer.Argument(
        help="Their mails as .eml; several show how often they write."
    ),
    ours: str = typer.Option(help="Name of a template, or a mail of ours that ends in .eml."),
    templates: Path | None = TEMPLATES,
    case: str = CASE,
    prompt: str | None = PROMPT,
    language: str = typer.Option("en", help="Of all mails; grade and sentiment are for en alone."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> None:
    """Put somebody else's mails beside one of ours: lengths, links, offers, tone, cadence.

    Figures alone, and no opinion: no model reads them.
    """
    from tasks.personalize.comparison import Read, facts

    if ours.endswith(".eml"):
        mine = _read(Path(ours))
    else:
        made = _rendered(ours, templates, case, prompt)
        mine = Read(made.subject, made.text, made.html)
    scorer = _scorer(language)
    left = facts([_read(path) for path in theirs], language=language, sentiment=scorer)
    right = facts([mine], language=language, sentiment=scorer)
    rows = [
        {"figure": name, "theirs": left.get(name), "ours": right.get(name)}
        for name in dict.fromkeys([*left, *right])
    ]
    emit(rows, title="Theirs and ours", as_json=as_json)


def _scorer(language: str) -> Callable[[str], float] | None:
    """VADER, where it is installed and knows the language."""
    from tasks.errors import Misconfigured
    from tasks.personalize import sentiment

    try:
        return sentiment.scorer() if language == "en" else None
    except Misconfigured as fault:
        say(str(fault))
        return None


def _rendered(template: str, root: Path | None, case: str, prompt: str | None) -> Rendered:
    """A mail for a made-up subscriber, in a child: a template may be what it likes."""
    from schedules.prompt import put_back
    from schedules.prompt_file import load_prompt
    from tasks.errors import Permanent
    from tasks.send.confine import render_confined
    from tasks.send.render import Rendered, bundle_from_folder
    from tasks.sequence.publish import MADE_UP
    from workers.cli.proof import installed_templates, sample_sender, sample_unsubscribe

    folder = root or installed_templates()
    cases = {sample.case.split("'")[1]: sample.variables for sample in MADE_UP}
    if case not in cases:
        raise typer.BadParameter(f"{case!r}: expected one of {', '.join(cases)}")
    subscriber = dict(cases[case])
    words: dict[str, str] = {}
    if prompt is not None:
        read = load_prompt(folder, prompt)
        if not read.variants:
            raise Permanent(f"prompt {prompt!r} has no variants to show; write one into its file")
        words = put_back(read.variants[0], subscriber)
    sender = sample_sender()
    variables: dict[str, Any] = {
        "subscriber": subscriber,
        "words": words,
        "sender": {"name": sender.name, "postal_address": sender.postal_address},
        "unsubscribe": sample_unsubscribe(sender, "k1.sample"),
    }
    [made] = render_confined(bundle_from_folder(folder, template), [variables])
    if not isinstance(made, Rendered):
        raise Permanent(f"template {template!r} cannot be rendered: {made.reason}")
    return made


def _read(path: Path) -> Read:
    """A mail in a file (RFC 5322)."""
    from tasks.errors import Permanent
    from tasks.personalize.comparison import Read

    try:
        octets = path.read_bytes()
    except OSError as fault:
        raise Permanent(f"{path} cannot be read ({fault.strerror}); check the path") from None
    mail = email.message_from_bytes(octets, policy=email.policy.default)
    assert isinstance(mail, EmailMessage)
    parts = {
        kind: part.get_content()
        for kind in ("plain", "html")
        if (part := mail.get_body(preferencelist=(kind,))) is not None
    }
    if not parts:
        raise Permanent(f"{path} holds no mail with a text or HTML part; save it as .eml again")
    date = getattr(mail["date"], "datetime", None)
    if date is not None and date.tzinfo is None:
        date = date.replace(tzinfo=dt.UTC)  # "-0000": in UTC, and nothing is said of a zone
    return Read(
        str(mail["subject"] or ""),
        str(parts.get("plain", "")),
        parts.get("html"),
        date,
        "list-unsubscribe" in mail,
    )
