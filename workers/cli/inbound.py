"""`dripfleet inbound`: bounces and complaints as mails, read by hand, or taken from an MTA."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from workers.cli.context import connected
from workers.cli.render import ExitCode, emit, plain, say

if TYPE_CHECKING:
    from tasks.track.settings import InboundSettings

inbound = typer.Typer(
    no_args_is_help=True,
    help="Read bounces and complaints that came in, and see what they did.",
)


def register(app: typer.Typer) -> None:
    """Add `dripfleet inbound`."""
    app.add_typer(inbound, name="inbound")


@inbound.command(
    epilog="Examples:\n\ndripfleet inbound read bounce.eml --dry-run\n\n"
    "dripfleet inbound read bounce.eml complaint.eml\n\n"
    "dripfleet inbound read --maildir var/inbound/mail\n\n"
    "dripfleet inbound read --imap imaps://bounces@imap.example.com/INBOX",
)
def read(
    paths: list[Path] = typer.Argument(
        None, metavar="[PATH]...", help="Mails as files, an RFC 5322 message each."
    ),
    maildir: Path | None = typer.Option(
        None, help="A Maildir; what is taken moves from new to cur."
    ),
    imap: str | None = typer.Option(
        None,
        help="imaps://user:password@host/INBOX; nothing is deleted there. Others see a command line:"
        " a password is better off in DRIPFLEET_INBOUND_IMAP.",
    ),
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Say what files are, and about which mail; write nothing."
    ),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> int:
    """Take bounces and complaints; safe to repeat. Without arguments: what the settings name.

    The upkeep pool does the same by itself every 15 s with DRIPFLEET_INBOUND_MAILDIR and
    DRIPFLEET_INBOUND_IMAP. What is no report of ours goes to DRIPFLEET_INBOUND_ASIDE, with the
    reason in its first line. Exit 3 if something did.
    """
    if (bool(paths) + (maildir is not None) + (imap is not None)) > 1:
        raise typer.BadParameter("expected files, or --maildir DIR, or --imap URL, or none of them")
    if dry_run and not paths:
        raise typer.BadParameter("a Maildir or a mailbox is read for good: --dry-run takes files")
    with connected() as services:
        settings = _settings()
        if dry_run:
            emit([_told(path, settings) for path in paths], as_json=as_json)
            return ExitCode.OK
        counts = _taken(services.database, settings, paths or [], maildir, imap)
    emit(counts, title="taken", as_json=as_json)
    if counts.get("aside"):
        say(f"{counts['aside']} put aside in {settings.inbound_aside}", style="yellow")
        return ExitCode.FINDINGS
    return ExitCode.OK


@inbound.command(
    epilog="Examples:\n\ndripfleet inbound lmtp --listen 127.0.0.1:8024",
)
def lmtp(
    listen: str = typer.Option(
        "127.0.0.1:8024",
        help="HOST:PORT, or the path of a socket. No TLS, no passwords: stay local.",
    ),
) -> None:
    """Take bounces from an MTA by LMTP, until Ctrl-C: each is committed before it is answered.

    Postfix: `bounces.example.com lmtp:inet:127.0.0.1:8024` in transport_maps. Needs the extra
    `inbound`.
    """
    from tasks.errors import Misconfigured
    from tasks.track.read import intake

    try:
        from tasks.track.lmtp import server
    except ImportError as fault:
        raise Misconfigured(
            f"LMTP needs the extra `inbound` ({fault.name} is not installed):"
            " pip install 'dripfleet[inbound]'"
        ) from None
    with connected() as services:
        try:
            serving = server(intake(services.database, _settings()), listen)
        except ValueError as fault:
            raise typer.BadParameter(str(fault), param_hint="--listen") from None
        ended = threading.Event()
        before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
        try:
            serving.start()
        except OSError as fault:
            raise Misconfigured(
                f"LMTP cannot listen on {listen} ({fault.strerror or type(fault).__name__}); choose"
                " another place with --listen"
            ) from None
        try:
            say(f"takes bounces by LMTP on {listen}")
            ended.wait()
        except KeyboardInterrupt:
            return
        finally:
            serving.stop()
            signal.signal(signal.SIGTERM, before)


@inbound.command(
    "list",
    epilog="Examples:\n\ndripfleet inbound list\n\ndripfleet inbound list --days 7 --json",
)
def list_(
    days: int = typer.Option(1, min=1, max=365, help="Of so many days."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> None:
    """Count what came back, by stream, kind, class and code; the commonest first."""
    from tasks.upkeep.returned import came_back

    with connected() as services, services.database.snapshot() as connection:
        rows = came_back(connection, days)
    emit(plain(rows), title=f"Came back within {days} d", as_json=as_json)


def _settings() -> InboundSettings:
    from tasks.track.settings import InboundSettings
    from workers.settings import panel

    return panel(InboundSettings)[InboundSettings]


def _told(path: Path, settings: InboundSettings) -> dict[str, Any]:
    """What a file is, without a database."""
    from tasks.track.inbound import read as read_mail
    from tasks.track.report import Aside

    found = read_mail(path.read_bytes(), settings.keys)
    if isinstance(found, Aside):
        return {"file": str(path), "kind": "aside", "why": found.why}
    return {
        "file": str(path),
        "kind": found.kind,
        "class": found.class_,
        "code": found.code,
        "message": found.message or found.rfc_message_id,
        "says": found.diagnostic,
    }


def _taken(
    database: Any,
    settings: InboundSettings,
    paths: list[Path],
    maildir: Path | None,
    imap: str | None,
) -> dict[str, int]:
    from tasks.track import imap as over_imap
    from tasks.track import maildir as in_maildir
    from tasks.track.read import intake
    from tasks.track.settings import mailbox_of

    if not paths and maildir is None and imap is None:
        return _named(database, settings)
    taking = intake(database, settings)
    for path in paths:
        taking.take(path.read_bytes())
    if maildir is not None:
        while in_maildir.read(taking, maildir) == in_maildir.BATCH:
            pass
    if imap is not None:
        try:
            box = mailbox_of(imap)
        except ValueError as fault:
            raise typer.BadParameter(str(fault), param_hint="--imap") from None
        while over_imap.read(taking, box) == over_imap.BATCH:
            pass
    return dict(taking.counts)


def _named(database: Any, settings: InboundSettings) -> dict[str, int]:
    """By the ways that the settings name, until there is no more."""
    from tasks.errors import Misconfigured
    from tasks.track.read import read as read_by
    from tasks.track.read import ways

    found = ways(settings)
    if not found:
        raise Misconfigured(
            "neither DRIPFLEET_INBOUND_MAILDIR nor DRIPFLEET_INBOUND_IMAP is set; name files, --maildir or"
            " --imap"
        )
    counts: dict[str, int] = {}
    for way in found:
        for word, n in read_by(database, settings, way, budget=float("inf")).items():
            counts[word] = counts.get(word, 0) + n
    return counts
