"""What a reader may say by a link of their mail: no more marketing, these topics, a pause.

Whoever has the mail has the link, and nothing else is asked for: leaving must be easy (RFC 8058). So
a page made from this tells no address and no name, and a link can stop mail, never start any that its
reader did not ask for by name.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Connection, Row, text

from tasks.audience.candidate import Attribute
from tasks.audience.one_event import record_event
from tasks.moves import withdraw

UNSUBSCRIBED: Final = "email.unsubscribed"
"""Event of a reader who left all marketing; its properties name message, sequence, step and how."""
REASON: Final = "unsubscribe"
SOURCE: Final = "preferences"
"""Of consents that a reader gave or took back on the page."""
LONGEST_SNOOZE: Final = dt.timedelta(days=366)

How = Literal["one-click", "page"]
_SAID: Final[dict[How, str]] = {
    "one-click": "the one click of a mail program",
    "page": "the page that the mail links to",
}

OF_MESSAGE = text("""
SELECT m.id AS message_id, m.sequence_key, m.step_id, s.id AS subscriber_id, s.locale,
    s.stopped_at IS NOT NULL OR EXISTS (
        SELECT 1 FROM suppression p WHERE p.address_hmac = s.address_hmac
          AND p.scope IN ('all', 'marketing')) AS left_all,
    (SELECT z.until FROM snooze z
     WHERE z.subscriber_id = s.id AND z.until > clock_timestamp()) AS snoozed_until,
    clock_timestamp() AS now
FROM message m JOIN subscriber s ON s.id = m.subscriber_id WHERE m.id = :message
""")
TOPICS = text("""
SELECT t.key, t.title, coalesce(c.opted_in, false) AS opted_in
FROM topic t LEFT JOIN consent c ON c.topic = t.key AND c.subscriber_id = :subscriber
ORDER BY lower(t.title), t.key LIMIT 200
""")


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the page offers it."""

    key: str
    title: str
    opted_in: bool


@dataclass(frozen=True, slots=True)
class Reader:
    """What the page shows of somebody; for a token that opens nothing, of nobody.

    Attributes:
        locale: their language, as far as it is known.
        left_all: no marketing mail goes to them.
        snoozed_until: none until then, if that is to come.
    """

    topics: tuple[Topic, ...]
    locale: str | None = None
    left_all: bool = False
    snoozed_until: dt.datetime | None = None


def reader(connection: Connection, message_id: int | None) -> Reader:
    """Who reads a message, as the page shows them; None, or a message that is gone: nobody."""
    row = None if message_id is None else _of(connection, message_id)
    subscriber = None if row is None else row.subscriber_id
    topics = tuple(
        Topic(each.key, each.title, each.opted_in or row is None)
        for each in connection.execute(TOPICS, {"subscriber": subscriber})
    )
    if row is None:
        return Reader(topics)
    return Reader(topics, row.locale, row.left_all, row.snoozed_until)


def leave(connection: Connection, message_id: int, how: How) -> withdraw.Withdrawn | None:
    """The reader of a message wants no marketing mail any more; None: there is no such message.

    Said twice it changes nothing, and is written down for `explain` once a message.
    """
    row = _of(connection, message_id)
    if row is None:
        return None
    withdraw.lock(connection, row.subscriber_id)
    because = f"{_SAID[how]}, of message {message_id}"
    done = withdraw.leave_marketing(connection, row.subscriber_id, REASON, because)
    told: dict[str, Attribute] = {"message": message_id, "how": how, **_place(row)}
    fresh = record_event(
        connection,
        row.subscriber_id,
        UNSUBSCRIBED,
        properties=told,
        source="edge",
        source_id=f"left:{message_id}",
    )
    if fresh.new:
        withdraw.note(
            connection, message_id, "left", REASON, how=_SAID[how], what="all marketing mail"
        )
    return done


def choose(
    connection: Connection,
    message_id: int,
    answers: Mapping[str, bool],
    snooze: dt.timedelta | None,
) -> bool:
    """Write what the reader of a message chose on the page; False: there is no such message.

    Args:
        connection: inside a transaction.
        message_id: whose page it was.
        answers: by topic, all that the page showed; what is as it was changes nothing.
        snooze: no marketing mail for so long, at most a year; zero ends a pause, None changes nothing.
    """
    row = _of(connection, message_id)
    if row is None:
        return False
    withdraw.lock(connection, row.subscriber_id)
    before = {each.key: each.opted_in for each in reader(connection, message_id).topics}
    changed = {
        key: wanted
        for key, wanted in answers.items()
        if key in before and before[key] is not wanted
    }
    if changed:
        because = f"{_SAID['page']}, of message {message_id}"
        withdraw.answer_topics(connection, row.subscriber_id, changed, SOURCE, because)
        left = sorted(key for key, wanted in changed.items() if not wanted)
        if left:
            withdraw.note(
                connection, message_id, "left", "opted_out", how=_SAID["page"],
                what=", ".join(left),
            )  # fmt: skip
    if snooze is not None and (snooze or row.snoozed_until is not None):
        until = row.now + min(snooze, LONGEST_SNOOZE) if snooze else None
        withdraw.snooze(connection, row.subscriber_id, until, SOURCE)
        what = f"until {until:%Y-%m-%d %H:%M} UTC" if until else "no more"
        withdraw.note(
            connection, message_id, "snoozed", SOURCE, how=_SAID["page"], what=what
        )  # fmt: skip
    return True


def _of(connection: Connection, message_id: int) -> Row[tuple[object, ...]] | None:
    return connection.execute(OF_MESSAGE, {"message": message_id}).one_or_none()


def _place(row: Row[tuple[object, ...]]) -> dict[str, str]:
    named = {"sequence": row.sequence_key, "step": row.step_id}
    return {key: value for key, value in named.items() if value is not None}
