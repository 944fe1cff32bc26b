"""What there is of a model's words when a mail is handed over; nobody waits for it here."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from typing import Any

from sqlalchemy import Connection, text

from schedules.definition import SendStep, Sequence
from schedules.locales import choose
from tasks.sequence import word_arms
from tasks.sequence.planned import Words

# A text that is merely not there yet has a reason too, while words stand back for mails that wait.
AT_HAND = text("""
SELECT a.enrollment_id, a.step_id, w.state, w.slots, w.told, w.prompt, s.locale, r.prompt AS asks,
    coalesce(p.locales, '{}') AS locales,
    coalesce(w.why, CASE WHEN y.one THEN 'yielded_to_sends' END) AS why
FROM unnest(CAST(:ids AS bigint[]), CAST(:steps AS text[]), CAST(:prompts AS text[]))
     AS r (id, step_id, prompt)
JOIN asked a ON a.enrollment_id = r.id AND a.step_id = r.step_id
JOIN wording w ON w.key = a.key
JOIN enrollment e ON e.id = a.enrollment_id JOIN subscriber s ON s.id = e.subscriber_id
LEFT JOIN prompt p ON p.name = r.prompt
LEFT JOIN word_yield y ON y.seen_at > clock_timestamp() - interval '10 seconds'
""")
USED = text("""
WITH gone AS (
    DELETE FROM asked a
    USING unnest(CAST(:ids AS bigint[]), CAST(:steps AS text[])) AS r (id, step_id)
    WHERE a.enrollment_id = r.id AND a.step_id = r.step_id)
INSERT INTO word_count AS c (sequence_key, step_id, shard, outcome, n)
SELECT r.sequence_key, r.step_id, pg_backend_pid(), r.outcome, count(*)
FROM unnest(CAST(:sequences AS text[]), CAST(:steps AS text[]), CAST(:outcomes AS text[]))
     AS r (sequence_key, step_id, outcome)
GROUP BY 1, 2, 4 ORDER BY 1, 2, 4
ON CONFLICT (sequence_key, step_id, shard, outcome) DO UPDATE SET n = c.n + excluded.n
""")


def at_hand(
    connection: Connection, asked: Iterable[tuple[int, Sequence]]
) -> dict[int, dict[str, Words]]:
    """What there is of words for enrollments, by step; only of sequences that ask for any."""
    asking = [
        (enrollment, step.id, step.personalize.prompt)
        for enrollment, sequence in asked
        for step in sequence.steps
        if isinstance(step, SendStep) and step.personalize
    ]
    if not asking:
        return {}
    ids, steps, prompts = zip(*asking, strict=True)
    values = {"ids": list(ids), "steps": list(steps), "prompts": list(prompts)}
    found: dict[int, dict[str, Words]] = {}
    for row in connection.execute(AT_HAND, values):
        found.setdefault(row.enrollment_id, {})[row.step_id] = _words(row)
    return found


def _words(row: Any) -> Words:
    if row.state != "ready":
        return Words(None, row.why or "not_ready")
    locale = choose(row.locales, row.locale)
    meant = f"{row.asks}/{locale}" if locale else row.asks
    # Of the same prompt, in another locale than theirs is by now: the mail is not in that language. An
    # edit that gave the step another prompt takes away no words.
    if row.prompt != meant and f"{row.prompt}/".startswith(f"{row.asks}/"):
        return Words(None, "other_language")
    return Words(row.slots, arms=word_arms.read(row.told))


def used(connection: Connection, mails: Seq[tuple[int, str, str, Words]]) -> None:
    """Count whose words mails were handed over with: (enrollment, sequence, step, words)."""
    if mails:
        connection.execute(
            USED,
            {
                "ids": [mail[0] for mail in mails],
                "sequences": [mail[1] for mail in mails],
                "steps": [mail[2] for mail in mails],
                "outcomes": [mail[3].reason for mail in mails],
            },
        )
