"""Who signed up for a topic that asks for a confirmation, and whether it came."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import ForeignKey, Index, SmallInteger, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, BigInt

NOW = text("clock_timestamp()")


class OptIn(Base):
    """A sign-up and its confirmation: the record by which one can show who agreed to what, and when.

    Pending while `confirmed_at` is NULL: there is no consent then, so nothing of the topic goes.
    `wanted`: a mail that asks is still to be made. `template_version` is the text that was asked with,
    `message_id` the latest such mail, `page` the language and hash of the page that was answered. No
    network address is kept.
    """

    __tablename__ = "opt_in"
    __table_args__ = (
        Index("opt_in_wanted_idx", "subscriber_id", "topic", postgresql_where=text("wanted")),
    )
    subscriber_id: Mapped[BigInt] = mapped_column(ForeignKey("subscriber.id"), primary_key=True)
    topic: Mapped[str] = mapped_column(ForeignKey("topic.key"), primary_key=True)
    source: Mapped[str]
    said_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    wanted: Mapped[bool] = mapped_column(server_default=text("true"))
    asks: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    asked_at: Mapped[dt.datetime | None]
    message_id: Mapped[BigInt | None]
    template_version: Mapped[bytes | None]
    confirmed_at: Mapped[dt.datetime | None]
    page: Mapped[str | None]
