"""Named segments: an expression, who is in it now, and every time that somebody joined or left."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, BigInt, Id

NOW = text("clock_timestamp()")


class Segment(Base):
    """A named expression, and how its last evaluation went.

    `refresh` is an interval (`1h`) or a cron expression in `zone`. `changed`: its condition is newer
    than its members. Who writes edges of a segment holds its row until the commit.
    """

    __tablename__ = "segment"
    __table_args__ = (Index("segment_due_at_idx", "due_at"),)
    key: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str]
    description: Mapped[str | None]
    condition: Mapped[str]
    refresh: Mapped[str]
    zone: Mapped[str] = mapped_column(server_default="UTC")
    changed: Mapped[bool] = mapped_column(server_default=text("true"))
    due_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    evaluated_at: Mapped[dt.datetime | None]
    took: Mapped[float | None]
    members: Mapped[BigInt] = mapped_column(server_default="0")
    unknown: Mapped[BigInt] = mapped_column(server_default="0")
    faults: Mapped[int] = mapped_column(server_default="0")
    fault: Mapped[str | None]
    applied_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class SegmentNeed(Base):
    """What a segment's condition asks for that can touch single people: events, other segments."""

    __tablename__ = "segment_need"
    __table_args__ = (CheckConstraint("kind IN ('event', 'segment')", name="kind"),)
    kind: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    segment: Mapped[str] = mapped_column(
        ForeignKey("segment.key", ondelete="CASCADE"), primary_key=True
    )


class SegmentPresent(Base):
    """Somebody who is in a segment, for the `join_no`th time."""

    __tablename__ = "segment_present"
    segment: Mapped[str] = mapped_column(primary_key=True)
    subscriber_id: Mapped[BigInt] = mapped_column(primary_key=True)
    join_no: Mapped[int]
    since: Mapped[dt.datetime]


class SegmentEdge(Base):
    """Somebody joined or left a segment; those of one segment appear in the order of their ids."""

    __tablename__ = "segment_edge"
    __table_args__ = (
        UniqueConstraint(
            "subscriber_id", "segment", "join_no", "edge", name="segment_edge_subscriber_id_key"
        ),
        CheckConstraint("edge IN ('join', 'leave')", name="edge"),
        CheckConstraint("cause IN ('definition', 'schedule', 'event')", name="cause"),
        Index(
            "segment_edge_at_idx",
            "at",
            postgresql_using="brin",
            postgresql_with={"autosummarize": "on"},
        ),
    )
    segment: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[Id]
    subscriber_id: Mapped[BigInt]
    join_no: Mapped[int]
    edge: Mapped[str]
    cause: Mapped[str]
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class SegmentTouch(Base):
    """Somebody whose place in the segments that ask for this may have changed."""

    __tablename__ = "segment_touch"
    __table_args__ = (Index("segment_touch_due_at_idx", "due_at"),)
    id: Mapped[Id]
    subscriber_id: Mapped[BigInt]
    kind: Mapped[str]
    name: Mapped[str]
    due_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class EventRefused(Base):
    """An event that a producer sent and that could not be recorded; kept until it is, or dropped."""

    __tablename__ = "event_refused"
    id: Mapped[Id]
    source: Mapped[str]
    payload: Mapped[dict[str, Any]]
    digest: Mapped[bytes] = mapped_column(unique=True)
    reason: Mapped[str]
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
