"""Work on content that was asked for, and what came of it."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, BigInt, Id

NOW = text("clock_timestamp()")


class ContentWork(Base):
    """A draft, subject lines, a review or a comparison; worked on under a lease and an `epoch`.

    `task` is the name of the task that does it, `scope` the sequence whose budget a model's calls
    are paid from, `model` is null where none is asked. `reserved` and `cost` are millionths of the
    price table's currency.
    """

    __tablename__ = "content_work"
    __table_args__ = (
        CheckConstraint("state IN ('open', 'done', 'failed')", name="state"),
        CheckConstraint("(state = 'open') = (ended_at IS NULL)", name="end_agrees"),
        Index("content_work_open_idx", "id", postgresql_where=text("state = 'open'")),
    )
    id: Mapped[Id]
    task: Mapped[str]
    scope: Mapped[str]
    model: Mapped[str | None]
    asked: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(server_default="open")
    found: Mapped[dict[str, Any] | None]
    said: Mapped[str | None]
    tries: Mapped[int] = mapped_column(server_default=text("0"))
    retry_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    lease_until: Mapped[dt.datetime | None]
    epoch: Mapped[int] = mapped_column(server_default=text("0"))
    reserved: Mapped[BigInt] = mapped_column(server_default="0")
    reserved_on: Mapped[dt.date | None]
    calls: Mapped[int] = mapped_column(server_default=text("0"))
    cost: Mapped[BigInt] = mapped_column(server_default="0")
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    ended_at: Mapped[dt.datetime | None]
