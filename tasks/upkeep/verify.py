"""The audit: what was promised, checked on a live fleet in one snapshot, without changing anything.

The invariants are queries (`tasks.upkeep.invariants`); what the far end says it accepted is held
against the rows by `tasks.upkeep.far_end`. A finding is a value, never an exception.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import Connection, text

from models.session import Database
from tasks.moves.settings import DeliverySettings
from tasks.upkeep.far_end import Ledger, SinkCounts, compare
from tasks.upkeep.finding import Invariant, InvariantResult, Violation
from tasks.upkeep.invariants import DOUBT, ENROLLMENTS, INVARIANTS, PARKED, STATES

# Of this transaction alone, as a pooler keeps no session's settings. The walks are over whole
# tables: a generic plan, or a sort of a million rows in 4 MB, would cost more than all else.
COMFORT = text("""
SELECT set_config('work_mem', '64MB', true), set_config('jit', 'off', true),
       set_config('plan_cache_mode', 'force_custom_plan', true),
       set_config('statement_timeout', '0', true)
""")


class VerifySettings(BaseSettings):
    """What still counts as in flight. In seconds; `DRIPFLEET_` and the name."""

    model_config = SettingsConfigDict(env_prefix="DRIPFLEET_", frozen=True)

    overdue_slo: float = Field(900, gt=0, description="due work later than this is stuck")
    verify_slack: float = Field(
        120, gt=0, description="for reaper and resolver, after a lease or hold is over"
    )


@dataclass(frozen=True, slots=True)
class DoubtRate:
    """I13, a stream: of `armed` messages, `doubted` were in doubt at some time.

    `in_doubt` are so now, `assumed` were settled by policy; `rate` = doubted / armed, 0 of none.
    """

    stream: str
    policy: str
    armed: int
    doubted: int
    in_doubt: int
    assumed: int
    rate: float


@dataclass(frozen=True, slots=True)
class Report:
    """What an audit found.

    Attributes:
        clean: nothing is violated.
        findings: each invariant in its order, the clean ones too.
        doubt: a line a stream.
        counted: how many messages and enrollments were looked at, and `parked_awake`: rows parked
            though their sequence runs (just resumed; forgotten, if they stay).
        states: messages by state.
        sink: what was compared with the far end; None: no ledger was given.
    """

    clean: bool
    findings: list[InvariantResult]
    doubt: list[DoubtRate]
    counted: dict[str, int]
    states: dict[str, int] = field(default_factory=dict)
    sink: SinkCounts | None = None


def verify(
    database: Database,
    delivery: DeliverySettings,
    settings: VerifySettings,
    *,
    ledger: Ledger | None = None,
    first: int = 10,
) -> Report:
    """Check every invariant in one REPEATABLE READ, READ ONLY transaction.

    Args:
        database: of a fleet that may be at work.
        delivery: the durations that the fleet runs with; others would make false alarms.
        settings: what still counts as in flight.
        ledger: what the far end accepted; adds W1 to W3.
        first: how many violating rows each finding brings.
    """
    # Before the snapshot: what the ledger says now was armed, and committed, before now.
    before = ledger.length() if ledger else 0
    values = {
        "armed_lease": delivery.armed_lease,
        "grace": delivery.reaper_grace,
        "slack": settings.verify_slack,
        "slo": settings.overdue_slo,
        "first": first,
    }
    with database.snapshot() as connection:
        connection.execute(COMFORT)
        findings = [_check(connection, invariant, values) for invariant in INVARIANTS]
        sink = None
        if ledger:
            outside, sink = compare(connection, ledger, before, first)
            findings += outside
        states = {row.state: row.n for row in connection.execute(text(STATES))}
        enrollments = connection.execute(text(ENROLLMENTS)).one()
        return Report(
            clean=not any(finding.count for finding in findings),
            findings=findings,
            doubt=[
                DoubtRate(
                    row.stream,
                    row.policy,
                    row.armed,
                    row.doubted,
                    row.in_doubt,
                    row.assumed,
                    row.doubted / row.armed if row.armed else 0.0,
                )
                for row in connection.execute(text(DOUBT))
            ],
            counted={
                "messages": sum(states.values()),
                "enrollments_active": enrollments.active,
                "enrollments_ended": enrollments.ended,
                "parked_awake": connection.execute(text(PARKED)).scalar_one(),
            },
            states=states,
            sink=sink,
        )


def _check(
    connection: Connection, invariant: Invariant, values: dict[str, float]
) -> InvariantResult:
    query = f"""
SELECT v.message_id, v.enrollment_id, v.subscriber_id, v.detail, count(*) OVER () AS n
FROM ({invariant.sql}) v ORDER BY v.message_id, v.enrollment_id, v.detail LIMIT :first"""
    rows = connection.execute(text(query), values).all()
    return InvariantResult(
        name=invariant.name,
        promise=invariant.promise,
        sentence=invariant.sentence,
        count=rows[0].n if rows else 0,
        rows=[Violation(*row[:4]) for row in rows],
    )
