"""Texts of a model that nobody has asked for in a long while: deleted, with what was told for them.

A mail has its words with it, so that no text is needed once it is handed over; a text is kept because the
next one who is told of alike shares it. Its figures stay, added up by sequence.
"""

from __future__ import annotations

from typing import Final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import text

from models.session import Database

BATCH: Final = 1000

# As long as its prompt says, else as long as the setting; never what somebody waits for, or what is
# being written. Whoever asks for one at that moment has it locked, or makes it anew.
PRUNE = text("""
WITH old AS MATERIALIZED (
    SELECT w.key FROM wording w LEFT JOIN prompt p ON p.name = w.prompt
    WHERE w.asked_at < (SELECT clock_timestamp()
        - make_interval(days => least(:days, (SELECT min(x.keep_days) FROM prompt x))))
      AND w.asked_at < (SELECT clock_timestamp()) - make_interval(days => coalesce(p.keep_days, :days))
      AND NOT w.in_batch AND (w.lease_until IS NULL OR w.lease_until < (SELECT clock_timestamp()))
      AND NOT EXISTS (SELECT FROM asked a WHERE a.key = w.key)
    ORDER BY w.asked_at LIMIT :n FOR UPDATE OF w SKIP LOCKED),
gone AS (DELETE FROM wording w USING old WHERE w.key = old.key RETURNING w.*),
kept AS (
    INSERT INTO word_past AS p (sequence_key, asks, texts, ready, failed, calls, batched, cost, saved,
        tokens_in, tokens_out, seconds)
    SELECT g.sequence_key, sum(g.asks), count(*), count(*) FILTER (WHERE g.state = 'ready'),
        count(*) FILTER (WHERE g.state = 'failed'), sum(g.calls), sum(g.batched), sum(g.cost),
        sum(g.saved), sum(g.tokens_in), sum(g.tokens_out), sum(g.seconds)
    FROM gone g GROUP BY 1 ORDER BY 1
    ON CONFLICT (sequence_key) DO UPDATE SET
        asks = p.asks + excluded.asks, texts = p.texts + excluded.texts,
        ready = p.ready + excluded.ready, failed = p.failed + excluded.failed,
        calls = p.calls + excluded.calls, batched = p.batched + excluded.batched,
        cost = p.cost + excluded.cost, saved = p.saved + excluded.saved,
        tokens_in = p.tokens_in + excluded.tokens_in,
        tokens_out = p.tokens_out + excluded.tokens_out, seconds = p.seconds + excluded.seconds)
SELECT count(*) FROM gone
""")


class OldWordsSettings(BaseSettings):
    """How long a text is kept after somebody last asked for it, where its prompt does not say."""

    model_config = SettingsConfigDict(env_prefix="DRIPFLEET_", frozen=True)

    words_keep_days: int = Field(180, ge=1, le=36_500, description="unless the prompt has `keep`")


def prune(database: Database, settings: OldWordsSettings, batch: int = BATCH) -> int:
    """Delete what is old, a transaction a batch; returns how many texts."""
    total = 0
    while True:
        with database.transaction() as connection:
            values = {"days": settings.words_keep_days, "n": batch}
            gone = int(connection.execute(PRUNE, values).scalar_one())
        total += gone
        if gone < batch:
            return total
