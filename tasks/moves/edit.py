"""What an edit of a live sequence writes: the version people go by, and where that puts them."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from tasks.moves.plan import LOG

# Whose mails somebody gets is the version they entered with, as long as versions pin their mails.
_CONTENT = """content_version = CASE
        WHEN CAST(:pinned AS boolean) THEN coalesce(e.content_version, e.sequence_version) END"""

KEEP = text(f"""
UPDATE enrollment e SET {_CONTENT}, sequence_version = :version
WHERE e.id = ANY(:ids) AND e.active
""")

# What is held stays held. A wait that goes on keeps the moment it began at.
LAND = text(f"""
UPDATE enrollment e SET {_CONTENT}, sequence_version = :version,
    step_id = r.step_id,
    step_started_at = CASE WHEN r.begun THEN e.step_started_at END,
    due_at = CASE WHEN r.end_reason IS NULL AND e.parked_from IS NOT NULL
                  THEN CAST('infinity' AS timestamptz) ELSE r.due_at END,
    parked_from = CASE WHEN r.end_reason IS NULL AND e.parked_from IS NOT NULL THEN r.due_at END,
    wait_rule = CAST(r.wait_rule AS jsonb),
    passed = CASE WHEN r.passed <> '[]'
                  THEN ARRAY(SELECT jsonb_array_elements_text(CAST(r.passed AS jsonb))) END,
    active = r.end_reason IS NULL,
    ended_at = CASE WHEN r.end_reason IS NOT NULL THEN clock_timestamp() END,
    end_reason = r.end_reason
FROM unnest(CAST(:ids AS bigint[]), CAST(:step_ids AS text[]), CAST(:begun AS boolean[]),
            CAST(:due AS timestamptz[]), CAST(:rules AS text[]), CAST(:end_reasons AS text[]),
            CAST(:passed AS text[]))
     AS r (id, step_id, begun, due_at, wait_rule, end_reason, passed)
WHERE e.id = r.id AND e.active
""")


# As those who come to a step: it has not begun, and the planner looks at once.
REOPEN = text(f"""
UPDATE enrollment e SET {_CONTENT}, sequence_version = :version, step_id = r.step_id,
    step_started_at = NULL, due_at = clock_timestamp(), parked_from = NULL, wait_rule = NULL,
    passed = CASE WHEN r.passed <> '[]'
                  THEN ARRAY(SELECT jsonb_array_elements_text(CAST(r.passed AS jsonb))) END,
    active = true, ended_at = NULL, end_reason = NULL
FROM unnest(CAST(:ids AS bigint[]), CAST(:step_ids AS text[]), CAST(:passed AS text[]))
     AS r (id, step_id, passed)
WHERE e.id = r.id AND NOT e.active AND e.end_reason = 'completed'
""")


@dataclass(frozen=True, slots=True)
class Reopened:
    """An enrollment that had completed and goes on at a step; `passed` are not run again."""

    enrollment_id: int
    step_id: str
    passed: Sequence[str]


@dataclass(frozen=True, slots=True)
class Edited:
    """An enrollment that an edit puts elsewhere, or lets leave.

    `begun`: its step goes on as it began; `due_at` None: a mail of it is live, or it ends;
    `decision` is a line of the log: kind, step, reason, detail.
    """

    enrollment_id: int
    step_id: str | None
    begun: bool
    due_at: dt.datetime | None
    wait_rule: Mapping[str, Any] | None
    end_reason: str | None
    passed: Sequence[str]
    decision: tuple[str, str | None, str, Mapping[str, Any]] | None


def write(
    connection: Connection,
    version: int,
    pinned: bool,
    kept: Sequence[int],
    edited: Sequence[Edited],
) -> int:
    """Let enrollments go by another version, in the transaction that holds their locks.

    Args:
        connection: of that transaction.
        version: that they go by now.
        pinned: it pins the mails of those who are in it.
        kept: enrollments that change nothing else.
        edited: those that do.

    Returns:
        How many rows were written.
    """
    values = {"version": version, "pinned": pinned}
    done = connection.execute(KEEP, values | {"ids": list(kept)}).rowcount if kept else 0
    if not edited:
        return done
    rules = [None if e.wait_rule is None else json.dumps(e.wait_rule) for e in edited]
    done += connection.execute(
        LAND,
        values
        | {
            "ids": [e.enrollment_id for e in edited],
            "step_ids": [e.step_id for e in edited],
            "begun": [e.begun for e in edited],
            "due": [e.due_at for e in edited],
            "rules": rules,
            "end_reasons": [e.end_reason for e in edited],
            "passed": [json.dumps(list(e.passed)) for e in edited],
        },
    ).rowcount
    lines = [(e.enrollment_id, *e.decision) for e in edited if e.decision is not None]
    if lines:
        ids, kinds, steps, reasons, details = zip(*lines, strict=True)
        connection.execute(
            LOG,
            {
                "ids": list(ids),
                "step_ids": list(steps),
                "kinds": list(kinds),
                "reasons": list(reasons),
                "details": [json.dumps(detail) for detail in details],
            },
        )
    return done


def reopen(connection: Connection, version: int, pinned: bool, reopened: Sequence[Reopened]) -> int:
    """Let enrollments go on that had completed; arguments and result are those of `write`."""
    ids, steps = [e.enrollment_id for e in reopened], [e.step_id for e in reopened]
    done = connection.execute(
        REOPEN,
        {
            "version": version,
            "pinned": pinned,
            "ids": ids,
            "step_ids": steps,
            "passed": [json.dumps(list(e.passed)) for e in reopened],
        },
    ).rowcount
    n = len(reopened)
    values = {"kinds": ["reopened"] * n, "reasons": ["edit"] * n}
    details = [json.dumps({"version": version})] * n
    connection.execute(LOG, {"ids": ids, "step_ids": steps, "details": details} | values)
    return done
