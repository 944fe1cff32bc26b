"""What words cost and what they were good for: by sequence, from the rows and counters that stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, text

from tasks.personalize.money import TODAY
from tasks.personalize.prices import MILLION

# What stands, and what is no longer kept (`word_past`).
TEXTS = text("""
SELECT t.sequence_key, sum(t.asks)::bigint AS asks, sum(t.texts)::bigint AS texts,
    sum(t.ready)::bigint AS ready, sum(t.failed)::bigint AS failed,
    sum(t.wanted)::bigint AS wanted, sum(t.calls)::bigint AS calls,
    sum(t.batched)::bigint AS batched, sum(t.cost)::bigint AS cost, sum(t.saved)::bigint AS saved,
    sum(t.tokens_in)::bigint AS tokens_in, sum(t.tokens_out)::bigint AS tokens_out,
    sum(t.seconds)::float8 AS seconds
FROM (
    SELECT w.sequence_key, w.asks, 1 AS texts, CAST(w.state = 'ready' AS integer) AS ready,
        CAST(w.state = 'failed' AS integer) AS failed, CAST(w.state = 'wanted' AS integer) AS wanted,
        w.calls, w.batched, w.cost, w.saved, w.tokens_in, w.tokens_out, w.seconds FROM wording w
    UNION ALL
    SELECT p.sequence_key, p.asks, p.texts, p.ready, p.failed, 0, p.calls, p.batched, p.cost,
        p.saved, p.tokens_in, p.tokens_out, p.seconds FROM word_past p) t
WHERE CAST(:key AS text) IS NULL OR t.sequence_key = :key
GROUP BY 1 ORDER BY 1
""")
ENDS = text("""
SELECT c.sequence_key, c.outcome, sum(c.n)::bigint AS n FROM word_count c
WHERE CAST(:key AS text) IS NULL OR c.sequence_key = :key
GROUP BY 1, 2 ORDER BY 1, 2
""")
SPENT = text("SELECT scope, reserved, settled FROM model_spend WHERE day = CAST(:day AS date)")


@dataclass(frozen=True, slots=True)
class Line:
    """The words of one sequence.

    Attributes:
        asks: mails that words were asked for.
        texts: different ones among those; `ready`, `failed` and `wanted` of them.
        calls: of the model, those among them whose answer was refused; `batched` of them were lines
            of a batch, and cost `saved` less than they would have alone.
        hit_rate: the share of asks that needed no call; None before the first.
        cost: in the currency of the price table; `cost_per_thousand` mails that were asked for.
        seconds: of a call that was no line of a batch, their mean; None before the first.
        mails: handed over with a model's words.
        own_words: handed over with the template's own, by reason.
    """

    sequence: str
    asks: int
    texts: int
    ready: int
    failed: int
    wanted: int
    calls: int
    batched: int
    hit_rate: float | None
    cost: float
    saved: float
    cost_per_thousand: float | None
    tokens_in: int
    tokens_out: int
    seconds: float | None
    mails: int
    own_words: Mapping[str, int] = field(default_factory=dict)


def report(connection: Connection, key: str | None = None) -> list[Line]:
    """A line a sequence that asked for words; `key` for one alone."""
    handed_over: dict[str, dict[str, int]] = {}
    for row in connection.execute(ENDS, {"key": key}):
        handed_over.setdefault(row.sequence_key, {})[row.outcome] = row.n
    made = []
    for row in connection.execute(TEXTS, {"key": key}):
        counted = dict(handed_over.get(row.sequence_key, {}))
        mails = counted.pop("model", 0)
        cost = row.cost / MILLION
        made.append(
            Line(
                row.sequence_key,
                row.asks,
                row.texts,
                row.ready,
                row.failed,
                row.wanted,
                row.calls,
                row.batched,
                # A text that is refused and asked for twice counts twice against it.
                max(row.asks - row.calls, 0) / row.asks if row.asks else None,
                cost,
                row.saved / MILLION,
                1000 * cost / row.asks if row.asks else None,
                row.tokens_in,
                row.tokens_out,
                row.seconds / alone if (alone := row.calls - row.batched) else None,
                mails,
                counted,
            )
        )
    return made


def ends(connection: Connection) -> dict[tuple[str, str], int]:
    """(sequence, outcome) → mails handed over, ever; ``model``, or why with the template's own words."""
    rows = connection.execute(ENDS, {"key": None})
    return {(row.sequence_key, row.outcome): row.n for row in rows}


def spent_today(connection: Connection) -> dict[str, tuple[float, float]]:
    """Scope → (reserved, settled) of today, a day of UTC, in the currency of the price table."""
    day = connection.execute(TODAY).scalar_one()
    rows = connection.execute(SPENT, {"day": day})
    return {row.scope: (row.reserved / MILLION, row.settled / MILLION) for row in rows}
