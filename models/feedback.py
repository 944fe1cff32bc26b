"""What came back of mails: bounces, complaints, deliveries, and how far each mailbox was read."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, BigInt, Id

NOW = text("clock_timestamp()")


class Feedback(Base):
    """One thing that somebody outside said of a mail, once.

    `source` is who (dsn, arf, mail, or a provider), `evidence_id` what they call it; `epoch` the try, where
    they can know it. `class` of a bounce: hard, soft, message, policy (`tasks.track.classes`).
    `diagnostic` is their own text, and may name the mailbox.
    """

    __tablename__ = "feedback"
    __table_args__ = (
        UniqueConstraint("source", "evidence_id"),
        CheckConstraint(
            "kind IN ('delivered', 'delayed', 'bounced', 'complained', 'left')", name="kind"
        ),
        CheckConstraint(
            "(kind = 'bounced') = (class IS NOT NULL)"
            " AND class IN ('hard', 'soft', 'message', 'policy')",
            name="class",
        ),
        Index("feedback_message_id_idx", "message_id"),
        Index("feedback_subscriber_id_idx", "subscriber_id"),
        Index("feedback_at_idx", "at"),
    )
    id: Mapped[Id]
    source: Mapped[str]
    evidence_id: Mapped[str]
    message_id: Mapped[BigInt] = mapped_column(ForeignKey("message.id"))
    subscriber_id: Mapped[BigInt] = mapped_column(ForeignKey("subscriber.id"))
    epoch: Mapped[int | None]
    kind: Mapped[str]
    class_: Mapped[str | None] = mapped_column("class")
    code: Mapped[str | None]
    diagnostic: Mapped[str | None]
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class InboundPlace(Base):
    """The last mail of an IMAP mailbox that was read: UIDVALIDITY and UID (RFC 9051 §2.3.1.1)."""

    __tablename__ = "inbound_place"
    mailbox: Mapped[str] = mapped_column(primary_key=True)
    validity: Mapped[BigInt]
    uid: Mapped[BigInt]
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class WebhookSeen(Base):
    """A token of a provider's webhook that was used, so that nobody uses it again."""

    __tablename__ = "webhook_seen"
    __table_args__ = (Index("webhook_seen_at_idx", "at"),)
    provider: Mapped[str] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
