"""How fast mail goes: what operators ask of relays, a warm-up's days, slots of throttled sequences."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import CheckConstraint, ForeignKey, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base

NOW = text("clock_timestamp()")


class Relay(Base):
    """A relay that somebody has paused, or had paused; those never paused have no row."""

    __tablename__ = "relay"
    __table_args__ = (
        CheckConstraint("(paused_at IS NULL) = (pause_reason IS NULL)", name="pause_has_reason"),
    )
    key: Mapped[str] = mapped_column(primary_key=True)
    paused_at: Mapped[dt.datetime | None]
    pause_reason: Mapped[str | None]


class RelayLimit(Base):
    """How much a group of domains is given through a relay; `*`: each group without a row.

    `per_minute` is the ceiling of a rate that the group's own replies lower; `connections` counts
    mails under way at once, over all workers. A warm-up lets `warm_from` mails go on its first day
    (of UTC), twice as many each `warm_every`, and ends where that exceeds `warm_until`.
    """

    __tablename__ = "relay_limit"
    __table_args__ = (
        CheckConstraint("per_minute > 0", name="per_minute"),
        CheckConstraint("connections BETWEEN 1 AND 2000", name="connections"),
        CheckConstraint(
            "num_nulls(warm_from, warm_every, warm_until, warm_since) IN (0, 4)"
            " AND warm_from > 0 AND warm_every > interval '0' AND warm_until >= warm_from",
            name="warm_up",
        ),
    )
    relay: Mapped[str] = mapped_column(primary_key=True)
    domains: Mapped[str] = mapped_column(primary_key=True)
    per_minute: Mapped[float | None]
    connections: Mapped[int | None]
    warm_from: Mapped[int | None]
    warm_every: Mapped[dt.timedelta | None]
    warm_until: Mapped[int | None]
    warm_since: Mapped[dt.date | None]
    set_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class RelayDay(Base):
    """How many mails of a warm-up were let go on a day of UTC, by the limit that counts them."""

    __tablename__ = "relay_day"
    __table_args__ = (CheckConstraint("taken >= 0", name="taken"),)
    relay: Mapped[str] = mapped_column(primary_key=True)
    domains: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[dt.date] = mapped_column(primary_key=True)
    taken: Mapped[int] = mapped_column(server_default="0")


class SequenceSlot(Base):
    """When the next mail of a throttled sequence may go; NULL: none has gone yet."""

    __tablename__ = "sequence_slot"
    sequence_key: Mapped[str] = mapped_column(ForeignKey("sequence.key"), primary_key=True)
    next_at: Mapped[dt.datetime | None]
