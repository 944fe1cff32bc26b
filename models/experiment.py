"""Experiments: with which shares people came into which arm, and what was ruled about the arms."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, BigInt, Id

NOW = text("clock_timestamp()")


class ExperimentEpoch(Base):
    """The shares under which people came in: arm → weight, in lowest terms; other shares, another epoch."""

    __tablename__ = "experiment_epoch"
    __table_args__ = (UniqueConstraint("experiment_key", "shares"),)
    id: Mapped[Id]
    experiment_key: Mapped[str]
    shares: Mapped[dict[str, Any]]
    began_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class ExperimentAssignment(Base):
    """Somebody's arm, written when they came to the experiment; `propensity`: the chance of it then.

    `experiment_key` is ``sequence/step``. They keep it on every entry; what is counted is what came
    of `enrollment_id`.
    """

    __tablename__ = "experiment_assignment"
    __table_args__ = (
        CheckConstraint("propensity > 0 AND propensity <= 1", name="propensity"),
        Index("experiment_assignment_enrollment_id_idx", "enrollment_id"),
    )
    experiment_key: Mapped[str] = mapped_column(primary_key=True)
    subscriber_id: Mapped[BigInt] = mapped_column(ForeignKey("subscriber.id"), primary_key=True)
    arm: Mapped[str]
    propensity: Mapped[float]
    epoch_id: Mapped[BigInt] = mapped_column(ForeignKey("experiment_epoch.id"))
    enrollment_id: Mapped[BigInt] = mapped_column(ForeignKey("enrollment.id"))
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class ExperimentAllocation(Base):
    """The weights of arms that the fleet moves: arm → weight, in place of the file's."""

    __tablename__ = "experiment_allocation"
    experiment_key: Mapped[str] = mapped_column(primary_key=True)
    weights: Mapped[dict[str, Any]]
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class ExperimentRuling(Base):
    """An arm that nobody comes into any more (`stopped`), or everybody (`chosen`), and why.

    `ruled_by` is `guardrail` or `operator`; one that was taken back has `lifted_at`.
    """

    __tablename__ = "experiment_ruling"
    __table_args__ = (
        CheckConstraint("kind IN ('stopped', 'chosen')", name="kind"),
        CheckConstraint("ruled_by IN ('guardrail', 'operator')", name="ruled_by"),
        Index(
            "experiment_ruling_arm_idx",
            "experiment_key",
            "arm",
            "kind",
            unique=True,
            postgresql_where=text("lifted_at IS NULL"),
        ),
        Index(
            "experiment_ruling_chosen_idx",
            "experiment_key",
            unique=True,
            postgresql_where=text("kind = 'chosen' AND lifted_at IS NULL"),
        ),
    )
    id: Mapped[Id]
    experiment_key: Mapped[str]
    arm: Mapped[str]
    kind: Mapped[str]
    ruled_by: Mapped[str]
    reason: Mapped[str]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    lifted_at: Mapped[dt.datetime | None]
