"""The message, its states and moves, its attempts, and the counters of outcomes.

::

    scheduled ─claim→ working ─ARM→ armed ─RECORD→ sent | failed | scheduled (4yz)
        ▲                │ reaper     │ no reply after the dot
        │                │            ▼
        ├────────────────┘        in_doubt → sent | failed | sent_assumed | scheduled (resend)
    scheduled | working → suppressed | capped | held_out | late | expired | cancelled
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, Enum, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import TSTZMULTIRANGE, Range
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, BigInt, Id, SmallInt
from models.states import State

NOW = text("clock_timestamp()")


class Outcome(StrEnum):
    """How an attempt ended: an attempt is one dot that was permitted."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    DEFERRED = "deferred"
    NOT_SENT = "not_sent"
    IN_DOUBT = "in_doubt"


def _values(enum: type[StrEnum]) -> list[str]:
    return [member.value for member in enum]


message_state = Enum(State, name="message_state", values_callable=_values)
attempt_outcome = Enum(Outcome, name="attempt_outcome", values_callable=_values)


class Message(Base):
    """One effect: this step's mail to this subscriber, at most once.

    `run_at` is set while scheduled only; `watch_at` is the end of the working lease, or of the hold
    while in doubt; `epoch` grows by one with every claim and fences off whoever held it before.
    Only `tasks.moves` writes `state`.
    """

    __tablename__ = "message"
    __table_args__ = (
        CheckConstraint("(run_at IS NOT NULL) = (state = 'scheduled')", name="run_at"),
        CheckConstraint(
            "(watch_at IS NOT NULL) = (state IN ('working', 'armed', 'in_doubt'))", name="watch_at"
        ),
        CheckConstraint("(owner IS NOT NULL) = (state IN ('working', 'armed'))", name="owner"),
        CheckConstraint(
            "(terminal_at IS NOT NULL) = (state IN ('sent', 'sent_assumed', 'failed',"
            " 'suppressed', 'capped', 'held_out', 'late', 'expired', 'cancelled'))",
            name="terminal_at",
        ),
        Index("message_queue_idx", "stream", "run_at", postgresql_where=text("run_at IS NOT NULL")),
        Index("message_watch_idx", "watch_at", postgresql_where=text("watch_at IS NOT NULL")),
        Index(
            "message_enrollment_id_idx",
            "enrollment_id",
            postgresql_where=text("enrollment_id IS NOT NULL"),
        ),
        Index("message_subscriber_id_idx", "subscriber_id"),
        Index(
            "message_parked_from_idx",
            "sequence_key",
            postgresql_where=text("parked_from IS NOT NULL"),
        ),
        Index(
            "message_crashed_idx",
            "owner",
            postgresql_where=text("crashes > 0 AND watch_at IS NOT NULL"),
        ),
    )
    id: Mapped[Id]
    effect_key: Mapped[bytes] = mapped_column(unique=True)
    rfc_message_id: Mapped[str] = mapped_column(unique=True)
    stream: Mapped[str] = mapped_column(ForeignKey("stream.key"))
    sequence_key: Mapped[str | None]
    sequence_version: Mapped[int | None]
    step_id: Mapped[str | None]
    entry_no: Mapped[int | None]
    enrollment_id: Mapped[BigInt | None] = mapped_column(ForeignKey("enrollment.id"))
    subscriber_id: Mapped[BigInt] = mapped_column(ForeignKey("subscriber.id"))
    template: Mapped[str]
    template_version: Mapped[bytes | None]
    variables: Mapped[dict[str, Any] | None]
    words: Mapped[dict[str, Any] | None]
    event: Mapped[dict[str, Any] | None]
    frozen_at: Mapped[dt.datetime | None]
    content_sha256: Mapped[bytes | None]
    allowed: Mapped[list[Range[dt.datetime]]] = mapped_column(
        TSTZMULTIRANGE, server_default=text("'{(,)}'")
    )
    state: Mapped[State] = mapped_column(message_state, server_default="scheduled")
    run_at: Mapped[dt.datetime | None]
    watch_at: Mapped[dt.datetime | None]
    parked_from: Mapped[dt.datetime | None]
    expires_at: Mapped[dt.datetime | None]
    epoch: Mapped[int] = mapped_column(server_default="0")
    owner: Mapped[str | None]
    armed_at: Mapped[dt.datetime | None]
    terminal_at: Mapped[dt.datetime | None]
    reason: Mapped[str | None]
    attempts: Mapped[SmallInt] = mapped_column(server_default="0")
    takes: Mapped[int] = mapped_column(server_default="0")
    crashes: Mapped[SmallInt] = mapped_column(server_default="0")
    deferrals: Mapped[SmallInt] = mapped_column(server_default="0")
    last_code: Mapped[SmallInt | None]
    last_stage: Mapped[str | None]
    maybe_delivered: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class Attempt(Base):
    """One armed try of a message, at one epoch, written when it left `armed`."""

    __tablename__ = "attempt"
    __table_args__ = (
        Index("attempt_in_doubt_owner_idx", "owner", postgresql_where=text("outcome = 'in_doubt'")),
    )
    message_id: Mapped[BigInt] = mapped_column(ForeignKey("message.id"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str]
    armed_at: Mapped[dt.datetime]
    content_sha256: Mapped[bytes]
    outcome: Mapped[Outcome] = mapped_column(attempt_outcome)
    stage: Mapped[str]
    code: Mapped[SmallInt | None]
    enhanced_code: Mapped[str | None]
    reply: Mapped[str | None]
    ended_at: Mapped[dt.datetime]
    evidence: Mapped[str | None]


class Content(Base):
    """The frozen bytes of a mail, kept where the stream's policy may send it again."""

    __tablename__ = "content"
    message_id: Mapped[BigInt] = mapped_column(ForeignKey("message.id"), primary_key=True)
    sha256: Mapped[bytes]
    body: Mapped[bytes]


class Counter(Base):
    """Terminal outcomes of a step, a row a backend; sum over `shard`."""

    __tablename__ = "counter"
    sequence_key: Mapped[str] = mapped_column(primary_key=True)
    step_id: Mapped[str] = mapped_column(primary_key=True)
    shard: Mapped[int] = mapped_column(primary_key=True)
    outcome: Mapped[State] = mapped_column(message_state, primary_key=True)
    n: Mapped[BigInt]


class LegalMove(Base):
    """The moves that Postgres permits; NULL in `from_state` marks a beginning."""

    __tablename__ = "legal_move"
    __table_args__ = (
        UniqueConstraint("from_state", "to_state", postgresql_nulls_not_distinct=True),
    )
    # The table has no primary key (a beginning has no from_state); this is the mapper's identity.
    __mapper_args__ = {"primary_key": ["from_state", "to_state"]}
    from_state: Mapped[State | None] = mapped_column(message_state)
    to_state: Mapped[State] = mapped_column(message_state)
