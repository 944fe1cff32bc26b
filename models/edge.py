"""What the HTTP edge keeps: pauses that readers asked for, links, hits, keys of callers, their answers."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import ARRAY, CheckConstraint, ForeignKey, Index, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, BigInt, Id, SmallInt

NOW = text("clock_timestamp()")


class Snooze(Base):
    """A subscriber who wants no marketing mail until then; `source` as of `Consent`."""

    __tablename__ = "snooze"
    subscriber_id: Mapped[BigInt] = mapped_column(ForeignKey("subscriber.id"), primary_key=True)
    until: Mapped[dt.datetime]
    source: Mapped[str]
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class Link(Base):
    """Where a link of a mail leads: a click can go to a row of this table and nowhere else."""

    __tablename__ = "link"
    __table_args__ = (
        UniqueConstraint("sha256"),
        CheckConstraint("url ~ '^https?://'", name="web"),
    )
    id: Mapped[Id]
    sha256: Mapped[bytes]
    url: Mapped[str]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class Hit(Base):
    """A click (with its link, 0: the one that no human sees) or an open, until it is judged.

    `agent` is the word for the program that came, never its name or address.
    """

    __tablename__ = "hit"
    __table_args__ = (Index("hit_at_idx", "at"),)
    id: Mapped[Id]
    message_id: Mapped[BigInt]
    link_id: Mapped[BigInt | None]
    agent: Mapped[str]
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class ApiKey(Base):
    """Who may write or read through `/v1`: the hash of a random secret, and what it may do."""

    __tablename__ = "api_key"
    __table_args__ = (
        CheckConstraint(
            "scopes <@ ARRAY['events', 'subscribers', 'enrollments', 'messages', 'events:read',"
            " 'subscribers:read', 'enrollments:read', 'messages:read']::text[] AND cardinality(scopes) > 0",
            name="scopes",
        ),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    sha256: Mapped[bytes]
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[dt.datetime | None]
    revoked_at: Mapped[dt.datetime | None]


class ApiAnswer(Base):
    """What a request with an `Idempotency-Key` was answered; `status` NULL: it is being worked on."""

    __tablename__ = "api_answer"
    __table_args__ = (Index("api_answer_at_idx", "at"),)
    api_key: Mapped[str] = mapped_column(ForeignKey("api_key.id"), primary_key=True)
    idempotency_key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[bytes]
    status: Mapped[SmallInt | None]
    answer: Mapped[dict[str, Any] | None]
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
