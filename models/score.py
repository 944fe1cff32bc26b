"""Fitted models, the one of each score that is used, and the work of scoring."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, BigInt, Id

NOW = text("clock_timestamp()")


class ScoreArtifact(Base):
    """A fitted model: a skops file, and a manifest that says what it is and how good it was."""

    __tablename__ = "score_artifact"
    __table_args__ = (Index("score_artifact_name_created_at_idx", "name", "created_at"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    data: Mapped[bytes]
    manifest: Mapped[dict[str, Any]]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class ScoreChampion(Base):
    """The artifact that makes a score now."""

    __tablename__ = "score_champion"
    name: Mapped[str] = mapped_column(primary_key=True)
    artifact: Mapped[str] = mapped_column(ForeignKey("score_artifact.id"))
    promoted_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class ScorePromotion(Base):
    """When a champion changed, from which to which, and why."""

    __tablename__ = "score_promotion"
    id: Mapped[Id]
    name: Mapped[str]
    artifact: Mapped[str] = mapped_column(ForeignKey("score_artifact.id"))
    before: Mapped[str | None]
    why: Mapped[str]
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class ScoreDrift(Base):
    """How far the subscribers had moved from those that an artifact was fitted to."""

    __tablename__ = "score_drift"
    id: Mapped[Id]
    name: Mapped[str]
    artifact: Mapped[str]
    drifted: Mapped[int]
    report: Mapped[dict[str, Any]]
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class ScoreRun(Base):
    """One scoring of everybody as of `cutoff`; at most one of a score is open."""

    __tablename__ = "score_run"
    __table_args__ = (
        CheckConstraint("state IN ('open', 'done', 'failed', 'superseded')", name="state"),
        CheckConstraint("(state = 'open') = (ended_at IS NULL)", name="end_agrees"),
        Index("score_run_open_idx", "name", unique=True, postgresql_where=text("state = 'open'")),
    )
    id: Mapped[Id]
    name: Mapped[str]
    artifact: Mapped[str] = mapped_column(ForeignKey("score_artifact.id"))
    cutoff: Mapped[dt.datetime]
    state: Mapped[str] = mapped_column(server_default="open")
    reason: Mapped[str | None]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    ended_at: Mapped[dt.datetime | None]


class ScoreRange(Base):
    """Subscribers of a run, `first_id` inside and `end_id` outside, held under a lease."""

    __tablename__ = "score_range"
    __table_args__ = (
        Index("score_range_waiting_idx", "run", "first_id", postgresql_where=text("NOT done")),
    )
    run: Mapped[BigInt] = mapped_column(
        ForeignKey("score_run.id", ondelete="CASCADE"), primary_key=True
    )
    first_id: Mapped[BigInt] = mapped_column(primary_key=True)
    end_id: Mapped[BigInt]
    done: Mapped[bool] = mapped_column(server_default=text("false"))
    epoch: Mapped[int] = mapped_column(server_default=text("0"))
    lease_until: Mapped[dt.datetime | None]
    faults: Mapped[int] = mapped_column(server_default=text("0"))
    fault: Mapped[str | None]
    rows: Mapped[int | None]


class ScoreTraining(Base):
    """A training that was asked for; `said`: its verdict, or why it failed."""

    __tablename__ = "score_training"
    __table_args__ = (
        CheckConstraint("state IN ('open', 'done', 'failed')", name="state"),
        CheckConstraint("(state = 'open') = (ended_at IS NULL)", name="end_agrees"),
        Index("score_training_open_idx", "id", postgresql_where=text("state = 'open'")),
    )
    id: Mapped[Id]
    name: Mapped[str]
    options: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    state: Mapped[str] = mapped_column(server_default="open")
    artifact: Mapped[str | None]
    said: Mapped[str | None]
    epoch: Mapped[int] = mapped_column(server_default=text("0"))
    lease_until: Mapped[dt.datetime | None]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    ended_at: Mapped[dt.datetime | None]


class ScoreRequest(Base):
    """One subscriber's score is asked for now; `said`: why there is none."""

    __tablename__ = "score_request"
    __table_args__ = (
        Index("score_request_open_idx", "asked_at", postgresql_where=text("said IS NULL")),
    )
    name: Mapped[str] = mapped_column(primary_key=True)
    subscriber_id: Mapped[BigInt] = mapped_column(
        ForeignKey("subscriber.id", ondelete="CASCADE"), primary_key=True
    )
    asked_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    said: Mapped[str | None]


class EntryScore(Base):
    """What a champion said of somebody when they came into a sequence that holds people out.

    Written with the enrollment, by a trigger, of scores that were at most a week old: a score is
    overwritten by the next one, and a lift by band needs the one from before any mail.
    """

    __tablename__ = "entry_score"
    __table_args__ = (Index("entry_score_subscriber_id_idx", "subscriber_id"),)
    enrollment_id: Mapped[BigInt] = mapped_column(
        ForeignKey("enrollment.id", ondelete="CASCADE"), primary_key=True
    )
    name: Mapped[str] = mapped_column(primary_key=True)
    subscriber_id: Mapped[BigInt]
    value: Mapped[float]
