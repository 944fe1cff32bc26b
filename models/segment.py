"""Segments: runs that compute a partition of the subscribers, step by step, and who is where."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, BigInt, Id

NOW = text("clock_timestamp()")


class SegmentRun(Base):
    """One computed partition of the subscribers; usable in sequences when promoted."""

    __tablename__ = "segment_run"
    __table_args__ = (
        CheckConstraint(
            "stage IN ('coreset', 'cut', 'assign', 'judge', 'done', 'refused')", name="stage"
        ),
        Index(
            "segment_run_due_idx", "id", postgresql_where=text("stage NOT IN ('done', 'refused')")
        ),
    )
    id: Mapped[Id]
    segment: Mapped[str]
    artifact: Mapped[str]
    report: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    promoted_at: Mapped[dt.datetime | None]
    stage: Mapped[str] = mapped_column(server_default="done")
    request: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    noisy: Mapped[bool] = mapped_column(server_default="false")
    after_id: Mapped[BigInt] = mapped_column(server_default="0")
    epoch: Mapped[BigInt] = mapped_column(server_default="0")
    faults: Mapped[int] = mapped_column(server_default="0")
    lease_until: Mapped[dt.datetime | None]
    retry_at: Mapped[dt.datetime | None]
    why: Mapped[str | None]
    ended_at: Mapped[dt.datetime | None]


class SegmentStep(Base):
    """What a run has computed so far; taken up again after a kill."""

    __tablename__ = "segment_step"
    run: Mapped[BigInt] = mapped_column(ForeignKey("segment_run.id"), primary_key=True)
    step: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[dict[str, Any]]
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class SegmentCoreset(Base):
    """A few weighted points in place of all subscribers, by what they were computed from."""

    __tablename__ = "segment_coreset"
    digest: Mapped[bytes] = mapped_column(primary_key=True)
    value: Mapped[dict[str, Any]]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class SegmentMember(Base):
    """The label of a subscriber in a run."""

    __tablename__ = "segment_member"
    segment: Mapped[str]
    run: Mapped[BigInt] = mapped_column(ForeignKey("segment_run.id"), primary_key=True)
    subscriber_id: Mapped[BigInt] = mapped_column(ForeignKey("subscriber.id"), primary_key=True)
    label: Mapped[str]
