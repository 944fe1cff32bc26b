"""in_doubt → sent or failed by what the far end said later: its ledger, a bounce, an event, a click.

Evidence is always written on the attempt that it speaks of. It ends a message that waits in doubt,
was assumed sent, or was put back to be sent again; one that is armed again by then is ended by its
own reply, or by the resolver, which both ask whether an earlier copy was accepted.

Judged and moved under the same locks (enrollment before message), as what an operator does is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Connection, text

from tasks.moves.operate import Operated, Refusal, lock
from tasks.moves.statement import move

Source = Literal["sink", "dsn", "provider", "click"]
Word = Literal["arrived", "bounced"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What somebody outside says of a mail.

    Attributes:
        message: its row id, or its Message-ID with brackets.
        word: `arrived`, or `bounced`: it was taken and came back, so nobody has it.
        source: who says so. All tries of a mail share its bytes, so a click tells nothing where
            there were several.
        epoch: of which try; None where the source cannot know it.
        note: one line, kept with the attempt.
    """

    message: int | str
    word: Word
    source: Source
    epoch: int | None = None
    note: str = ""

    def __str__(self) -> str:
        return f"{self.source}: {self.word}" + (f"; {self.note}" if self.note else "")


FIND = text("""
SELECT r.n, m.id
FROM unnest(CAST(:ids AS bigint[]), CAST(:message_ids AS text[])) WITH ORDINALITY
     AS r (id, message_id, n)
JOIN message m ON m.id = r.id OR (r.id IS NULL AND m.rfc_message_id = r.message_id)
""")

# Whether a copy of another try may be out, so that a bounce of this one does not end the message.
OTHERS = """EXISTS (
        SELECT 1 FROM attempt o WHERE o.message_id = m.id AND o.epoch IS DISTINCT FROM a.epoch
          AND (o.outcome = 'accepted' OR (o.outcome = 'in_doubt' AND o.evidence IS NULL)))"""

# `a` is the try that is spoken of: the one named, else the latest doubted one. Quarantined mail has
# no doubted one that we know of: a restored dump does not hold it.
JUDGE = text(f"""
SELECT r.n, m.id, m.state::text AS state, a.epoch,
    CASE WHEN m.id IS NULL THEN 'unknown'
        WHEN r.click AND a.tries + CAST(m.state = 'armed' AS integer) > 1 THEN 'several_tries'
        WHEN m.state = 'in_doubt' AND a.ever = 0 AND (r.epoch IS NULL OR a.tries = 0) THEN NULL
        WHEN m.state = 'armed' AND coalesce(r.epoch, m.epoch) = m.epoch THEN 'in_flight'
        WHEN a.tries = 0 THEN 'not_tried'
        WHEN a.doubts = 0 THEN 'answered'
        WHEN a.doubts > 1 AND r.word = 'bounced' THEN 'several_tries' END AS refusal,
    CASE r.word WHEN 'arrived'
         THEN m.state IN ('in_doubt', 'sent_assumed', 'scheduled', 'working')
         ELSE m.state IN ('in_doubt', 'sent_assumed') AND NOT {OTHERS} END AS ends
FROM unnest(CAST(:ns AS integer[]), CAST(:ids AS bigint[]), CAST(:epochs AS integer[]),
            CAST(:words AS text[]), CAST(:clicks AS boolean[])) AS r (n, id, epoch, word, click)
LEFT JOIN message m ON m.id = r.id
LEFT JOIN LATERAL (
    SELECT count(*) FILTER (WHERE y.meant) AS tries,
        count(*) FILTER (WHERE y.meant AND y.outcome = 'in_doubt') AS doubts,
        max(y.epoch) FILTER (WHERE y.meant AND y.outcome = 'in_doubt') AS epoch,
        count(*) FILTER (WHERE y.outcome = 'in_doubt') AS ever
    FROM (SELECT x.epoch, x.outcome, (r.click OR r.epoch IS NULL OR x.epoch = r.epoch) AS meant
          FROM attempt x WHERE x.message_id = m.id) y) a ON true
ORDER BY r.n
""")

_TARGET = """
    SELECT r.id, r.epoch, r.said, r.ends, m.enrollment_id, m.subscriber_id, m.sequence_key, m.step_id
    FROM unnest(CAST(:ids AS bigint[]), CAST(:epochs AS integer[]), CAST(:said AS text[]),
                CAST(:ends AS boolean[])) AS r (id, epoch, said, ends)
    JOIN message m ON m.id = r.id"""
_LOGGED = """
logged AS (
    INSERT INTO decision (subscriber_id, sequence_key, enrollment_id, step_id, kind, reason, detail)
    SELECT t.subscriber_id, t.sequence_key, t.enrollment_id, t.step_id, 'evident', '{0}',
           jsonb_build_object('message', t.id, 'because', t.said)
    FROM target t)"""
_ENDS = "EXISTS (SELECT 1 FROM target t WHERE t.id = m.id AND t.ends)"

MOVE: Final = {
    "arrived": text(
        move(
            _TARGET,
            f"{_ENDS} AND m.state IN ('in_doubt', 'sent_assumed', 'scheduled', 'working')",
            """
        state = 'sent', owner = NULL, watch_at = NULL, run_at = NULL, parked_from = NULL,
        terminal_at = coalesce(m.terminal_at, clock_timestamp()), reason = 'evidence'""",
            extra=f""",
tried AS (
    UPDATE attempt a SET outcome = 'accepted', evidence = t.said, ended_at = clock_timestamp()
    FROM target t WHERE a.message_id = t.id AND a.epoch = t.epoch AND a.outcome = 'in_doubt'),
{_LOGGED.format("arrived")}""",
        )
    ),
    # The attempt stays a doubted one: the relay did take it, and a copy of it was out.
    "bounced": text(
        move(
            _TARGET,
            f"{_ENDS} AND m.state IN ('in_doubt', 'sent_assumed')",
            """
        state = 'failed', watch_at = NULL, reason = 'bounced',
        terminal_at = coalesce(m.terminal_at, clock_timestamp())""",
            extra=f""",
tried AS (
    UPDATE attempt a SET evidence = t.said
    FROM target t WHERE a.message_id = t.id AND a.epoch = t.epoch AND a.outcome = 'in_doubt'),
{_LOGGED.format("bounced")}""",
        )
    ),
}


def take_evidence(
    connection: Connection, told: Sequence[Evidence], *, dry_run: bool = False
) -> Operated:
    """Write what the far end says on its attempts, and end the messages that it settles.

    Args:
        connection: inside a transaction; its locks last until it ends.
        told: at most a few hundred; the first of several about one message counts, so that a bounce
            behind an arrival is refused as any second word is.
        dry_run: judge, and move nothing.

    Returns:
        The message ids that it was taken for, and why not for others (id 0: no such message).
    """
    found = _find(connection, told)
    first: dict[int, int] = {}
    for n, message in found.items():
        first.setdefault(message, n)
    if not dry_run:
        lock(connection, sorted(first))
    asked = [n for n in range(len(told)) if n not in found or first[found[n]] == n]
    judged = connection.execute(
        JUDGE,
        {
            "ns": asked,
            "ids": [found.get(n) for n in asked],
            "epochs": [told[n].epoch for n in asked],
            "words": [told[n].word for n in asked],
            "clicks": [told[n].source == "click" for n in asked],
        },
    ).all()
    result = Operated()
    good = []
    for row in judged:
        if row.refusal is None:
            good.append(row)
            result.done.append(row.id)
        else:
            result.refused.append(Refusal(row.id or 0, row.state, row.refusal))
    again = [found[n] for n in range(len(told)) if n in found and first[found[n]] != n]
    result.refused.extend(Refusal(message, None, "said_already") for message in again)
    for word in () if dry_run else ("arrived", "bounced"):
        rows = [row for row in good if told[row.n].word == word]
        if rows:
            connection.execute(
                MOVE[word],
                {
                    "ids": [row.id for row in rows],
                    "epochs": [row.epoch for row in rows],
                    "said": [str(told[row.n]) for row in rows],
                    "ends": [row.ends for row in rows],
                },
            )
    return result


def _find(connection: Connection, told: Sequence[Evidence]) -> dict[int, int]:
    """Place in `told` → id of the message."""
    rows = connection.execute(
        FIND,
        {
            "ids": [each.message if isinstance(each.message, int) else None for each in told],
            "message_ids": [
                each.message if isinstance(each.message, str) else None for each in told
            ],
        },
    )
    return dict(sorted((int(row.n) - 1, int(row.id)) for row in rows))
