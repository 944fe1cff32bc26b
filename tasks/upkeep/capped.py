"""I14: nobody was handed more marketing mails within the window of a cap than it allows.

Judged by the rows alone, so of what they cannot tell nothing is said. A message carries the version that
its gates asked, and a version never changes: whatever its sequence says today, this is the cap that
held. Counted are mails of capped sequences only: those were made one after the other, under the
subscriber's lock; an uncapped one may have been made in the same moment and be seen by neither. A
sequence whose topic was ever another one is left out where the cap is of a topic, and so is a mail
that an operator tried again: it takes its slot back without asking.
"""

from __future__ import annotations

from tasks.moves.statement import LIVE_SQL
from tasks.upkeep.finding import Invariant

# As the gate counted when `m` was made: what was live then, or had gone within the window.
COUNTED = """o.subscriber_id = m.subscriber_id AND o.created_at < m.created_at
  AND CASE m.scope WHEN 'all' THEN true WHEN 'sequence' THEN o.sequence_key = m.sequence_key
                   ELSE o.topic = m.topic END
  AND (o.terminal_at IS NULL OR o.terminal_at > m.created_at
       OR (o.state IN ('sent', 'sent_assumed') AND o.went_at > m.created_at - m.per))"""

OF_CAPS = (
    Invariant(
        "I14",
        "Nobody was handed more mails within the window of a frequency cap than it allows.",
        "Somebody was written to more often than a cap says: two planners counted past each other,"
        " or a message was made by another hand. Read `dripfleet explain` of its subscriber.",
        f"""
WITH ruled AS MATERIALIZED (
    SELECT v.sequence_key, v.version, c.cap ->> 'scope' AS scope,
        CAST(c.cap ->> 'max' AS integer) AS most, c.cap ->> 'per' AS span,
        make_interval(secs => CAST(left(c.cap ->> 'per', -1) AS float8)
            * CASE right(c.cap ->> 'per', 1) WHEN 'w' THEN 604800 WHEN 'd' THEN 86400
                                             WHEN 'h' THEN 3600 WHEN 'm' THEN 60 ELSE 1 END) AS per,
        (SELECT min(x.definition ->> 'topic') FROM sequence_version x
         WHERE x.sequence_key = v.sequence_key
         HAVING count(DISTINCT coalesce(x.definition ->> 'topic', '')) = 1) AS topic
    FROM sequence_version v, LATERAL (SELECT v.definition #> '{{limits,cap}}' AS cap) c
    WHERE c.cap IS NOT NULL),
held AS MATERIALIZED (
    SELECT m.id, m.enrollment_id, m.subscriber_id, m.sequence_key, m.state, m.created_at,
        m.terminal_at, coalesce(m.armed_at, m.terminal_at) AS went_at,
        r.scope, r.most, r.span, r.per, r.topic
    FROM message m JOIN ruled r ON r.sequence_key = m.sequence_key AND r.version = m.sequence_version
    WHERE m.state NOT IN ('capped', 'held_out', 'late')),
-- Who was mailed a hundred times has ten thousand pairs of mails: so slots taken and given back are
-- counted along time, once a window that some cap has, and only what is too many is looked at in pairs.
windows AS MATERIALIZED (
    SELECT row_number() OVER () AS n, d.* FROM (
        SELECT DISTINCT scope, per, CASE scope WHEN 'all' THEN '' WHEN 'sequence' THEN sequence_key
                                               ELSE topic END AS place FROM ruled) d),
moments AS (
    SELECT w.n AS window_no, h.subscriber_id, x.at, x.step, h.id,
        CASE WHEN h.scope = w.scope AND h.per = w.per
              AND h.state IN ({LIVE_SQL}, 'sent', 'sent_assumed') THEN x.step * h.most END AS most
    FROM windows w JOIN held h ON w.place = CASE w.scope WHEN 'all' THEN ''
        WHEN 'sequence' THEN h.sequence_key ELSE h.topic END,
    LATERAL (VALUES (h.created_at, 1), (CASE WHEN h.state IN ('sent', 'sent_assumed')
        THEN greatest(h.terminal_at, h.went_at + w.per) ELSE h.terminal_at END, -1)) x (at, step)
    WHERE x.at IS NOT NULL),
crowded AS MATERIALIZED (
    SELECT id FROM (
        SELECT id, most, sum(step) OVER (PARTITION BY window_no, subscriber_id ORDER BY at, step
                                         ROWS UNBOUNDED PRECEDING) AS n FROM moments) s
    WHERE most > 0 AND n > most)
SELECT m.id AS message_id, m.enrollment_id, m.subscriber_id,
    format('made while %s others counted, at most %s in %s (%s)', count(*), m.most, m.span, m.scope)
        AS detail
FROM crowded c JOIN held m ON m.id = c.id JOIN held o ON {COUNTED}
WHERE NOT EXISTS (
    SELECT 1 FROM decision d WHERE d.subscriber_id = o.subscriber_id AND d.kind = 'retried'
      AND CAST(d.detail ->> 'message' AS bigint) = o.id)
GROUP BY m.id, m.enrollment_id, m.subscriber_id, m.most, m.span, m.scope
HAVING count(*) >= m.most""",
    ),
)
