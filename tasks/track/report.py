"""What came back of one mail, in the shape that every intake brings it to. Values alone.

Which mail it is about is known by what only somebody who had it can know: the signed token of its return
path (or of its way out), or its Message-ID, an HMAC of our own. An address alone names nobody: whoever
knows it could write such a report, so one that holds no more acts on nothing and is put aside.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from tasks.track.classes import Class

Kind = Literal["delivered", "delayed", "bounced", "complained", "left"]
LONGEST: Final = 500
"""Characters of a diagnostic."""


@dataclass(frozen=True, slots=True)
class Report:
    """One thing that somebody outside says of one mail.

    Attributes:
        source: who says it: `dsn`, `arf`, `mail`, or the name of a provider.
        evidence_id: what they call it; the same one of a source acts once.
        kind: of the mail. `delayed` is no end: they go on trying.
        message: its row id, by a signed token; None: see `rfc_message_id`.
        epoch: of which try, where the token says so.
        tag: of the address that it went to (`tasks.return_path.tag`), where the token or an
            authenticated source says it: if its subscriber has another one since, that is left alone.
        rfc_message_id: with brackets; asked for where there is no token.
        class_: of a bounce.
        code: enhanced code, as they wrote it.
        diagnostic: one printable line of theirs; it may name the mailbox.
    """

    source: str
    evidence_id: str
    kind: Kind
    message: int | None = None
    epoch: int | None = None
    tag: bytes | None = None
    rfc_message_id: str | None = None
    class_: Class | None = None
    code: str | None = None
    diagnostic: str = ""

    def bounded(self) -> Report:
        """The same, with texts that Postgres holds and a person reads."""
        return replace(
            self,
            evidence_id=line(self.evidence_id)[:LONGEST],
            code=line(self.code)[:20] if self.code else None,
            diagnostic=line(self.diagnostic)[:LONGEST],
        )


@dataclass(frozen=True, slots=True)
class Aside:
    """What is no report of ours, and why; it is kept for a person to look at."""

    why: str


def line(text: str) -> str:
    """One printable line."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * LONGEST]).split())
