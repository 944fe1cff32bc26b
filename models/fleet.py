"""What the pools write about themselves and about subscribers."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, BigInt

NOW = text("clock_timestamp()")


class Canary(Base):
    """When a worker last answered its canary; `pool` is its queue: the pool, or `send@eu`.

    `clock_ahead`: seconds that its machine's clock was ahead of Postgres's then.
    """

    __tablename__ = "canary"
    pool: Mapped[str] = mapped_column(primary_key=True)
    worker: Mapped[str] = mapped_column(primary_key=True)
    seen_at: Mapped[dt.datetime]
    clock_ahead: Mapped[float | None]


class Tick(Base):
    """When a tick of beat last did its work."""

    __tablename__ = "tick"
    name: Mapped[str] = mapped_column(primary_key=True)
    seen_at: Mapped[dt.datetime]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default="{}")


class Score(Base):
    """A number about a subscriber, from one artifact, with its time.

    No key holds its subscriber, as none holds an event's: it would cost half of writing a score.
    Whoever deletes a subscriber deletes their scores.
    """

    __tablename__ = "score"
    name: Mapped[str] = mapped_column(primary_key=True)
    subscriber_id: Mapped[BigInt] = mapped_column(primary_key=True)
    value: Mapped[float]
    artifact: Mapped[str]
    scored_at: Mapped[dt.datetime]
