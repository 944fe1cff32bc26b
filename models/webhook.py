"""Where other systems are told what happened, and what they are to be told."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import ARRAY, CheckConstraint, ForeignKey, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, BigInt, Id, SmallInt

NOW = text("clock_timestamp()")


class WebhookEndpoint(Base):
    """An address that is told of `types` (`message.sent`, or all of a kind: `message.*`).

    Its secret is kept nowhere: it is made of `salt` and `secret_no` under the fleet's own key; the
    one before signs too until `old_until`. `failing_since` is set while nothing gets through,
    `quiet_until` while it is left alone for that.
    """

    __tablename__ = "webhook_endpoint"
    __table_args__ = (
        CheckConstraint("cardinality(types) > 0", name="types"),
        CheckConstraint("(paused_at IS NULL) = (pause_reason IS NULL)", name="pause_has_reason"),
        CheckConstraint(
            "(disabled_at IS NULL) = (disable_reason IS NULL)", name="disabled_has_reason"
        ),
    )
    id: Mapped[Id]
    name: Mapped[str] = mapped_column(unique=True)
    url: Mapped[str]
    types: Mapped[list[str]] = mapped_column(ARRAY(Text))
    addresses: Mapped[bool] = mapped_column(server_default=text("false"))
    salt: Mapped[bytes]
    secret_no: Mapped[int] = mapped_column(server_default="1")
    old_until: Mapped[dt.datetime | None]
    paused_at: Mapped[dt.datetime | None]
    pause_reason: Mapped[str | None]
    disabled_at: Mapped[dt.datetime | None]
    disable_reason: Mapped[str | None]
    failures: Mapped[int] = mapped_column(server_default="0")
    failing_since: Mapped[dt.datetime | None]
    quiet_until: Mapped[dt.datetime | None]
    delivered_at: Mapped[dt.datetime | None]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class WebhookDelivery(Base):
    """One thing that one endpoint is told: `due_at` while it waits, else it was delivered or is dead.

    `key` is what the other side knows it by, the same on every attempt. While somebody tries,
    `due_at` is the end of their lease, and `attempts` fences off whoever tried before.
    """

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        CheckConstraint("num_nonnulls(due_at, delivered_at, dead_at) = 1", name="stands"),
        Index(
            "webhook_delivery_due_idx",
            "endpoint_id",
            "due_at",
            postgresql_where=text("due_at IS NOT NULL"),
        ),
        Index(
            "webhook_delivery_dead_idx",
            "endpoint_id",
            "dead_at",
            postgresql_where=text("dead_at IS NOT NULL"),
        ),
        Index(
            "webhook_delivery_delivered_idx",
            "delivered_at",
            postgresql_where=text("delivered_at IS NOT NULL"),
        ),
        Index("webhook_delivery_subscriber_id_idx", "subscriber_id"),
    )
    id: Mapped[Id]
    endpoint_id: Mapped[BigInt] = mapped_column(
        ForeignKey("webhook_endpoint.id", ondelete="CASCADE")
    )
    key: Mapped[str]
    type: Mapped[str]
    subscriber_id: Mapped[BigInt | None]
    data: Mapped[dict[str, Any]]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    due_at: Mapped[dt.datetime | None] = mapped_column(server_default=NOW)
    attempts: Mapped[int] = mapped_column(server_default="0")
    status: Mapped[SmallInt | None]
    fault: Mapped[str | None]
    delivered_at: Mapped[dt.datetime | None]
    dead_at: Mapped[dt.datetime | None]
