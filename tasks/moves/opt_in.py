"""Sign-ups that wait for a confirmation: the mail that asks, and the word of its reader.

Who signed up for a topic with `confirm` has a row of `opt_in` and no consent, so that no gate lets a mail
of it pass. The mail that asks is transactional, one for each asking, known by its effect like every
other: whoever asks twice for the same sign-up makes one mail. A link confirms once, and what was taken
back since is not brought back by an old link.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Row, text

from models.session import Database
from tasks.errors import Permanent
from tasks.moves import api_mail, withdraw
from tasks.moves.effect import rfc_message_id
from tasks.moves.settings import DeliverySettings, IdentitySettings

TEMPLATE: Final = "confirm/opt-in"
"""The mail that asks; `event.topic` is the title, `confirm.url` the page that confirms."""
SOURCE: Final = "confirmed"
"""Of a consent that was confirmed."""
MOST: Final = 3
"""Mails that ask about one topic; after these, one in 90 days, if somebody signs up again."""
APART: Final = dt.timedelta(days=1)
AT_ONCE: Final = 100

# Nobody who was stopped or left is asked: a sign-up is anybody's to type.
DUE = text("""
SELECT o.subscriber_id, o.topic, t.title, o.asks,
    s.stopped_at IS NOT NULL OR EXISTS (
        SELECT 1 FROM suppression p WHERE p.address_hmac = s.address_hmac) AS unreachable
FROM opt_in o JOIN subscriber s ON s.id = o.subscriber_id JOIN topic t ON t.key = o.topic
WHERE o.wanted ORDER BY o.subscriber_id, o.topic LIMIT :n FOR NO KEY UPDATE OF o SKIP LOCKED
""")
NOT_ASKED = text("UPDATE opt_in SET wanted = false WHERE subscriber_id = :id AND topic = :topic")
ASKED = text("""
UPDATE opt_in SET wanted = false, asks = asks + 1, asked_at = clock_timestamp(), message_id = :message,
    template_version = (SELECT m.template_version FROM message m WHERE m.id = :message)
WHERE subscriber_id = :id AND topic = :topic
""")
AGAIN = text("""
UPDATE opt_in SET wanted = true
WHERE topic = :topic AND confirmed_at IS NULL AND NOT wanted AND asks < :most
  AND coalesce(asked_at < clock_timestamp() - CAST(:apart AS interval), true)
  AND NOT EXISTS (SELECT 1 FROM consent c WHERE c.subscriber_id = opt_in.subscriber_id
                  AND c.topic = opt_in.topic)
""")
OF_MESSAGE = text("""
SELECT m.id, m.subscriber_id, m.event ->> 'topic_key' AS topic, s.locale
FROM message m JOIN subscriber s ON s.id = m.subscriber_id
WHERE m.id = :message AND m.template = :template
""")
CONFIRM = text("""
UPDATE opt_in SET confirmed_at = clock_timestamp(), page = :page, wanted = false
WHERE subscriber_id = :id AND topic = :topic AND confirmed_at IS NULL RETURNING topic
""")
SET = text("UPDATE topic SET confirm = :confirm WHERE key = :key AND confirm <> :confirm")
STANDING = text("""
SELECT count(*) FILTER (WHERE wanted) AS unasked,
       min(said_at) FILTER (WHERE wanted) AS since, clock_timestamp() AS now
FROM opt_in
""")


@dataclass(frozen=True, slots=True)
class Asker:
    """What makes mails that ask, of one process."""

    secret: bytes
    domain: str
    lifetime: dt.timedelta

    @classmethod
    def of(cls, identity: IdentitySettings, delivery: DeliverySettings) -> Asker:
        """From the settings that make every Message-ID."""
        secret = identity.secret_message_id.get_secret_value().encode()
        return cls(secret, identity.domain, dt.timedelta(seconds=delivery.message_lifetime))

    def ask_all(self, database: Database) -> int:
        """Make the mail for each sign-up that waits for one; how many were made.

        Raises:
            Permanent: the mail that asks is not published.
        """
        asked, looked = 0, AT_ONCE
        while looked == AT_ONCE:
            with database.transaction() as connection:
                made, looked = self.ask(connection)
            asked += made
        return asked

    def ask(self, connection: Connection, n: int = AT_ONCE) -> tuple[int, int]:
        """The same for up to `n` sign-ups, in the caller's transaction: (made, looked at)."""
        rows = connection.execute(DUE, {"n": n}).all()
        made = 0
        for row in rows:
            who = {"id": row.subscriber_id, "topic": row.topic}
            if row.unreachable:
                connection.execute(NOT_ASKED, who)
                continue
            key = api_mail.api_effect_key(
                "confirm", f"{row.subscriber_id}\0{row.topic}\0{row.asks + 1}"
            )
            message = api_mail.ask(
                connection,
                row.subscriber_id,
                TEMPLATE,
                {"topic": row.title, "topic_key": row.topic},
                effect_key=key,
                rfc_message_id=rfc_message_id(self.secret, key, self.domain),
                lifetime=self.lifetime,
            )
            if message is None:
                raise Permanent(
                    f"the mail {TEMPLATE} is not published, so nobody can be asked; run"
                    f" `dripfleet topic set {row.topic} --confirm`"
                )
            connection.execute(ASKED, {**who, "message": message.id})
            made += 1
        return made, len(rows)


def again(connection: Connection, topic: str) -> int:
    """Let those be asked once more who have not answered for a day; how many.

    Nobody is asked more than three times.
    """
    values = {"topic": topic, "most": MOST, "apart": APART}
    return connection.execute(AGAIN, values).rowcount


def demand(connection: Connection, topic: str, confirm: bool) -> bool:
    """Whether sign-ups for a topic wait for a confirmation from now on; True: that is new."""
    return connection.execute(SET, {"key": topic, "confirm": confirm}).rowcount > 0


def asked_by(connection: Connection, message_id: int) -> Row[tuple[object, ...]] | None:
    """Whom a mail asked, and about which topic; None: it asked nobody."""
    values = {"message": message_id, "template": TEMPLATE}
    return connection.execute(OF_MESSAGE, values).one_or_none()


def confirm(connection: Connection, message_id: int, page: str) -> tuple[int, str] | None:
    """The reader of a mail that asked says yes: the consent is written, once.

    Args:
        connection: inside a transaction.
        message_id: of the mail.
        page: what was answered, for the record.

    Returns:
        (subscriber, topic) where it is new; None: it was confirmed before, or there is nothing.
    """
    row = asked_by(connection, message_id)
    if row is None or row.topic is None:
        return None
    withdraw.lock(connection, row.subscriber_id)
    values = {"id": row.subscriber_id, "topic": row.topic, "page": page}
    if connection.execute(CONFIRM, values).one_or_none() is None:
        return None
    because = f"confirmed by the link of message {message_id}"
    withdraw.answer_topics(connection, row.subscriber_id, {row.topic: True}, SOURCE, because)
    return row.subscriber_id, row.topic
