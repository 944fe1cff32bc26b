"""Experiments that wait for somebody's word: an arm that was stopped, or a time that is over."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from sqlalchemy import Connection, text

from tasks.sequence.experiments import every
from tasks.sequence.trials import key_of
from workers.doctor.finding import Finding, fine, warning

# What is ended is over; of the others: arms that a guardrail stopped, and when the first came in.
STANDING = text("""
SELECT clock_timestamp() AS now,
    (SELECT min(a.at) FROM experiment_assignment a WHERE a.experiment_key = :key) AS since,
    ARRAY(SELECT r.arm || ' (' || replace(r.reason, '_', ' ') || ')' FROM experiment_ruling r
          WHERE r.experiment_key = :key AND r.kind = 'stopped' AND r.ruled_by = 'guardrail'
            AND r.lifted_at IS NULL ORDER BY r.arm) AS stopped,
    EXISTS (SELECT FROM experiment_ruling r WHERE r.experiment_key = :key AND r.kind = 'chosen'
              AND r.lifted_at IS NULL) AS ended
""")


def standing(connection: Connection) -> Iterator[Finding]:
    """Every experiment of a current version; mails go on meanwhile, so none of it is an error."""
    bad = False
    for sequence, step, current in every(connection):
        key = key_of(sequence.key, step.id)
        row = connection.execute(STANDING, {"key": key}).one()
        if row.ended or not current:
            continue
        if row.stopped:
            bad = True
            yield warning(
                f"experiment {key}",
                f"the guardrail stopped {', '.join(row.stopped)}; people go on without it",
                f"`dripfleet experiment report {key}` says why; take the arm out of the file, or"
                " `experiment resume`",
            )
        days = step.stop.max_days
        if row.since and days and row.now - row.since >= dt.timedelta(days=days):
            bad = True
            yield warning(
                f"experiment {key}",
                f"its {days} days are over, and people are divided still",
                f"`dripfleet experiment report {key}`, then `experiment promote` or `stop`",
            )
    if not bad:
        yield fine("experiments", "none waits for a word")
