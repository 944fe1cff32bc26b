"""Which fleet a database is of, and what is held because its future was lost in a restore."""

from __future__ import annotations

import datetime as dt
import uuid

from sqlalchemy import CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Id

NOW = text("clock_timestamp()")


class Fleet(Base):
    """One row: the fleet's identity, which a dump takes along."""

    __tablename__ = "fleet"
    __table_args__ = (CheckConstraint("one", name="one"),)
    one: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    identity: Mapped[uuid.UUID] = mapped_column(server_default=text("gen_random_uuid()"))


class Quarantine(Base):
    """From `begun_at` until `lifted_at`: what was due before may have been sent after `since`."""

    __tablename__ = "quarantine"
    __table_args__ = (
        CheckConstraint("since <= begun_at", name="since"),
        Index(
            "quarantine_open_idx",
            text("(true)"),
            unique=True,
            postgresql_where=text("lifted_at IS NULL"),
        ),
    )
    id: Mapped[Id]
    since: Mapped[dt.datetime]
    begun_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    reason: Mapped[str]
    lifted_at: Mapped[dt.datetime | None]


class QuarantineEvidence(Base):
    """A Message-ID that the far end has, whether its message is in this database yet or not."""

    __tablename__ = "quarantine_evidence"
    rfc_message_id: Mapped[str] = mapped_column(primary_key=True)
    recorded_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
