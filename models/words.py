"""Words of a model: prompts, the texts made from them, who asked, and what was spent."""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, CheckConstraint, ForeignKey, Index, Text, text
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
    """The version of a prompt that texts are made from now, and for how long they are kept.

    `locales`: those for which there is another, named ``NAME/LOCALE``.
    """

    __tablename__ = "prompt"
    name: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[bytes] = mapped_column(ForeignKey("prompt_source.sha256"))
    published_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    keep_days: Mapped[int | None]
    locales: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))


class WordBatch(Base):
    """Texts that a server answers together, at its leisure and for less.

    `id` is ours and goes along as metadata; `file_id` and `server_id` are the server's, once noted.
    Worked on under a lease and an `epoch`. `ready`, `rejected` and `returned` count how its texts
    left it: with words, with words that a check refused, without any.
    """

    __tablename__ = "word_batch"
    __table_args__ = (
        CheckConstraint("state IN ('made', 'sent', 'ended')", name="state"),
        Index("word_batch_look_at_idx", "look_at", postgresql_where=text("state <> 'ended'")),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True)
    model: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="made")
    texts: Mapped[int]
    file_id: Mapped[str | None]
    server_id: Mapped[str | None]
    status: Mapped[str | None]
    why: Mapped[str | None]
    ready: Mapped[int] = mapped_column(server_default="0")
    rejected: Mapped[int] = mapped_column(server_default="0")
    returned: Mapped[int] = mapped_column(server_default="0")
    cost: Mapped[BigInt] = mapped_column(server_default="0")
    saved: Mapped[BigInt] = mapped_column(server_default="0")
    tries: Mapped[int] = mapped_column(server_default="0")
    epoch: Mapped[BigInt] = mapped_column(server_default="0")
    lease_until: Mapped[dt.datetime | None]
    look_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    made_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    sent_at: Mapped[dt.datetime | None]
    ended_at: Mapped[dt.datetime | None]


class Wording(Base):
    """One text: all who are told of alike share it.

    `key` is the hash of prompt, model and what is `told`. Worked on under a lease and an `epoch`;
    `reserved`, `cost` and `saved` are millionths of the price table's currency. `in_batch`: the
    batch `batch_id` has it now; that stays once it has left.
    """

    __tablename__ = "wording"
    __table_args__ = (
        CheckConstraint("state IN ('wanted', 'ready', 'failed')", name="state"),
        CheckConstraint("(slots IS NOT NULL) = (state = 'ready')", name="slots"),
        Index("wording_wanted_idx", "needed_at", postgresql_where=text("state = 'wanted'")),
        Index("wording_batch_id_idx", "batch_id", postgresql_where=text("in_batch")),
        Index("wording_asked_at_idx", "asked_at"),
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
    batch_id: Mapped[UUID | None] = mapped_column(ForeignKey("word_batch.id"))
    in_batch: Mapped[bool] = mapped_column(server_default="false")
    batched: Mapped[int] = mapped_column(server_default="0")
    saved: Mapped[BigInt] = mapped_column(server_default="0")
    asked_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class WordPast(Base):
    """What the texts of a sequence that are no longer kept had been: sums for its report."""

    __tablename__ = "word_past"
    sequence_key: Mapped[str] = mapped_column(primary_key=True)
    asks: Mapped[BigInt]
    texts: Mapped[BigInt]
    ready: Mapped[BigInt]
    failed: Mapped[BigInt]
    calls: Mapped[BigInt]
    batched: Mapped[BigInt]
    cost: Mapped[BigInt]
    saved: Mapped[BigInt]
    tokens_in: Mapped[BigInt]
    tokens_out: Mapped[BigInt]
    seconds: Mapped[float]


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


class WordYield(Base):
    """Since when words stand back for mails that wait: one row, true for as long as `seen_at` is fresh."""

    __tablename__ = "word_yield"
    __table_args__ = (CheckConstraint("one", name="one"),)
    one: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    since: Mapped[dt.datetime]
    seen_at: Mapped[dt.datetime]
