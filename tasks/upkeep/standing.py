"""Where rows stand: one message an effect, nothing stranded, stuck, miscounted or out of its turn.

I1, I4, I5, I6, I8, I9 and I12 of the invariants of delivery; how they are asked is told in
`tasks.upkeep.invariants`.
"""

from __future__ import annotations

from tasks.moves.statement import LIVE_SQL, TERMINAL_SQL
from tasks.upkeep.finding import Invariant

OF_ROWS = (
    Invariant(
        "I1",
        "Each effect (step, entry, subscriber) has one message.",
        "Two messages stand for one effect, so somebody gets the same step twice. Pause the"
        " sequence, cancel what is not yet sent, and look for the index message_effect_key_key.",
        """
SELECT m.id AS message_id, m.enrollment_id, m.subscriber_id,
    format('%s messages have its effect key', d.n) AS detail
FROM (SELECT effect_key, count(*) AS n FROM message GROUP BY 1 HAVING count(*) > 1) d
JOIN message m ON m.effect_key = d.effect_key
UNION ALL
SELECT m.id, m.enrollment_id, m.subscriber_id,
    format('%s messages are step %s of %s, entry %s', d.n, d.step_id, d.sequence_key, d.entry_no)
FROM (SELECT sequence_key, subscriber_id, entry_no, step_id, count(*) AS n
      FROM message WHERE sequence_key IS NOT NULL
      GROUP BY 1, 2, 3, 4 HAVING count(*) > 1) d
JOIN message m ON m.subscriber_id = d.subscriber_id AND m.sequence_key = d.sequence_key
    AND m.entry_no = d.entry_no AND m.step_id = d.step_id
WHERE EXISTS (SELECT 1 FROM message o
    WHERE o.subscriber_id = d.subscriber_id AND o.sequence_key = d.sequence_key
      AND o.entry_no = d.entry_no AND o.step_id = d.step_id AND o.effect_key <> m.effect_key)""",
    ),
    Invariant(
        "I4",
        "An active enrollment waits, is due, or has exactly one live message; a finished one has"
        " none left to send.",
        "An enrollment is stranded (nothing will ever move it), is moved by two things at once, or"
        " has ended and still has a mail to send. Read `dripfleet explain` of its subscriber.",
        f"""
WITH live AS MATERIALIZED (
    SELECT enrollment_id, count(*) AS n, min(id) AS id FROM message
    WHERE enrollment_id IS NOT NULL AND state IN ({LIVE_SQL}) GROUP BY 1)
SELECT l.id AS message_id, e.id AS enrollment_id, e.subscriber_id,
    CASE WHEN e.due_at IS NOT NULL
         THEN format('waits, and has %s live messages', l.n)
         WHEN l.n IS NULL THEN 'neither waits nor has a live message'
         ELSE format('has %s live messages', l.n) END AS detail
FROM enrollment e LEFT JOIN live l ON l.enrollment_id = e.id
WHERE e.active AND coalesce(l.n, 0) <> CASE WHEN e.due_at IS NULL THEN 1 ELSE 0 END
UNION ALL
-- A deferred mail comes back after its back-off, hours after the end, and is cancelled then.
SELECT m.id, m.enrollment_id, m.subscriber_id,
    format('%s, but its enrollment ended (%s)', m.state, e.end_reason)
FROM live l JOIN message m ON m.enrollment_id = l.enrollment_id AND m.state IN ('scheduled', 'working')
JOIN enrollment e ON e.id = m.enrollment_id
JOIN stream t ON t.key = m.stream
WHERE NOT e.active AND t.paused_at IS NULL
  AND greatest(e.ended_at, m.run_at, m.watch_at) < now() - make_interval(secs => :slo)""",
    ),
    Invariant(
        "I5",
        "A step is never armed before the one before it has ended.",
        "A later step of this enrollment went out while an earlier one was still open. Read"
        " `dripfleet explain` of its subscriber for the order of events.",
        """
SELECT n.id AS message_id, n.enrollment_id, n.subscriber_id,
    format('step %s was armed before an earlier step had ended', n.step_id) AS detail
FROM (SELECT id, enrollment_id, subscriber_id, step_id, armed_at, created_at,
          max(coalesce(terminal_at, 'infinity')) OVER (
              PARTITION BY enrollment_id ORDER BY id
              ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS over_at
      FROM message WHERE enrollment_id IS NOT NULL) n
-- Almost every step was made after the one before had ended; only the others look up attempts.
WHERE n.armed_at IS NOT NULL AND least(n.created_at, n.armed_at) < n.over_at
  AND least(n.armed_at, (SELECT min(a.armed_at) FROM attempt a WHERE a.message_id = n.id))
      < n.over_at""",
    ),
    Invariant(
        "I6",
        "The state of a message and its columns agree.",
        "A column says another state than `state`, so workers and reaper may pass this row by. A"
        " check constraint of table message is missing: run `dripfleet doctor`.",
        f"""
SELECT id AS message_id, enrollment_id, subscriber_id,
    format('%s, but%s%s%s%s', state,
        CASE WHEN (run_at IS NOT NULL) <> (state = 'scheduled') THEN ' run_at' END,
        CASE WHEN (watch_at IS NOT NULL) <> (state IN ('working', 'armed', 'in_doubt'))
             THEN ' watch_at' END,
        CASE WHEN (owner IS NOT NULL) <> (state IN ('working', 'armed')) THEN ' owner' END,
        CASE WHEN (terminal_at IS NOT NULL) <> (state IN ({TERMINAL_SQL}))
             THEN ' terminal_at' END) || ' does not agree' AS detail
FROM message
WHERE (run_at IS NOT NULL) <> (state = 'scheduled')
   OR (watch_at IS NOT NULL) <> (state IN ('working', 'armed', 'in_doubt'))
   OR (owner IS NOT NULL) <> (state IN ('working', 'armed'))
   OR (terminal_at IS NOT NULL) <> (state IN ({TERMINAL_SQL}))""",
    ),
    Invariant(
        "I8",
        "Nothing is stuck: no lease, doubt or due time is long over.",
        "Due work is not being done, or what nobody holds is not brought back. Look whether beat and"
        " the sequence, send and upkeep pools run: `dripfleet status`.",
        """
SELECT m.id AS message_id, m.enrollment_id, m.subscriber_id,
    format('%s since %s', w.why, m.watch_at) AS detail
FROM message m JOIN stream t ON t.key = m.stream,
LATERAL (SELECT CASE
    WHEN m.state = 'working'
     AND m.watch_at < now() - make_interval(secs => :grace + :slack)
    THEN 'its working lease is over'
    WHEN m.state = 'armed'
     AND greatest(m.watch_at, m.armed_at + make_interval(secs => :armed_lease))
         < now() - make_interval(secs => :grace + :slack)
    THEN 'its armed lease is over; its working lease ended'
    WHEN m.state = 'in_doubt' AND t.doubt_policy <> 'hold'
     AND m.watch_at < now() - make_interval(secs => :slack)
    THEN 'in doubt; its hold is over' END AS why) w
WHERE m.watch_at < now() AND w.why IS NOT NULL
UNION ALL
SELECT m.id, m.enrollment_id, m.subscriber_id, format('due since %s', m.run_at)
FROM message m JOIN stream t ON t.key = m.stream
LEFT JOIN sequence q ON q.key = m.sequence_key
WHERE m.run_at < now() - make_interval(secs => :slo) AND m.state = 'scheduled'
  AND t.paused_at IS NULL AND q.paused_at IS NULL
UNION ALL
SELECT NULL, e.id, e.subscriber_id, format('to be planned since %s', e.due_at)
FROM enrollment e JOIN sequence q ON q.key = e.sequence_key
WHERE e.due_at < now() - make_interval(secs => :slo) AND e.active AND q.paused_at IS NULL
UNION ALL
-- Waking asks for the due time that parking kept: without one nothing ever brings it back.
SELECT m.id, m.enrollment_id, m.subscriber_id, 'parked, and its due time is lost'
FROM message m WHERE m.run_at = 'infinity' AND m.parked_from IS NULL
UNION ALL
SELECT NULL, e.id, e.subscriber_id, 'parked, and its due time is lost'
FROM enrollment e WHERE e.due_at = 'infinity' AND e.parked_from IS NULL""",
    ),
    Invariant(
        "I9",
        "Nothing is armed after a suppression, an unsubscribe, an opt-out or an erasure.",
        "Somebody who had left was written to. Pause the stream, and look for the triggers"
        " suppression_stamp, consent_stamp and subscriber_stamp: `dripfleet doctor`.",
        """
SELECT m.id AS message_id, m.enrollment_id, m.subscriber_id,
    format('armed %s, %s %s', m.armed_at, x.how, x.at) AS detail
FROM (SELECT s.id, 'all' AS scope, s.stopped_at AS at, 'stopped' AS how
      FROM subscriber s WHERE s.stopped_at IS NOT NULL
      UNION ALL
      SELECT s.id, p.scope, p.at, 'suppressed'
      FROM suppression p JOIN subscriber s ON s.address_hmac = p.address_hmac) x
JOIN message m ON m.subscriber_id = x.id
JOIN stream t ON t.key = m.stream
-- `armed_at` is that of the latest try, so it tells of any.
WHERE m.armed_at > x.at AND x.scope IN ('all', t.class)
UNION ALL
-- A topic holds for marketing. A sequence whose topic was changed asked for another one then.
SELECT m.id, m.enrollment_id, m.subscriber_id,
    format('armed %s, opted out of %s %s', m.armed_at, c.topic, c.at)
FROM consent c JOIN message m ON m.subscriber_id = c.subscriber_id
JOIN stream t ON t.key = m.stream AND t.class = 'marketing'
JOIN sequence q ON q.key = m.sequence_key AND q.topic = c.topic
JOIN sequence_version v ON v.sequence_key = q.key AND v.version = m.sequence_version
WHERE NOT c.opted_in AND m.armed_at > c.at
  AND coalesce(v.definition ->> 'topic', c.topic) = c.topic""",
    ),
    Invariant(
        "I12",
        "The counters equal the rows that they count.",
        "The figures that are shown are not those of the rows; delivery itself is not touched. A"
        " move was made past `tasks.moves`, or counter rows were edited: recount this step.",
        f"""
SELECT NULL::bigint AS message_id, NULL::bigint AS enrollment_id, NULL::bigint AS subscriber_id,
    format('%s / %s, %s: counted %s, rows %s', k, s, o, coalesce(told.n, 0), coalesce(stand.n, 0))
        AS detail
FROM (SELECT coalesce(sequence_key, '') AS k, coalesce(step_id, '') AS s, state AS o, count(*) AS n
      FROM message WHERE state IN ({TERMINAL_SQL}) GROUP BY 1, 2, 3) stand
FULL JOIN (SELECT sequence_key AS k, step_id AS s, outcome AS o, sum(n) AS n
           FROM counter GROUP BY 1, 2, 3) told USING (k, s, o)
WHERE coalesce(told.n, 0) <> coalesce(stand.n, 0)""",
    ),
)
