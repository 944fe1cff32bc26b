"""Words of a model: prompts, the texts made from them, who asked, and what was spent."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, BigInt

NOW = text("clock_timestamp()")


class PromptSource(Base):
    """A prompt by its hash; texts that were made from it name it for good."""

    __tablename__ = "prompt_source"
    sha256: Mapped[bytes] = mapped_column(primary_key=True)
    name: Mapped[str]
    source: Mapped[dict[str, Any]]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class Prompt(Base):
    """The version of a prompt that texts are made from now."""

    __tablename__ = "prompt"
    name: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[bytes] = mapped_column(ForeignKey("prompt_source.sha256"))
    published_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class Wording(Base):
    """One text: all who are told of alike share it.

    `key` is the hash of prompt, model and what is `told`. Worked on under a lease and an `epoch`;
    `reserved` and `cost` are millionths of the price table's currency.
    """

    __tablename__ = "wording"
    __table_args__ = (
        CheckConstraint("state IN ('wanted', 'ready', 'failed')", name="state"),
        CheckConstraint("(slots IS NOT NULL) = (state = 'ready')", name="slots"),
        Index("wording_wanted_idx", "needed_at", postgresql_where=text("state = 'wanted'")),
    )
    key: Mapped[bytes] = mapped_column(primary_key=True)
    prompt_sha256: Mapped[bytes] = mapped_column(ForeignKey("prompt_source.sha256"))
    prompt: Mapped[str]
    sequence_key: Mapped[str]
    model: Mapped[str]
    told: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(server_default="wanted")
    slots: Mapped[dict[str, Any] | None]
    why: Mapped[str | None]
    fault: Mapped[str | None]
    needed_at: Mapped[dt.datetime]
    retry_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    lease_until: Mapped[dt.datetime | None]
    epoch: Mapped[BigInt] = mapped_column(server_default="0")
    tries: Mapped[int] = mapped_column(server_default="0")
    asks: Mapped[BigInt] = mapped_column(server_default="0")
    calls: Mapped[int] = mapped_column(server_default="0")
    reserved: Mapped[BigInt] = mapped_column(server_default="0")
    reserved_on: Mapped[dt.date | None]
    cost: Mapped[BigInt] = mapped_column(server_default="0")
    tokens_in: Mapped[BigInt] = mapped_column(server_default="0")
    tokens_out: Mapped[BigInt] = mapped_column(server_default="0")
    seconds: Mapped[float] = mapped_column(server_default="0")
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    ended_at: Mapped[dt.datetime | None]


class Asked(Base):
    """Who waits for a text, until the mail is handed over; the row says that it was asked for."""

    __tablename__ = "asked"
    __table_args__ = (Index("asked_key_idx", "key"),)
    enrollment_id: Mapped[BigInt] = mapped_column(ForeignKey("enrollment.id"), primary_key=True)
    step_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[bytes] = mapped_column(ForeignKey("wording.key"))
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class WordCount(Base):
    """Whose words mails were handed over with, a row a backend; sum over `shard`."""

    __tablename__ = "word_count"
    sequence_key: Mapped[str] = mapped_column(primary_key=True)
    step_id: Mapped[str] = mapped_column(primary_key=True)
    shard: Mapped[int] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[BigInt]


class ModelSpend(Base):
    """What a scope (`all`, `sequence:KEY`) has reserved and settled on a day of UTC."""

    __tablename__ = "model_spend"
    scope: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[dt.date] = mapped_column(primary_key=True)
    reserved: Mapped[BigInt] = mapped_column(server_default="0")
    settled: Mapped[BigInt] = mapped_column(server_default="0")


class ModelCircuit(Base):
    """Whether a model is asked now: not before `open_until`."""

    __tablename__ = "model_circuit"
    model: Mapped[str] = mapped_column(primary_key=True)
    open_until: Mapped[dt.datetime] = mapped_column(server_default=text("'-infinity'"))
    faults: Mapped[int] = mapped_column(server_default="0")
    why: Mapped[str | None]
