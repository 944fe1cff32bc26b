"""Rendered mails as filters see them, told in one screen before a sequence is published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.personalize.inbox import Around, inbox
from tasks.personalize.review import Note
from tasks.send.compliance import is_example
from tasks.send.content import Sender
from workers.cli.proof import sample_sender, sample_unsubscribe
from workers.cli.render import say

if TYPE_CHECKING:
    from tasks.send.render import Rendered
    from workers.cli.proof import Proof

MOST_LINES = 16
"""Of notes: with what `apply` says itself they fit a screen."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found in one mail; `mail` is its template, or NAME/LOCALE."""

    mail: str
    notes: list[Note]


def around(sender: Sender, marketing: bool, token: str = "k1.sample") -> Around:
    """What a mail of this sender has around its words, as a sample shows it."""
    return Around(
        sender.name,
        sender.address,
        marketing,
        tuple(sample_unsubscribe(sender, token).values()),
        [line for line in sender.postal_address.splitlines() if line.strip()],
    )


def look(proof: Proof) -> list[Looked]:
    """Each mail that the files of a proof send, once; advertising, where any of them is marketing."""
    sender = sample_sender()
    marketing = {
        name: any(
            name in file.bundles and file.loaded.sequence.class_ == "marketing"
            for file in proof.prepared
        )
        for name in {name for file in proof.prepared for name in file.bundles}
    }
    found = []
    for mail, (name, made) in proof.rendered.items():
        if name in marketing:
            found.append(Looked(mail, _notes(made, around(sender, marketing[name]))))
    return [each for each in found if each.notes]


def _notes(made: Rendered, stands: Around) -> list[Note]:
    return inbox(made.subject, made.text, made.html, stands)


def tell(found: list[Looked]) -> None:
    """Say what was found on one screen, errors first; what is over is counted."""
    lines: dict[str, list[str]] = {"error": [], "warning": []}
    for each in found:
        for note in each.notes:
            lines[note.severity].append(f"{each.mail}: {note.check}: {note.says}; {note.next}")
    styles: Mapping[str, str] = {"error": "red", "warning": "yellow"}
    left = MOST_LINES
    for severity, said in lines.items():
        for line in said[:left]:
            say(f"{severity}: {line}", style=styles[severity])
        left = max(left - len(said), 0)
    over = sum(map(len, lines.values())) - MOST_LINES
    if over > 0:
        say(f"and {over} more: `dripfleet content review TEMPLATE --marketing`")


def refuses(found: list[Looked]) -> bool:
    """Whether these mails may not be published: an error, and mail that reaches people.

    Where DRIPFLEET_COMPLIANCE says `warn`, or the sender is at example.com, they are told only.
    """
    from workers.doctor.signatures import send_settings

    settings = send_settings()
    if settings.compliance == "warn" or is_example(settings.sender_address):
        return False
    return any(note.severity == "error" for each in found for note in each.notes)
