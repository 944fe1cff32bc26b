"""Links and a pixel that say that a mail was read: written into the sources of a mail, once a bundle.

Only what stands whole in an html part is rewritten: `<a href="https://…">` without an expression in
it. A link that a template puts together is the reader's own, and stays as it is. What a link leads
to is a row of `link`; the mail holds a signed token of message and row, and no address to go to.

A link that no human sees stands behind the last one: who follows it follows everything.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from typing import Final, Literal
from urllib.parse import quote

from sqlalchemy import Connection, text

from models.session import Database
from tasks.send.render import Bundle
from tasks.send.tokens import Keys, sign

Tracking = Literal["none", "clicks", "opens", "all"]

HONEYPOT: Final = 0
"""Row id of the link that no human sees; it leads to no row."""

_LINK = re.compile(
    r"""(<a\b[^<>]*?\bhref\s*=\s*)(["'])(https?://[^"'<>{}\s]{1,2000})\2""", re.IGNORECASE
)
# What is an expression's or a comment's own, and what is written out as it stands.
_CODE = re.compile(
    r"\{%[-+]?\s*raw\s*[-+]?%\}.*?\{%[-+]?\s*endraw\s*[-+]?%\}|\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}",
    re.DOTALL,
)
_URL = ":/?#[]@!$&'()*+,;=%~"
_END = re.compile(r"</body\s*>", re.IGNORECASE)

ADD = text("""
INSERT INTO link (sha256, url)
SELECT r.sha256, r.url FROM unnest(CAST(:hashes AS bytea[]), CAST(:urls AS text[])) AS r (sha256, url)
ORDER BY r.sha256 ON CONFLICT (sha256) DO NOTHING
""")
IDS = text("SELECT sha256, id FROM link WHERE sha256 = ANY(CAST(:hashes AS bytea[]))")


@dataclass(frozen=True, slots=True)
class Tracked:
    """A bundle that asks for `links`, and what each of them is.

    Attributes:
        bundle: the sources, to be rendered with a list `links` of URLs.
        urls: where the first links lead, in their order; behind them stand the link that no human
            sees, if `clicks`, and the pixel, if `opens`.
    """

    bundle: Bundle
    urls: tuple[str, ...]
    clicks: bool
    opens: bool


@lru_cache(maxsize=512)
def tracked(bundle: Bundle, tracking: Tracking) -> Tracked:
    """Rewrite a bundle; the same one gives the same."""
    clicks, opens = tracking in ("clicks", "all"), tracking in ("opens", "all")
    urls: list[str] = []
    parts = dict(bundle.parts)

    def link(found: re.Match[str]) -> str:
        url = quote(html.unescape(found[3]), safe=_URL)
        if url not in urls:
            urls.append(url)
        # A macro that another template takes in sees no variables: its link stays as it was.
        here = f"{{{{ links[{urls.index(url)}] }}}}"
        told = f"{{% if links is defined %}}{here}{{% else %}}{found[3]}{{% endif %}}"
        return f"{found[1]}{found[2]}{told}{found[2]}"

    def rewritten(source: str) -> str:
        pieces, at = [], 0
        for code in _CODE.finditer(source):
            pieces += [_LINK.sub(link, source[at : code.start()]), code[0]]
            at = code.end()
        return "".join([*pieces, _LINK.sub(link, source[at:])])

    pages = sorted(path for path in parts if path.endswith(".html"))
    if clicks:
        for path in pages:
            parts[path] = rewritten(parts[path])
    clicks = clicks and bool(urls)
    tail = ""
    if clicks:
        hidden = (
            '<a href="{{ links[%d] }}" style="display:none" aria-hidden="true" tabindex="-1"></a>'
        )
        tail += hidden % len(urls)
    if opens:
        pixel = '<img src="{{ links[%d] }}" width="1" height="1" alt="" style="border:0">'
        tail += pixel % (len(urls) + clicks)
    ends = [path for path in pages if _END.search(parts[path])]
    if not ends:
        # Without an end of its page a mail has no place for what nobody is to see.
        return Tracked(replace(bundle, parts=parts), tuple(urls), False, False)
    for path in ends:
        # The last one: a page may quote another.
        at = [found.start() for found in _END.finditer(parts[path])][-1]
        parts[path] = parts[path][:at] + tail + parts[path][at:]
    return Tracked(replace(bundle, parts=parts), tuple(urls), clicks, opens)


class Links:
    """The URLs of the edge for one process's mails.

    Args:
        rows: gives the ids of rows of `link`: `make_rows`, or `known_rows` to look at old mail.
        base: public address of the edge.
    """

    def __init__(self, rows: Callable[[Sequence[str]], Mapping[str, int]], base: str) -> None:
        self._rows = rows
        self._base = base
        self._ids: dict[str, int] = {}

    def of(self, mail: Tracked, keys: Keys, message_id: int) -> list[str]:
        """The list `links` of a message."""
        if new := [url for url in mail.urls if url not in self._ids]:
            self._ids.update(self._rows(new))
        ids = [self._ids[url] for url in mail.urls] + ([HONEYPOT] if mail.clicks else [])
        links = [f"{self._base}/c/{sign(keys, 'click', message_id, each)}" for each in ids]
        if mail.opens:
            links.append(f"{self._base}/o/{sign(keys, 'open', message_id)}")
        return links


def make_rows(database: Database) -> Callable[[Sequence[str]], dict[str, int]]:
    """Gives the ids of URLs, and makes the rows that are not there yet."""

    def made(urls: Sequence[str]) -> dict[str, int]:
        with database.transaction() as connection:
            connection.execute(ADD, {"hashes": list(map(_hash, urls)), "urls": list(urls)})
            return _ids(connection, urls)

    return made


def known_rows(connection: Connection) -> Callable[[Sequence[str]], dict[str, int]]:
    """Gives the ids of URLs; 0 where a mail that was never sent would be the first to hold it."""
    return lambda urls: dict.fromkeys(urls, 0) | _ids(connection, urls)


def _ids(connection: Connection, urls: Sequence[str]) -> dict[str, int]:
    by_hash = {_hash(url): url for url in urls}
    rows = connection.execute(IDS, {"hashes": list(by_hash)})
    return {by_hash[bytes(digest)]: row_id for digest, row_id in rows}


def _hash(url: str) -> bytes:
    return sha256(url.encode()).digest()
