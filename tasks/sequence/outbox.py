"""The outbox of webhooks: a row a call, in the transaction that plans it, until it is taken over.

The delivery of webhooks takes it over for the endpoint of that name; while there is none it waits, and
`doctor` says how many do and for how long. Their effect key is that of the step and entry, as a mail
has one: it is passed on, so that the other side can tell a second one.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from tasks.moves.effect import sequence_effect_key
from tasks.sequence.planned import Call

# An effect key that stands already is a call that was made before.
INSERT = text("""
INSERT INTO webhook_outbox (effect_key, target, payload, sequence_key, sequence_version, step_id,
    entry_no, enrollment_id, subscriber_id)
SELECT r.effect_key, r.target,
    jsonb_build_object('sequence', e.sequence_key, 'step', r.step_id, 'entry', e.entry_no,
        'subscriber', jsonb_build_object('id', s.id, 'external_id', s.external_id),
        'fields', CAST(r.fields AS jsonb), 'at', clock_timestamp()),
    e.sequence_key, e.sequence_version, r.step_id, e.entry_no, e.id, s.id
FROM unnest(CAST(:effect_keys AS bytea[]), CAST(:enrollments AS bigint[]), CAST(:steps AS text[]),
            CAST(:targets AS text[]), CAST(:fields AS text[]))
     AS r (effect_key, enrollment_id, step_id, target, fields)
JOIN enrollment e ON e.id = r.enrollment_id
JOIN subscriber s ON s.id = e.subscriber_id
ON CONFLICT (effect_key) DO NOTHING
""")
WAITING = text("""
SELECT target, count(*) AS n, extract(epoch FROM clock_timestamp() - min(created_at)) AS oldest
FROM webhook_outbox o WHERE delivered_at IS NULL
  AND NOT EXISTS (SELECT FROM webhook_endpoint e WHERE e.name = o.target)
GROUP BY target ORDER BY target
""")


@dataclass(frozen=True, slots=True)
class NewCall:
    """A call to be put into the outbox; `effect_key`: its idempotency key."""

    effect_key: bytes
    enrollment_id: int
    step_id: str
    to: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Calls to one target that nobody has delivered, and the age of the oldest."""

    target: str
    n: int
    oldest: dt.timedelta


def calls(row: Any, made: Iterable[Call]) -> list[NewCall]:
    """Return the calls of a due enrollment, with their keys."""
    return [
        NewCall(
            sequence_effect_key(row.sequence_key, row.subscriber_id, row.entry_no, each.step_id),
            row.id,
            each.step_id,
            each.to,
            each.fields,
        )
        for each in made
    ]


def write(connection: Connection, made: Sequence[NewCall]) -> None:
    """Put calls into the outbox, each once."""
    if made:
        connection.execute(
            INSERT,
            {
                "effect_keys": [each.effect_key for each in made],
                "enrollments": [each.enrollment_id for each in made],
                "steps": [each.step_id for each in made],
                "targets": [each.to for each in made],
                "fields": [json.dumps(dict(each.fields)) for each in made],
            },
        )


def waiting(connection: Connection) -> list[Waiting]:
    """Return what waits to be delivered, by target."""
    rows = connection.execute(WAITING)
    return [Waiting(row.target, row.n, dt.timedelta(seconds=float(row.oldest))) for row in rows]
