"""Sequences, their immutable versions, who is enrolled, and what was decided."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import (
    ARRAY,
    CheckConstraint,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, BigInt, Id

NOW = text("clock_timestamp()")


class Stream(Base):
    """What a message is sent through: relay, sender, region, and what a doubt becomes there."""

    __tablename__ = "stream"
    __table_args__ = (
        CheckConstraint("class IN ('marketing', 'transactional')", name="class"),
        CheckConstraint("doubt_policy IN ('assume_sent', 'resend', 'hold')", name="doubt_policy"),
        CheckConstraint("(paused_at IS NULL) = (pause_reason IS NULL)", name="pause_has_reason"),
        CheckConstraint("region ~ '^[a-z0-9][a-z0-9-]{0,30}$'", name="region"),
        CheckConstraint("tracking IN ('none', 'clicks', 'opens', 'all')", name="tracking"),
        CheckConstraint("return_path ~ '^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$'", name="return_path"),
        CheckConstraint("provider IN ('postmark', 'sendgrid', 'mailgun', 'ses')", name="provider"),
    )
    key: Mapped[str] = mapped_column(primary_key=True)
    class_: Mapped[str] = mapped_column("class")
    relay: Mapped[str] = mapped_column(server_default="default")
    sender: Mapped[str | None]
    doubt_policy: Mapped[str]
    doubt_hold: Mapped[dt.timedelta | None]
    paused_at: Mapped[dt.datetime | None]
    pause_reason: Mapped[str | None]
    region: Mapped[str | None]
    tracking: Mapped[str] = mapped_column(server_default="none")
    return_path: Mapped[str | None]
    provider: Mapped[str | None]


class TemplateSource(Base):
    """The sources of a mail by hash; they stay while a live message names them."""

    __tablename__ = "template_source"
    sha256: Mapped[bytes] = mapped_column(primary_key=True)
    name: Mapped[str]
    parts: Mapped[dict[str, Any]]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class Template(Base):
    """Which sources a template name stands for now."""

    __tablename__ = "template"
    name: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[bytes] = mapped_column(ForeignKey("template_source.sha256"))
    updated_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class Sequence(Base):
    """A published sequence; `version` is the one that new enrollments take, while it takes any."""

    __tablename__ = "sequence"
    __table_args__ = (
        CheckConstraint("(paused_at IS NULL) = (pause_reason IS NULL)", name="pause_has_reason"),
        CheckConstraint(
            "(draining_since IS NULL) = (drain_reason IS NULL)", name="drain_has_reason"
        ),
    )
    key: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str]
    stream: Mapped[str] = mapped_column(ForeignKey("stream.key"))
    topic: Mapped[str | None] = mapped_column(ForeignKey("topic.key"))
    version: Mapped[int]
    paused_at: Mapped[dt.datetime | None]
    pause_reason: Mapped[str | None]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    draining_since: Mapped[dt.datetime | None]
    drain_reason: Mapped[str | None]


class SequenceVersion(Base):
    """One immutable text of a sequence: its canonical form and the YAML it came from."""

    __tablename__ = "sequence_version"
    __table_args__ = (
        ForeignKeyConstraint(
            ["sequence_key"], ["sequence.key"], deferrable=True, initially="DEFERRED"
        ),
    )
    sequence_key: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    definition: Mapped[dict[str, Any]]
    source: Mapped[str]
    sha256: Mapped[bytes]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    templates: Mapped[dict[str, Any] | None]


class Enrollment(Base):
    """A subscriber on the way through a sequence.

    `step_id` is where it stands, `step_started_at` when that step began (NULL: not yet), `due_at`
    when the planner looks again. While a message of it is live, `due_at` is NULL. `triggered_at`
    is when the event happened that let it in, `event` its properties. `passed` are steps that are not run again, though an
    edit has put them ahead; `content_version` is whose mails it gets, where that is not
    `sequence_version`.
    """

    __tablename__ = "enrollment"
    __table_args__ = (
        UniqueConstraint("sequence_key", "subscriber_id", "entry_no"),
        ForeignKeyConstraint(
            ["sequence_key", "sequence_version"],
            ["sequence_version.sequence_key", "sequence_version.version"],
        ),
        CheckConstraint(
            "active = (ended_at IS NULL) AND active = (end_reason IS NULL)"
            " AND (active OR (due_at IS NULL AND parked_from IS NULL))",
            name="end_agrees",
        ),
        Index("enrollment_due_at_idx", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index("enrollment_subscriber_id_idx", "subscriber_id"),
        Index("enrollment_active_idx", "sequence_key", postgresql_where=text("active")),
        Index(
            "enrollment_parked_from_idx",
            "sequence_key",
            postgresql_where=text("parked_from IS NOT NULL"),
        ),
        Index(
            "enrollment_dedupe_key_idx",
            "sequence_key",
            "dedupe_key",
            unique=True,
            postgresql_where=text("dedupe_key IS NOT NULL"),
        ),
        {"postgresql_with": {"fillfactor": "70"}},
    )
    id: Mapped[Id]
    sequence_key: Mapped[str]
    sequence_version: Mapped[int]
    subscriber_id: Mapped[BigInt] = mapped_column(ForeignKey("subscriber.id"))
    entry_no: Mapped[int] = mapped_column(server_default="1")
    step_id: Mapped[str | None]
    step_started_at: Mapped[dt.datetime | None]
    wait_rule: Mapped[dict[str, Any] | None]
    due_at: Mapped[dt.datetime | None]
    parked_from: Mapped[dt.datetime | None]
    dedupe_key: Mapped[str | None]
    triggered_at: Mapped[dt.datetime | None]
    active: Mapped[bool] = mapped_column(server_default=text("true"))
    entered_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    ended_at: Mapped[dt.datetime | None]
    end_reason: Mapped[str | None]
    passed: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    content_version: Mapped[int | None]
    event: Mapped[dict[str, Any] | None]


class Decision(Base):
    """One line of the log that `explain` reads: what was decided, and why."""

    __tablename__ = "decision"
    __table_args__ = (Index("decision_subscriber_id_at_idx", "subscriber_id", "at"),)
    id: Mapped[Id]
    subscriber_id: Mapped[BigInt]
    sequence_key: Mapped[str | None]
    enrollment_id: Mapped[BigInt | None]
    step_id: Mapped[str | None]
    kind: Mapped[str]
    reason: Mapped[str | None]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class Schedule(Base):
    """A cron line: when something starts, and what.

    `next_wall` is the local time that the line says, `next_fire_at` the instant it was resolved to
    by the zone data of `tzdata`; both are NULL while it is paused, or has a `fault`. `target` is
    `{"sequence": key, "audience": "all"}`, `{"into": key, "segment": condition}` or `{"task": name}`;
    with `own`, a version, it is the line that this version of the sequence itself holds.
    """

    __tablename__ = "schedule"
    __table_args__ = (
        CheckConstraint("catch_up IN ('latest', 'all', 'skip')", name="catch_up"),
        CheckConstraint(
            "(next_wall IS NULL) = (next_fire_at IS NULL) AND NOT (paused AND next_wall IS NOT NULL)",
            name="next_agrees",
        ),
    )
    key: Mapped[str] = mapped_column(primary_key=True)
    cron: Mapped[str]
    zone: Mapped[str]
    target: Mapped[dict[str, Any]]
    catch_up: Mapped[str]
    max_lateness: Mapped[dt.timedelta]
    paused: Mapped[bool] = mapped_column(server_default=text("false"))
    next_wall: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=False))
    next_fire_at: Mapped[dt.datetime | None]
    tzdata: Mapped[str]
    fault: Mapped[str | None]
    applied_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class ScheduleFire(Base):
    """One scheduled instant of a schedule; unique, so that it runs once over the fleet.

    While it is `claimed`, whoever works on it holds `lease_until` under its own `epoch`, and
    `after_id` is the last subscriber looked at: after a crash the next one goes on behind it.
    """

    __tablename__ = "schedule_fire"
    __table_args__ = (
        CheckConstraint("state IN ('claimed', 'done', 'missed', 'failed')", name="state"),
        Index("schedule_fire_claimed_idx", "fire_at", postgresql_where=text("state = 'claimed'")),
    )
    schedule_key: Mapped[str] = mapped_column(primary_key=True)
    fire_at: Mapped[dt.datetime] = mapped_column(primary_key=True)
    state: Mapped[str]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    target: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    after_id: Mapped[BigInt] = mapped_column(server_default="0")
    epoch: Mapped[BigInt] = mapped_column(server_default="0")
    faults: Mapped[int] = mapped_column(server_default="0")
    lease_until: Mapped[dt.datetime | None]
    retry_at: Mapped[dt.datetime | None]
    ended_at: Mapped[dt.datetime | None]
