"""What is written down for those who wait: pauses that are over, zones that changed, events; an outbox."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, BigInt, Id

NOW = text("clock_timestamp()")


class SequencePause(Base):
    """A pause that is over; a trigger on `sequence.paused_at` writes it."""

    __tablename__ = "sequence_pause"
    __table_args__ = (CheckConstraint("resumed_at >= paused_at", name="span"),)
    sequence_key: Mapped[str] = mapped_column(ForeignKey("sequence.key"), primary_key=True)
    paused_at: Mapped[dt.datetime] = mapped_column(primary_key=True)
    resumed_at: Mapped[dt.datetime]


class ZoneChange(Base):
    """A subscriber whose zone changed since the planner last looked."""

    __tablename__ = "zone_change"
    id: Mapped[Id]
    subscriber_id: Mapped[BigInt]


class ZoneData(Base):
    """The one row that says which zone data every pending wait was resolved with, up to `after_id`."""

    __tablename__ = "zone_data"
    __table_args__ = (CheckConstraint("single", name="single"),)
    single: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    version: Mapped[str]
    after_id: Mapped[BigInt] = mapped_column(server_default="0")


class WaitedEvent(Base):
    """The name of an event that some published sequence waits for."""

    __tablename__ = "waited_event"
    name: Mapped[str] = mapped_column(primary_key=True)


class EventWake(Base):
    """An event of somebody under way that some sequence may wait for, not yet looked at."""

    __tablename__ = "event_wake"
    id: Mapped[Id]
    subscriber_id: Mapped[BigInt]
    name: Mapped[str]


class WebhookOutbox(Base):
    """One call to another system, to be delivered; `effect_key` is its idempotency key."""

    __tablename__ = "webhook_outbox"
    __table_args__ = (
        Index(
            "webhook_outbox_waiting_idx",
            "created_at",
            postgresql_where=text("delivered_at IS NULL"),
        ),
    )
    id: Mapped[Id]
    effect_key: Mapped[bytes] = mapped_column(unique=True)
    target: Mapped[str]
    payload: Mapped[dict[str, Any]]
    sequence_key: Mapped[str]
    sequence_version: Mapped[int]
    step_id: Mapped[str]
    entry_no: Mapped[int]
    enrollment_id: Mapped[BigInt] = mapped_column(ForeignKey("enrollment.id"))
    subscriber_id: Mapped[BigInt] = mapped_column(ForeignKey("subscriber.id"))
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    delivered_at: Mapped[dt.datetime | None]
