"""`dripfleet doubt evidence`: what the far end says of mails in doubt comes in, a JSON object a line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import typer

from workers.cli.context import connected
from workers.cli.render import ExitCode, emit, number, progress, say
from workers.cli.retry import LARGEST, tell_refused
from workers.cli.subscribers import opened, position

if TYPE_CHECKING:
    from tasks.moves.evidence import Evidence, Word
    from tasks.moves.operate import Refusal

TOLD: Final = 20
"""How many bad lines are named, before they are only counted."""
LONGEST: Final = 65_536
"""Bytes of a line; what is longer is none of ours."""


class Source(StrEnum):
    """Who says so."""

    sink = "sink"
    dsn = "dsn"
    provider = "provider"
    click = "click"


EVENTS: Final[dict[Source, dict[str, Word]]] = {
    Source.sink: {"delivered": "arrived"},
    Source.dsn: {"delivered": "arrived", "bounced": "bounced"},
    Source.provider: {"delivered": "arrived", "bounced": "bounced"},
    Source.click: {"clicked": "arrived"},
}


class BadLine(ValueError):
    """A line that says nothing about a mail; its text is the reason."""


def register(doubt: typer.Typer) -> None:
    """Add `dripfleet doubt evidence`."""
    doubt.command(
        epilog="Examples:\n\n"
        "dripfleet doubt evidence var/mail/ledger.jsonl --source sink --dry-run\n\n"
        "dripfleet doubt evidence events.jsonl --source provider",
    )(evidence)


def evidence(
    file: str = typer.Argument(help="A file of JSON lines, or - for stdin."),
    source: Source = typer.Option(..., help="Who says so. sink: a ledger of what was accepted."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would happen, write nothing."),
    as_json: bool = typer.Option(False, "--json", help="Summary as JSON."),
) -> int:
    """Settle mails in doubt by what the far end says of them; safe to repeat.

    A line: {"message_id": "<…@…>", "event": "delivered"}, with "bounced" from dsn and provider, and
    "clicked" from click (which tells nothing where a mail was tried twice); "message" is a row id
    instead, "epoch" names the try, "note" is kept. Of a sink's ledger the lines are taken as they
    are. Mails that are not in doubt are left alone. Exit 1 if a line could not be read.
    """
    from tasks.moves.evidence import take_evidence
    from tasks.moves.operate import BATCH

    done, bad, left = 0, 0, Counter[str]()
    shown: list[Refusal] = []
    with opened(file) as (stream, name), connected() as services, progress("reading") as bar:
        lines = enumerate(iter(lambda: stream.readline(LONGEST + 1), b""), 1)
        while chunk := list(islice(lines, BATCH)):
            told: list[Evidence] = []
            for number_, line in chunk:
                try:
                    told.append(read_line(line, source))
                except BadLine as fault:
                    bad += 1
                    if bad <= TOLD:
                        say(f"{name}, line {number_}: {fault}", style="yellow")
            opening = services.database.snapshot if dry_run else services.database.transaction
            with opening() as connection:
                taken = take_evidence(connection, told, dry_run=dry_run)
            done += len(taken.done)
            left.update(refusal.reason for refusal in taken.refused)
            shown.extend(_worth_telling(taken.refused, TOLD - len(shown)))
            at, total = position(stream)
            bar.show(at, total, f"{number(done)} settled")
    if bad > TOLD:
        say(f"{number(bad - TOLD)} more lines could not be read", style="yellow")
    tell_refused(shown)
    emit(
        {"taken": done, "left": dict(left), "bad_lines": bad, "dry_run": dry_run},
        title="what would happen" if dry_run else None,
        as_json=as_json,
    )
    return ExitCode.FAULT if bad else ExitCode.OK


def _worth_telling(refused: list[Refusal], most: int) -> Iterator[Refusal]:
    """Those that an operator can do something about; a ledger holds mostly what is known."""
    usual = {"unknown", "answered", "said_already", "not_tried"}
    return islice((each for each in refused if each.reason not in usual), max(0, most))


def read_line(line: bytes, source: Source) -> Evidence:
    """What a line says.

    Raises:
        BadLine: nothing that can be used; the text names the thing and what was expected.
    """
    from tasks.moves.evidence import Evidence

    if len(line) > LONGEST:
        raise BadLine(f"it is longer than {number(LONGEST)} bytes: expected one JSON object a line")
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        raise BadLine('it is no JSON: expected {"message_id": "<…>", "event": "…"}') from None
    if not isinstance(said, dict):
        raise BadLine('expected a JSON object: {"message_id": "<…>", "event": "…"}')
    events = EVENTS[source]
    event = said.get("event", "delivered" if source is Source.sink else None)
    if not isinstance(event, str) or event not in events:
        raise BadLine(f'"event" is {_shown(event)}: expected {" or ".join(events)} from {source}')
    epoch = said.get("epoch")
    if epoch is not None and not _whole(epoch, 2**31 - 1):
        raise BadLine(f'"epoch" is {_shown(epoch)}: expected a whole number above zero, or none')
    note = said.get("note", "")
    if not isinstance(note, str) or not note.isprintable():
        raise BadLine('"note" must be one line of text')
    return Evidence(_message(said), events[event], source.value, epoch, note.strip()[:500])


def _message(said: dict[str, Any]) -> int | str:
    if "message" in said:
        message = said["message"]
        if not _whole(message, LARGEST):
            raise BadLine(f'"message" is {_shown(message)}: expected the row id of a message')
        return int(message)
    message_id = said.get("message_id")
    if not isinstance(message_id, str) or not message_id.strip() or not message_id.isprintable():
        raise BadLine('it names no mail: expected "message_id": "<…@…>", or "message": its row id')
    message_id = message_id.strip()
    return message_id if message_id.startswith("<") else f"<{message_id}>"


def _whole(value: object, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= largest


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 40 else text[:39] + "…"
