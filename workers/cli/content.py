"""`dripfleet content`: a mail looked at before anybody gets it, without a model or a server.

What a model writes beside the words of a mail stands in `content_draft` and `content_subjects`.
"""

from __future__ import annotations

import datetime as dt
import difflib
import email
import email.policy
import json
import sys
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from workers.cli import content_draft, content_send, content_subjects, content_work
from workers.cli.content_work import QUEUE, WAIT, have_done, tell_who_wrote
from workers.cli.render import ExitCode, emit, say

if TYPE_CHECKING:
    from tasks.personalize.comparison import Read
    from tasks.send.attached import Files
    from tasks.send.content import Sender
    from tasks.send.render import Bundle, Rendered

content = typer.Typer(
    no_args_is_help=True, help="Look at mails before anybody gets them, and have some written."
)

TEMPLATES = typer.Option(
    None, envvar="DRIPFLEET_TEMPLATES", help="Folder of templates; default: those that ship."
)
CASE = typer.Option("full", help="Whom to render it for: full, minimal or non-ascii.")
LOCALE = typer.Option(None, help="Of whom it is rendered for, such as de-AT; picks the folder.")
PROMPT = typer.Option(None, help="With the first variant of this prompt in its slots.")
EVENT = typer.Option(
    None, metavar="JSON", help="Properties of the event that let them in, as an object."
)


def register(app: typer.Typer) -> None:
    """Add `dripfleet content`."""
    content_draft.register(content)
    content_send.register(content)
    content_subjects.register(content)
    content_work.register(content)
    app.add_typer(content, name="content")


@content.command(
    epilog="Examples:\n\ndripfleet content preview win-back/hello\n\n"
    "dripfleet content preview win-back/hello --prompt win-back/hello --html hello.html\n\n"
    "dripfleet content preview win-back/hello --locale de-AT --golden hello.txt --update\n\n"
    'dripfleet content preview win-back/hello --event \'{"order": "81", "amount": 12.5}\''
)
def preview(
    template: str = typer.Argument(help="Name of a template, such as win-back/hello."),
    templates: Path | None = TEMPLATES,
    case: str = CASE,
    prompt: str | None = PROMPT,
    locale: str | None = LOCALE,
    event: str | None = EVENT,
    html: Path | None = typer.Option(None, help="Write the HTML part into this file."),
    golden: Path | None = typer.Option(
        None,
        help="Compare subject and both parts with this file; exit 3 and a diff if they differ.",
    ),
    update: bool = typer.Option(False, "--update", help="Write the file of --golden instead."),
) -> int:
    """Show a mail as text, as a made-up subscriber would get it; its HTML part goes into a file.

    --golden FILE is for CI: the whole mail, rules inlined, against what somebody looked at before.
    """
    from tasks.errors import Permanent
    from tasks.send.attached import data_urls

    made = rendered(template, templates, case, prompt, locale, event)
    if update and golden is None:
        raise typer.BadParameter("--update needs --golden, the file to write")
    if golden is None:
        typer.echo(f"Subject: {made.subject}\n\n{made.text}", nl=not made.text.endswith("\n"))
    for path, source in (sources := _files(template, templates)).files.items():
        say(f"with {path}, {len(source) * 3 // 4:,} octets")
    if html is not None:
        if made.html is None:
            raise Permanent(
                f"template {template!r} has no body.html; make one, or leave --html out"
            )
        page = data_urls(made.html, sources.files)
        html.write_text(page, "utf-8")
        say(f"the HTML part is in {html}")
    return ExitCode.OK if golden is None else _held_to(golden, made, update)


def _files(template: str, root: Path | None) -> Bundle:
    """The mail's sources, with what is attached to it."""
    from tasks.send.render import bundle_from_folder
    from workers.cli.proof import installed_templates

    return bundle_from_folder(root or installed_templates(), template)


def files_for(template: str, root: Path | None, case: str, locale: str | None) -> Files:
    """What goes with the mail that `rendered` gives for the same arguments."""
    from tasks.send.render import files_of
    from tasks.sequence.publish import MADE_UP

    samples = {sample.case.split("'")[1]: sample.variables for sample in MADE_UP}
    subscriber = {"locale": locale or samples[case].get("locale")}
    return files_of(_files(template, root), {"subscriber": subscriber})


def whole(made: Rendered) -> str:
    """A mail as a golden file has it: its subject and both parts."""
    parts = [f"Subject: {made.subject}", "", made.text.rstrip("\n")]
    if made.html is not None:
        parts += ["", "-------- HTML --------", made.html.rstrip("\n")]
    return "\n".join(parts) + "\n"


def _held_to(golden: Path, made: Rendered, update: bool) -> int:
    """Compare a mail with its golden file, or write that."""
    new = whole(made)
    if update:
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(new, "utf-8")
        say(f"wrote {golden}; look at it before you commit it")
        return ExitCode.OK
    try:
        kept = golden.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise typer.BadParameter(
            f"{golden} cannot be read ({type(fault).__name__}): expected what --update writes",
            param_hint="--golden",
        ) from None
    lines = list(
        difflib.unified_diff(
            kept.splitlines(keepends=True), new.splitlines(keepends=True), str(golden), "rendered"
        )
    )
    if not lines:
        say(f"the mail is that of {golden}")
        return ExitCode.OK
    sys.stdout.write("".join(lines))
    say(f"the mail is another than that of {golden}; --update writes it anew")
    return ExitCode.FINDINGS


@content.command(
    epilog="Examples:\n\ndripfleet content review win-back/hello\n\n"
    "dripfleet content review win-back/hello --prompt win-back/hello --json"
)
def review(
    what: str = typer.Argument(help="Name of a template, or a mail as a file that ends in .eml."),
    templates: Path | None = TEMPLATES,
    case: str = CASE,
    prompt: str | None = PROMPT,
    locale: str | None = LOCALE,
    event: str | None = EVENT,
    language: str | None = typer.Option(
        None, help="Of the mail, by default that of the locale, or en; grade and sentiment need en."
    ),
    marketing: bool = typer.Option(
        False,
        "--marketing",
        help="It is advertising: a way out and a postal address have to be in it.",
    ),
    queue: bool = QUEUE,
    wait: bool = WAIT,
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> int:
    """Look for spam words, length, links, reading grade, sentiment, alt texts, contrast, language.

    Exit 3 if there is an error; warnings alone leave it at 0.
    """
    from tasks import names
    from tasks.personalize.desk import reviewed
    from tasks.send.attachable import remarks
    from workers.cli.proof import sample_sender

    if what.endswith(".eml"):
        read = _read(Path(what))
        subject, text, html = read.subject, read.plain, read.html
        files = None
    else:
        made = rendered(what, templates, case, prompt, locale, event)
        subject, text, html = made.subject, made.text, made.html
        files = _files(what, templates)
    language = language or (locale or "en").replace("_", "-").split("-")[0].lower()
    asked = {"subject": subject, "plain": text, "html": html, "language": language}
    if queue:
        done = have_done(
            names.CONTENT_REVIEW, "content", asked, by_model=False, queue=True, wait=wait
        )
        if done is None:
            return ExitCode.OK
        found = done.found
    else:
        _tell_of_sentiment(language)
        found = reviewed(asked)
    sender = None if what.endswith(".eml") else sample_sender()
    more = _of_the_inbox(subject, text, html, sender, marketing, found["notes"])
    if files is not None:
        columns = ("check", "severity", "says", "next")
        more += [
            dict(zip(columns, each, strict=True)) for each in remarks(files.parts, files.files)
        ]
    found = {**found, "notes": [*found["notes"], *more]}
    emit(found, title=what, as_json=as_json)
    errors = sum(note["severity"] == "error" for note in found["notes"])
    say(f"{errors} errors, {len(found['notes']) - errors} warnings")
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
    prose: bool = typer.Option(False, "--prose", help="And in sentences, by the model."),
    queue: bool = QUEUE,
    wait: bool = WAIT,
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> None:
    """Put somebody else's mails beside one of ours: lengths, links, offers, tone, cadence.

    Figures alone, and no opinion: no model reads the mails. With --prose a model is given the figures,
    and not the mails, and tells them in sentences, which hold no other figure.
    """
    from tasks import names
    from tasks.personalize.comparison import Read
    from tasks.personalize.desk import as_asked, compared

    if ours.endswith(".eml"):
        mine = _read(Path(ours))
    else:
        made = rendered(ours, templates, case, prompt)
        mine = Read(made.subject, made.text, made.html)
    asked = {
        "theirs": [as_asked(_read(path)) for path in theirs],
        "ours": as_asked(mine),
        "language": language,
        "prose": prose,
    }
    if not queue:
        _tell_of_sentiment(language)
    if queue or prose:
        done = have_done(
            names.CONTENT_COMPARE, "content", asked, by_model=prose, queue=queue, wait=wait
        )
        if done is None:
            return
        found, model = done.found, done.model
    else:
        found, model = compared(asked), None
    if prose and (as_json or not sys.stdout.isatty()):
        emit({"figures": found["rows"], "summary": found["summary"], "model": model}, as_json=True)
    else:
        emit(found["rows"], title="Theirs and ours", as_json=as_json)
        if prose:
            typer.echo(found["summary"])
    tell_who_wrote(model)


def _of_the_inbox(
    subject: str,
    text: str,
    html: str | None,
    sender: Sender | None,
    marketing: bool,
    known: list[dict[str, str]],
) -> list[dict[str, str]]:
    """What filters hold against a mail, where the notes do not say it yet."""
    from tasks.personalize.inbox import Around, inbox
    from workers.cli.inbox import around

    # Of a mail in a file neither sender nor way out is ours.
    stands = Around("", "") if sender is None else around(sender, marketing)
    notes = inbox(subject, text, html, stands)
    said = [
        {"check": n.check, "severity": n.severity, "says": n.says, "next": n.next} for n in notes
    ]
    return [each for each in said if each not in known]


def _tell_of_sentiment(language: str) -> None:
    """Say it where the extra is missing; the figures are then without it."""
    from tasks.errors import Misconfigured
    from tasks.personalize import sentiment

    try:
        if language == "en":
            sentiment.scorer()
    except Misconfigured as fault:
        say(str(fault))


def rendered(
    template: str,
    root: Path | None,
    case: str,
    prompt: str | None,
    locale: str | None = None,
    event: str | None = None,
    *,
    sender: Sender | None = None,
    leaving: dict[str, str] | None = None,
) -> Rendered:
    """A mail for a made-up subscriber, in a child: a template may be what it likes.

    `sender` is by default that of the settings, and `leaving` a way out that leads nowhere.
    """
    from schedules.prompt import put_back
    from schedules.prompt_file import load_prompt
    from tasks.errors import Permanent
    from tasks.send import locales
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
        read = load_prompt(folder, prompt).of(locale)
        if not read.variants:
            raise Permanent(f"prompt {prompt!r} has no variants to show; write one into its file")
        words = put_back(read.variants[0], subscriber)
    sender = sender or sample_sender()
    variables: dict[str, Any] = {
        "subscriber": subscriber,
        "words": words,
        "event": _properties(event),
        "sender": {"name": sender.name, "postal_address": sender.postal_address},
        "unsubscribe": leaving or sample_unsubscribe(sender, "k1.sample"),
    }
    bundle = bundle_from_folder(folder, template)
    if locale is not None:
        subscriber["locale"] = locale
        found = locales.choose(bundle.locales, locale)
        say(f"locale {locale}: {f'the folder {found}' if found else 'no folder, the mail itself'}")
    [made] = render_confined(bundle, [variables])
    if not isinstance(made, Rendered):
        raise Permanent(f"template {template!r} cannot be rendered: {made.reason}")
    return made


def _properties(event: str | None) -> dict[str, Any]:
    """What a template sees as `event`; nothing where none let them in.

    Raises:
        BadParameter: it is no object of JSON.
    """
    if event is None:
        return {}
    try:
        found = json.loads(event)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        said = f'{event[:80]!r}: expected an object of JSON, such as \'{{"order": "81"}}\''
        raise typer.BadParameter(said, param_hint="--event")
    return found


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
