"""Who asked to come into a sequence, who waits, who did not come in, and what people came out with."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, BigInt, Id

NOW = text("clock_timestamp()")


class SequenceWatch(Base):
    """A name that a version listens for; written by a trigger on `sequence_version`.

    `kind`: an event that lets people in, or that an exit rule or a goal asks for; a segment that is
    joined; or, as `schedule`, the version's own cron line.
    """

    __tablename__ = "sequence_watch"
    __table_args__ = (
        CheckConstraint("kind IN ('entry', 'exit', 'goal', 'segment', 'schedule')", name="kind"),
    )
    name: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    sequence_key: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)


class EventNews(Base):
    """An event that somebody listens for, until it was acted upon.

    Written by a trigger on `event` in the event's own transaction, so there is no order of ids that
    a late commit could fall behind.
    """

    __tablename__ = "event_news"
    event_id: Mapped[BigInt] = mapped_column(primary_key=True, autoincrement=False)
    occurred_at: Mapped[dt.datetime]
    recorded_at: Mapped[dt.datetime]
    subscriber_id: Mapped[BigInt]
    name: Mapped[str]


class EntryRequest(Base):
    """Somebody who asks to come in; `look_at` is their turn, `why` what they wait for (NULL: it)."""

    __tablename__ = "entry_request"
    __table_args__ = (
        CheckConstraint("cause IN ('event', 'segment', 'schedule', 'hand')", name="cause"),
        Index("entry_request_turn_idx", "sequence_key", "look_at", "id"),
        Index("entry_request_subscriber_id_idx", "subscriber_id", "sequence_key"),
    )
    id: Mapped[Id]
    sequence_key: Mapped[str]
    subscriber_id: Mapped[BigInt] = mapped_column(ForeignKey("subscriber.id"))
    cause: Mapped[str]
    event_id: Mapped[BigInt | None]
    occurred_at: Mapped[dt.datetime | None]
    asked_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    look_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    why: Mapped[str | None]


class EntryRefusal(Base):
    """Why somebody did not come in: a row a reason, however often; `detail` is of the last time."""

    __tablename__ = "entry_refusal"
    subscriber_id: Mapped[BigInt] = mapped_column(primary_key=True, autoincrement=False)
    sequence_key: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(server_default="1")
    first_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    last_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    detail: Mapped[dict[str, Any]] = mapped_column(server_default="{}")


class RefusalCount(Base):
    """How often each reason kept somebody out, a row a backend; sum over `shard`."""

    __tablename__ = "refusal_count"
    sequence_key: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str] = mapped_column(primary_key=True)
    shard: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    n: Mapped[BigInt]


class EntryState(Base):
    """Up to when the pace of a sequence is used up, and how far its segment's edges were read."""

    __tablename__ = "entry_state"
    sequence_key: Mapped[str] = mapped_column(primary_key=True)
    paced_until: Mapped[dt.datetime | None]
    segment: Mapped[str | None]
    after_id: Mapped[BigInt] = mapped_column(server_default="0")


class Conversion(Base):
    """The first event of the goal of an enrollment, held out or not."""

    __tablename__ = "conversion"
    __table_args__ = (
        Index("conversion_sequence_key_idx", "sequence_key"),
        Index("conversion_subscriber_id_idx", "subscriber_id"),
    )
    enrollment_id: Mapped[BigInt] = mapped_column(
        ForeignKey("enrollment.id"), primary_key=True, autoincrement=False
    )
    sequence_key: Mapped[str]
    subscriber_id: Mapped[BigInt]
    event_id: Mapped[BigInt]
    occurred_at: Mapped[dt.datetime]
    value: Mapped[Decimal | None]
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
