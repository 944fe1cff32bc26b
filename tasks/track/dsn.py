"""What a delivery status notification says (RFC 3464), and what hosts write that know no such thing.

Beside the standard's two parts: Exim's own text with `X-Failed-Recipients`, qmail's QSBMF
(cr.yp.to/proto/qsbmf.txt), and hosts that leave `Status` at 5.0.0 and tell in words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tasks.track.classes import Class, classify

_STATUS: Final = re.compile(r"\b([245])\.(\d{1,3})\.(\d{1,3})\b", re.ASCII)
_REPLY: Final = re.compile(r"\b([45]\d\d)(?:[ -]|$)(?:#?([45]\.\d{1,3}\.\d{1,3}))?", re.ASCII)
_COPY: Final = re.compile(
    r"^-{2,} ?(Below this line is a copy|This is a copy of|Original message|Forwarded message"
    r"|The following is a copy|Returned message|Undelivered message|Unsent message)",
    re.IGNORECASE | re.MULTILINE,
)
_SHAPES: Final = re.compile(
    r"This is the qmail-send program|This message was created automatically by mail delivery"
    r"|A message that you (have )?sent could not be delivered|This is the mail system at host"
    r"|Delivery (has|to the following recipients?) failed|Delivery Status Notification \(Failure\)"
    r"|could not be delivered to|I('m| am) afraid I wasn't able to deliver your message",
    re.IGNORECASE,
)
_ORDER: Final = {"failed": 0, "delayed": 1, "delivered": 2, "relayed": 2, "expanded": 2}


@dataclass(frozen=True, slots=True)
class Status:
    """What is said of one recipient; `action` as of RFC 3464 §2.3.3."""

    action: str
    code: str | None
    class_: Class | None
    diagnostic: str


def of_blocks(blocks: Iterable[Mapping[str, str]], words: str = "") -> Status | None:
    """The status that a part `message/delivery-status` tells: of several, a failure before all else.

    Args:
        blocks: its groups of fields, names in small letters.
        words: the part for people, where the fields say nothing.
    """
    found = [status for block in blocks if (status := _of(block, words)) is not None]
    return min(found, key=lambda status: _ORDER[status.action], default=None)


def of_text(words: str, *, ours: bool = False) -> Status | None:
    """The status that the text of a host without RFC 3464 tells; None: this is no such text.

    Args:
        words: of the parts for people.
        ours: it came to a return path of ours, so a code is enough to know it by.
    """
    told = before_copy(words)
    code, smtp = _codes(told)
    if not _SHAPES.search(told) and not (ours and (code or smtp)):
        return None
    # They say that they gave up: what was temporary until then is soft.
    return Status("failed", code, classify(code, told, smtp), _around(told))


def before_copy(words: str) -> str:
    """The text without the copy of the mail that follows in it."""
    found = _COPY.search(words)
    return words[: found.start()] if found else words


def _of(block: Mapping[str, str], words: str) -> Status | None:
    action = block.get("action", "").split("(")[0].strip().lower()
    if action not in _ORDER:
        # Some leave it out: a status of failure beside a recipient is one.
        if "final-recipient" not in block or not block.get("status", "").strip().startswith("5"):
            return None
        action = "failed"
    diagnostic = block.get("diagnostic-code", "")
    _, semicolon, told = diagnostic.partition(";")
    told = told.strip() if semicolon else diagnostic.strip()
    status = _STATUS.search(block.get("status", ""))
    code = status[0] if status else None
    inner, smtp = _codes(told)
    # Where the reporter's own code says nothing, that of the host which refused may.
    if inner and (code is None or code[1:] in (".0.0", ".5.0", ".3.0") or _given_up(code, inner)):
        code = inner
    if action != "failed":
        return Status(action, code, None, told)
    said = told or before_copy(words)
    return Status(action, code, classify(code, said, smtp), told or _around(said))


def _given_up(code: str, inner: str) -> bool:
    """A permanent status around a temporary reply, or the other way round: the time was over."""
    return code[0] == "5" and code.endswith(".4.7") and inner[0] == "4"


def _codes(text: str) -> tuple[str | None, int | None]:
    reply = next(iter(_replies(text)), None)
    status = _STATUS.search(text)
    code = (reply[1] if reply else None) or (status[0] if status else None)
    return code, reply[0] if reply else None


def _replies(text: str) -> Iterator[tuple[int, str | None]]:
    for found in _REPLY.finditer(text):
        yield int(found[1]), found[2]


def _around(text: str) -> str:
    """The words about the refusal: those behind the first code, else the beginning."""
    found = _STATUS.search(text) or _REPLY.search(text)
    start = max(0, text.rfind("\n\n", 0, found.start())) if found else 0
    return text[start : start + 500]
