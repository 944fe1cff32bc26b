"""The invariants of delivery as SQL, each naming the rows that break it.

Every query selects (message_id, enrollment_id, subscriber_id, detail), any of the ids NULL where it
has no meaning. They run in one snapshot of a live fleet, so each allows for work in flight: `now()`
is the start of that transaction, from which on nothing that they see has changed. Set-based, one
walk over a table each; nothing newer than Postgres 15.

Parameters, in seconds: `armed_lease`, `grace`, `slack` (how long reaper and resolver may take),
`slo` (how late due work may be).
"""

from __future__ import annotations

from tasks.upkeep.capped import OF_CAPS
from tasks.upkeep.standing import OF_ROWS
from tasks.upkeep.tries import OF_TRIES

INVARIANTS = tuple(sorted((*OF_ROWS, *OF_TRIES, *OF_CAPS), key=lambda each: int(each.name[1:])))

# I13 is reported, not judged: how many of the mails that were put on the wire were ever in doubt.
DOUBT = """
SELECT t.key AS stream, t.doubt_policy AS policy, count(m.id) AS armed,
    count(m.id) FILTER (WHERE m.maybe_delivered) AS doubted,
    count(m.id) FILTER (WHERE m.state = 'in_doubt') AS in_doubt,
    count(m.id) FILTER (WHERE m.state = 'sent_assumed') AS assumed
FROM stream t LEFT JOIN message m
    ON m.stream = t.key AND (m.armed_at IS NOT NULL OR m.maybe_delivered)
GROUP BY 1, 2 ORDER BY 1
"""

STATES = "SELECT state::text AS state, count(*) AS n FROM message GROUP BY state ORDER BY state"

ENROLLMENTS = """
SELECT count(*) FILTER (WHERE e.active) AS active, count(*) FILTER (WHERE NOT e.active) AS ended
FROM enrollment e
"""
# Parked, and its sequence runs. Just resumed, or forgotten? One look cannot tell: counted, not judged.
PARKED = """
SELECT (SELECT count(*) FROM message m JOIN sequence q ON q.key = m.sequence_key
        WHERE m.parked_from IS NOT NULL AND q.paused_at IS NULL)
     + (SELECT count(*) FROM enrollment e JOIN sequence q ON q.key = e.sequence_key
        WHERE e.parked_from IS NOT NULL AND q.paused_at IS NULL)
"""
