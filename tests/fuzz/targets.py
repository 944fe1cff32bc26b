"""What is held to be true of every input: an answer, nothing raised, nothing opened by what nobody signed.

The key ring is drawn anew in each process, so no token of an input can be genuine.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Final

from tasks import return_path
from tasks.send.reply import MAX_TEXT, Reply, ReplyReader
from tasks.tokens import Keys, read, read_plain
from tasks.track import inbound
from tasks.track.report import LONGEST, Aside, Report
from workers.edge.providers import mailgun, objects, postmark, sendgrid, ses

KEYS: Final = Keys("k1", {"k1": secrets.token_bytes(32), "k0": secrets.token_bytes(32)})


def _storable(report: Report) -> None:
    assert report.message is None and report.epoch is None, "a token opened something"
    assert report.rfc_message_id, "it is about no mail"
    assert (report.kind == "bounced") == (report.class_ is not None)
    for text in (report.evidence_id, report.diagnostic, report.code or "", report.rfc_message_id):
        assert len(text) <= LONGEST and text.isprintable(), "Postgres would not hold it"
        text.encode()


def mail(data: bytes) -> None:
    """Bounces and complaints: DSN, ARF, and text."""
    found = inbound.read(data, KEYS, [data[:80].decode("latin-1")])
    if isinstance(found, Aside):
        assert found.why
    else:
        _storable(found)


def token(data: bytes) -> None:
    """Tokens in links and return paths."""
    text = data.decode("utf-8", "replace")
    assert return_path.find(KEYS, text) is None
    assert read(KEYS, "unsubscribe", text) is None and read(KEYS, "click", text) is None
    assert read_plain(KEYS, "return", text) is None


def reply(data: bytes) -> None:
    """Replies of an SMTP server: cut anywhere, they are the same."""
    cut = data[0] if data else 0
    whole, parts = ReplyReader(), ReplyReader()
    first = whole.feed(data)
    second = parts.feed(data[:cut]) + parts.feed(data[cut:])
    assert first == second and whole.garbage == parts.garbage
    for each in first:
        told = Reply.of(each)
        assert len(told.text) <= MAX_TEXT and told.text.isprintable() and 200 <= told.code <= 599


def webhook(data: bytes) -> None:
    """Bodies of providers, as if they had been verified."""
    readers: tuple[Callable[[], list[Report]], ...] = (
        lambda: sendgrid.reports(data, KEYS),
        lambda: postmark.reports(data, KEYS),
        lambda: [r for each in objects(data) for r in mailgun.reports(each, KEYS)],
        lambda: [r for each in objects(data) for r in ses.reports(each, KEYS)],
        lambda: ses.reports({"Message": data.decode("latin-1")}, KEYS),
    )
    for reader in readers:
        try:
            found = reader()
        except ValueError:
            continue
        for each in found:
            _storable(each)


TARGETS: Final[dict[str, Callable[[bytes], Any]]] = {
    "mail": mail,
    "token": token,
    "reply": reply,
    "webhook": webhook,
}
