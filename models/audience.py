"""Subscribers, what they agreed to, what stops them, and what they did."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, Interval, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, BigInt, Id

NOW = text("clock_timestamp()")


class Subscriber(Base):
    """Somebody who may be written to. `address_hmac`: of the lower-case address; the identity.

    Once `erased_at` is set the row stays as it is: a trigger keeps whatever comes later out.
    """

    __tablename__ = "subscriber"
    __table_args__ = (
        CheckConstraint("address !~ '[[:cntrl:][:space:]]'", name="address_clean"),
        CheckConstraint("(stopped_at IS NULL) = (stopped_reason IS NULL)", name="stop_has_reason"),
        Index("subscriber_erased_idx", "id", postgresql_where=text("erased_at IS NOT NULL")),
    )
    id: Mapped[Id]
    external_id: Mapped[str | None] = mapped_column(unique=True)
    address: Mapped[str]
    address_hmac: Mapped[bytes] = mapped_column(unique=True)
    first_name: Mapped[str | None]
    locale: Mapped[str | None]
    zone: Mapped[str | None]
    attributes: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    stopped_at: Mapped[dt.datetime | None]
    stopped_reason: Mapped[str | None]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    erased_at: Mapped[dt.datetime | None]


class Topic(Base):
    """A preference topic that a subscriber opts in to or out of.

    `confirm`: a sign-up is pending (`opt_in`) until the link of a mail is confirmed.
    """

    __tablename__ = "topic"
    key: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str]
    confirm: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class Consent(Base):
    """The last word of a subscriber on a topic, and where it was said."""

    __tablename__ = "consent"
    subscriber_id: Mapped[BigInt] = mapped_column(ForeignKey("subscriber.id"), primary_key=True)
    topic: Mapped[str] = mapped_column(ForeignKey("topic.key"), primary_key=True)
    opted_in: Mapped[bool]
    source: Mapped[str]
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class Suppression(Base):
    """An address that gets nothing more, within a scope: all, or one class of streams."""

    __tablename__ = "suppression"
    __table_args__ = (
        CheckConstraint("scope IN ('all', 'marketing', 'transactional')", name="scope"),
    )
    address_hmac: Mapped[bytes] = mapped_column(primary_key=True)
    scope: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str]
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class Event(Base):
    """Something a subscriber did, at `occurred_at`; partitioned by month of it."""

    __tablename__ = "event"
    __table_args__ = (
        Index("event_subscriber_id_occurred_at_idx", "subscriber_id", "occurred_at"),
        Index("event_name_subscriber_id_occurred_at_idx", "name", "subscriber_id", "occurred_at"),
        {"postgresql_partition_by": "RANGE (occurred_at)"},
    )
    id: Mapped[BigInt] = mapped_column(Identity(), primary_key=True)
    subscriber_id: Mapped[BigInt]
    name: Mapped[str]
    occurred_at: Mapped[dt.datetime] = mapped_column(primary_key=True)
    recorded_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    properties: Mapped[dict[str, Any]] = mapped_column(server_default="{}")


class EventSource(Base):
    """The identity of an event at its source: the same one is recorded once."""

    __tablename__ = "event_source"
    source: Mapped[str] = mapped_column(primary_key=True)
    source_id: Mapped[str] = mapped_column(primary_key=True)


class ImportSource(Base):
    """How far the dates of a source were shifted at its first import."""

    __tablename__ = "import_source"
    source: Mapped[str] = mapped_column(primary_key=True)
    shift: Mapped[dt.timedelta] = mapped_column(Interval)
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
