"""From the octets of a mail that came in to what it reports of one of ours. Pure: values in, values out.

Whatever the octets are, the answer is a `Report` or an `Aside`: nothing is raised. Of a large mail the
beginning is read, where everything that counts stands; parts and depth are bounded.

Which mail it is about, in this order: a genuine token in the addresses that it came to, one in the headers
of the copy (return path, way out), a Message-ID in the copy, one that it answers. `Final-Recipient` and
all other addresses are never asked: anybody can write them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from email import message_from_bytes, policy
from email.message import Message
from hashlib import sha256
from typing import Any, Final

from tasks import return_path
from tasks.tokens import KEY_ID, Keys
from tasks.tokens import read as read_token
from tasks.track import arf, dsn
from tasks.track.report import Aside, Report

MOST: Final = 262_144
"""Octets that are read of a mail; the rest of it is the rest of a copy."""
PARTS: Final = 60
DEPTH: Final = 10
WORDS: Final = 20_000
"""Characters of text for people that are looked at."""
LONG_LINE: Final = 4_000

_CAME_TO: Final = (
    "delivered-to", "x-original-to", "envelope-to", "x-envelope-to", "x-delivered-to", "to", "cc",
)  # fmt: skip
_MESSAGE_ID: Final = re.compile(r"<[!-;=?-~]{3,250}>", re.ASCII)
_TOKEN: Final = re.compile(rf"(?<![\w.-]){KEY_ID}\.[\w-]{{11}}\.[\w-]{{22}}(?![\w-])", re.ASCII)
_LEAVE: Final = re.compile(r"^\s*unsubscribe\s", re.IGNORECASE)

Fields = Mapping[str, str]


@dataclass(slots=True)
class _Seen:
    """What was found in the parts of a mail."""

    top: Fields
    text: list[str] = field(default_factory=list)
    blocks: list[Fields] = field(default_factory=list)
    feedback: Fields | None = None
    copy: Fields | None = None

    @property
    def words(self) -> str:
        return "\n".join(self.text)[:WORDS]


def read(octets: bytes, keys: Keys, came_to: Sequence[str] = ()) -> Report | Aside:
    """What a mail reports.

    Args:
        octets: as it came, with whatever line ends.
        keys: of our tokens.
        came_to: the envelope's recipients, where the intake knows them.
    """
    if not octets.strip():
        return Aside("it is empty")
    try:
        seen = _look(octets[:MOST])
    except _TooMuch as fault:
        return Aside(str(fault))
    except (
        Exception,
        RecursionError,
    ) as fault:  # the parser's own; whatever it is, the mail is kept
        return Aside(f"it cannot be read as a mail ({type(fault).__name__})")
    return _judge(seen, octets, keys, came_to)


def _judge(seen: _Seen, octets: bytes, keys: Keys, came_to: Sequence[str]) -> Report | Aside:
    source, status = "dsn", None
    if seen.feedback is not None:
        source = "arf"
        said = arf.of_fields(seen.feedback)
        if said not in ("complained", "left"):
            return Aside(said)
        kind: Any = said
    elif (status := _status(seen, keys, came_to)) is not None:
        kind = {"failed": "bounced", "delayed": "delayed"}.get(status.action, "delivered")
    elif _LEAVE.match(seen.top.get("subject", "")):
        source, kind = "mail", "left"
    elif "x-hmxmroriginalrecipient" in seen.top and seen.copy is not None:
        source, kind = "arf", "complained"  # Outlook.com's JMRP forwards what was marked as junk
    else:
        return Aside(_what(seen))
    who = _about(seen, keys, came_to, left=source == "mail")
    if who is None:
        return Aside(
            "it names no mail by a token or a Message-ID, at most an address, which anybody can write"
        )
    report = Report(source, _evidence_id(seen, octets), kind, **who)
    if status is not None:
        report = replace(
            report, class_=status.class_, code=status.code, diagnostic=status.diagnostic
        )
    return report.bounded()


def _status(seen: _Seen, keys: Keys, came_to: Sequence[str]) -> dsn.Status | None:
    if seen.blocks:
        return dsn.of_blocks(seen.blocks, seen.words)
    sender = seen.top.get("from", "").lower()
    automatic = (
        "x-failed-recipients" in seen.top
        or "mailer-daemon" in sender
        or "postmaster" in sender
        or seen.top.get("return-path", "").strip() == "<>"
    )
    if not automatic:
        return None
    return dsn.of_text(seen.words, ours=_came_back(seen, keys, came_to) is not None)


def _what(seen: _Seen) -> str:
    """In a sentence what a mail is that reports nothing."""
    automatic = seen.top.get("auto-submitted", "no").strip().lower()
    if (
        automatic.startswith("auto-replied")
        or "x-autoreply" in seen.top
        or "x-autorespond" in seen.top
    ):
        return "it is an automatic reply, a vacation notice perhaps"
    if seen.top.get("content-type", "").lower().startswith("multipart/report"):
        return "it is a report of a kind that is not known: neither a delivery status nor feedback"
    return "it is neither a bounce nor a complaint; somebody may have written it"


def _about(seen: _Seen, keys: Keys, came_to: Sequence[str], *, left: bool) -> dict[str, Any] | None:
    """What a report knows its mail by, as `Report` has it; None: by nothing."""
    if left:
        found = _leaving(keys, seen.top.get("subject", ""))
        return None if found is None else {"message": found}
    if (tried := _came_back(seen, keys, came_to)) is not None:
        return asdict(tried)
    copy = seen.copy or {}
    told = [copy.get("return-path", ""), (seen.feedback or {}).get("original-mail-from", "")]
    told += [value for name, value in copy.items() if name.startswith("x-")]
    for value in told:
        if (tried := return_path.find(keys, value)) is not None:
            return asdict(tried)
    if (found := _leaving(keys, copy.get("list-unsubscribe", ""))) is not None:
        return {"message": found}
    for value in (
        copy.get("message-id", ""),
        (seen.feedback or {}).get("original-message-id", ""),
        seen.top.get("in-reply-to", ""),
        seen.top.get("references", ""),
    ):
        if ids := _MESSAGE_ID.findall(value):
            return {"rfc_message_id": ids[-1]}
    return None


def _came_back(seen: _Seen, keys: Keys, came_to: Sequence[str]) -> return_path.Try | None:
    """The try that an address which the mail came to names."""
    for address in (*came_to, *(seen.top.get(name, "") for name in _CAME_TO)):
        if (tried := return_path.find(keys, address)) is not None:
            return tried
    return None


def _leaving(keys: Keys, text: str) -> int | None:
    """The message of the first genuine token of leaving in a text."""
    for found in _TOKEN.findall(text[:4_000])[:10]:
        ids = read_token(keys, "unsubscribe", found)
        if ids is not None and len(ids) == 1:
            return ids[0]
    return None


def _evidence_id(seen: _Seen, octets: bytes) -> str:
    """What the reporter calls it, else a hash of what lies under the headers of its way here."""
    own = _MESSAGE_ID.search(seen.top.get("message-id", ""))
    if own is not None:
        return own[0]
    _, _, body = octets.replace(b"\r\n", b"\n").partition(b"\n\n")
    return f"sha256:{sha256(body).hexdigest()}"


class _TooMuch(ValueError):
    pass


def _look(octets: bytes) -> _Seen:
    shortened = b"\n".join(line[:LONG_LINE] for line in octets.split(b"\n"))
    message: Message[Any, Any] = message_from_bytes(shortened, policy=policy.default)
    seen = _Seen(_fields(message))
    for part in _parts(message):
        kind = part.get_content_type()
        if kind == "message/delivery-status":
            seen.blocks += [_fields(block) for block in _inside(part)]
        elif kind == "message/feedback-report" and seen.feedback is None:
            seen.feedback = (
                _of_lines(_text(part)) if not _inside(part) else _fields(_inside(part)[0])
            )
        elif kind in ("message/rfc822", "message/global") and seen.copy is None:
            inside = _inside(part)
            seen.copy = _fields(inside[0]) if inside else _of_lines(_text(part))
        elif kind in ("text/rfc822-headers", "message/global-headers") and seen.copy is None:
            seen.copy = _of_lines(_text(part))
        elif kind.startswith("text/") and sum(map(len, seen.text)) < WORDS:
            seen.text.append(_text(part))
    if seen.copy is None and (words := seen.words):
        behind = words[len(dsn.before_copy(words)) :]
        seen.copy = _of_lines(behind.partition("\n")[2].lstrip("\n")) if behind else None
    return seen


def _parts(message: Message[Any, Any]) -> Iterator[Message[Any, Any]]:
    """The leaves, in order, not into the copy of a mail."""
    waiting = [(message, 0)]
    count = 0
    while waiting:
        part, depth = waiting.pop()
        count += 1
        if count > PARTS or depth > DEPTH:
            raise _TooMuch(
                f"it has more than {PARTS} parts, or more than {DEPTH} inside each other"
            )
        if part.get_content_maintype() == "multipart" and (inside := _inside(part)):
            waiting += [(each, depth + 1) for each in reversed(inside)]
        else:
            yield part


def _inside(part: Message[Any, Any]) -> list[Message[Any, Any]]:
    payload = part.get_payload()
    return (
        [each for each in payload if isinstance(each, Message)] if isinstance(payload, list) else []
    )


def _text(part: Message[Any, Any]) -> str:
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return ""
    return payload[: 4 * WORDS].decode("utf-8", "replace")[:WORDS].replace("\r\n", "\n")


def _fields(message: Message[Any, Any]) -> dict[str, str]:
    """Names in small letters and values in one line, the first of each name; as they stand there.

    Not by `message[name]`, which reads the structure of addresses that nobody asks for.
    """
    found: dict[str, str] = {}
    for name, value in message.raw_items():
        found.setdefault(str(name).lower(), " ".join(str(value)[:LONG_LINE].split()))
    return found


def _of_lines(text: str) -> dict[str, str]:
    """The same of text that is a block of header fields."""
    found: dict[str, str] = {}
    last = ""
    for line in text.split("\n"):
        if not line.strip():
            if found:
                break
            continue
        name, colon, value = line.partition(":")
        if line[:1] in " \t" and last:
            found[last] = f"{found[last]} {line.strip()}"[:LONG_LINE]
        elif colon and name.strip() and " " not in name.strip():
            last = name.strip().lower()
            if last in found:
                last = ""
            else:
                found[last] = value.strip()[:LONG_LINE]
        else:
            last = ""
    return found
