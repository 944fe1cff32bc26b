"""What keeps a rendered mail out of the inbox, beyond what `review` looks at: pure.

An error is what large filters and most laws refuse: a link that shows one place and leads to another,
a mail of pictures alone, a "Re:" that answers nothing, advertising without a way out or an address. The
rest is a warning. Whether an error stops anything is for who asks to say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import unescape
from html.parser import HTMLParser
from typing import Final, Literal
from urllib.parse import urlsplit

from tasks import stylesheet
from tasks.personalize.review import Note, review

FEWEST_WORDS: Final = 20
"""Beside images: with fewer the mail is its pictures, and filters read none."""
LEAST_TEXT: Final = 0.03
"""Octets of text by octets of HTML; the mails that ship have 0.16 and more."""
CLIPPED: Final = 102_000
"""Octets of an HTML part after which Gmail cuts, and with the end goes the way out."""
FREE_MAILBOXES: Final = frozenset(
    "gmail.com googlemail.com yahoo.com ymail.com aol.com outlook.com hotmail.com live.com icloud.com"
    " me.com gmx.de gmx.net web.de t-online.de proton.me protonmail.com mail.ru yandex.ru".split()
)
OF_THE_INBOX: Final = ("images", "links", "markup", "size", "spam", "text part")
"""Checks of `review` that are about filters too, and not about readers alone."""

_HOST: Final = re.compile(
    r"(?:https?://)?((?:[a-z0-9-]{1,63}\.)+[a-z]{2,24})(?=[/:?#\s]|$)", re.IGNORECASE
)
_WORD: Final = re.compile(r"[^\W\d_]+")
_ANSWER: Final = re.compile(r"\s*(?:re|fwd?|aw|wg|tr|rv)\s*:", re.IGNORECASE)
_PICKED: Final = re.compile(r"[!?]{2,}|[$€£]{2,}|\.{4,}|[*=~#]{3,}")


@dataclass(frozen=True, slots=True)
class Around:
    """What stands around the words of a mail.

    Attributes:
        name, address: of From.
        marketing: it is advertising, which has to have a way out and an address.
        leaves: by any of which a reader leaves, as the mail would show it.
        postal: lines of the sender's postal address.
    """

    name: str
    address: str
    marketing: bool = False
    leaves: Sequence[str] = ()
    postal: Sequence[str] = ()


def inbox(subject: str, plain: str, html: str | None, around: Around) -> list[Note]:
    """What a filter would hold against a mail, errors first; empty: nothing.

    Args:
        subject: as it is shown.
        plain: the text part.
        html: the other part, if there is one.
        around: its headers and class.
    """
    found = [*_headers(subject, around), *_way_out(plain, html, around)]
    if html is not None:
        found += _page(html)
    known = {(each.check, each.says) for each in found}
    for note in review(subject, plain, html).notes:
        if note.check in OF_THE_INBOX and (note.check, note.says) not in known:
            found.append(note)
    return sorted(found, key=lambda note: note.severity != "error")


def _note(check: str, severity: Literal["warning", "error"], says: str, next: str) -> Note:
    return Note(check, severity, says, next)


def _headers(subject: str, around: Around) -> list[Note]:
    found = []
    letters = [c for c in subject if c.isalpha()]
    if len(letters) >= 6 and sum(c.isupper() for c in letters) > 0.6 * len(letters):
        says = "the subject is in capitals"
        found.append(_note("subject", "warning", says, "write it as a sentence"))
    if picked := _PICKED.search(subject):
        says = f"the subject has {picked[0]!r} in it"
        found.append(_note("subject", "warning", says, "one sign is enough"))
    if around.marketing and _ANSWER.match(subject):
        says = f"the subject begins with {_ANSWER.match(subject)[0].strip()!r} and answers nothing"  # type: ignore[index]
        found.append(
            _note("subject", "error", says, "take it out: it deceives, and laws forbid it")
        )
    domain = around.address.rpartition("@")[2].lower()
    if domain in FREE_MAILBOXES:
        says = f"From is at {domain}, whose owner refuses mail that others send for it (DMARC)"
        found.append(_note("headers", "error", says, "write from a domain of yours"))
    shown = _HOST.search(around.name)
    if "@" in around.name or (shown and not _same(shown[1], domain)):
        says = f"the name in From, {around.name!r}, looks like another address"
        found.append(_note("headers", "error", says, "write a name there"))
    return found


def _way_out(plain: str, html: str | None, around: Around) -> list[Note]:
    """Advertising says in each of its parts how one leaves, and where the sender has its seat."""
    if not around.marketing:
        return []
    found = []
    parts = {"text part": plain} | ({} if html is None else {"HTML part": unescape(html)})
    for part, said in parts.items():
        if not any(way in said for way in around.leaves):
            says = f"the {part} shows no way to leave"
            move = "write {{ unsubscribe.url | default(unsubscribe.mailto) }}, or include _base/footer.txt"
            found.append(_note("way out", "error", says, move))
        if not all(" ".join(line.split()) in " ".join(said.split()) for line in around.postal):
            says = f"the {part} lacks the postal address"
            move = "write {{ sender.postal_address }}, or include _base/footer.txt"
            found.append(_note("postal address", "error", says, move))
    return found


def _page(html: str) -> list[Note]:
    page = _Links()
    page.feed(stylesheet.as_read(html))
    page.close()
    found = []
    words = len(_WORD.findall(page.text))
    if page.images and words < FEWEST_WORDS:
        says = f"it is {page.images} images and {words} words, and a filter reads no image"
        found.append(_note("images", "error", says, "write the words as text"))
    size = len(html.encode())
    share = len(" ".join(page.text.split()).encode()) / max(size, 1)
    if size > 4_000 and share < LEAST_TEXT:
        says = f"{share:.1%} of the HTML part is text"
        found.append(_note("ratio", "warning", says, "take out markup, or say more"))
    for href, text in dict.fromkeys(page.links):
        host = (urlsplit(href).hostname or "").lower()
        shown = _HOST.fullmatch(text.strip()) or re.match(r"https?://([^/\s:?#]+)", text.strip())
        if host and shown and not _same(shown[1], host):
            says = f"a link shows {shown[1]} and leads to {host}"
            found.append(
                _note("links", "error", says, "let it show where it leads, or say it in words")
            )
    return found


def _same(shown: str, host: str) -> bool:
    """Whether two hosts are of one owner, near enough: one stands below the other."""
    one, other = (each.lower().removeprefix("www.") for each in (shown, host))
    return one == other or one.endswith(f".{other}") or other.endswith(f".{one}")


class _Links(HTMLParser):
    """Links with their text, the number of images, and the words that are shown."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.images = 0
        self.text = ""
        self._href: str | None = None
        self._said = ""
        self._skip = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of a tag."""
        if tag == "a":
            self._href, self._said = dict(attrs).get("href") or "", ""
        elif tag == "img":
            self.images += 1
        elif tag in ("style", "script", "title"):
            self._skip += 1

    def handle_endtag(self, tag: str) -> None:
        """Take note of its end."""
        if tag == "a" and self._href is not None:
            self.links.append((self._href, self._said))
            self._href = None
        elif tag in ("style", "script", "title"):
            self._skip = max(self._skip - 1, 0)

    def handle_data(self, data: str) -> None:
        """Take note of text."""
        if not self._skip:
            self.text += data
            self._said += data
