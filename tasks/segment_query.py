"""An expression as one query over everybody: each fact gathered once and joined, none looked up.

`tasks.segments` asks the index for each subscriber, which is right for a few; of a million that
would be millions of probes. Here every event that is asked for is one scan of the index
`event_name_subscriber_id_occurred_at_idx`, grouped by subscriber, and scores, labels, topics and
segments are joins by hash. What it says of anybody is the same (`tests/live/test_segments.py`).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

from schedules.expression import Expression
from tasks.segments import Compiler


def segment_query(
    expression: Expression, *, now: dt.datetime | None = None
) -> tuple[str, dict[str, Any]]:
    """Return SQL of rows (subscriber_id, answer) and its parameters, for `sqlalchemy.text`.

    `answer` is true, or NULL where it cannot be decided without a score or label that is missing
    or too old; of whom the condition does not hold there is no row.

    Args:
        expression: a condition, without an event in scope.
        now: up to when events count and from when ages do; by default the statement's own time.
    """
    gathering = _Gathering(now)
    answer = gathering.condition(expression.root)
    # OFFSET 0 keeps the condition in one place: else it is computed for the row and for the filter.
    return (
        "SELECT a.subscriber_id, a.answer FROM (\n"
        f"    SELECT s.id AS subscriber_id, ({answer}) AS answer\n"
        f"    FROM subscriber s{gathering.joins()}\n"
        "    OFFSET 0) a\n"
        "WHERE a.answer IS NOT FALSE"
    ), gathering.parameters


@dataclass(slots=True)
class _Events:
    """What is asked of the events of one name: columns of one scan; `since`: the longest span."""

    alias: str
    columns: list[str] = field(default_factory=list)
    since: dt.timedelta | None = dt.timedelta(0)


class _Gathering(Compiler):
    """Facts as columns of joined tables."""

    def __init__(self, now: dt.datetime | None) -> None:
        super().__init__(now)
        self._of_events: dict[str, _Events] = {}
        self._columns: dict[tuple[Any, ...], str] = {}
        self._joined: list[str] = []

    def joins(self) -> str:
        """The joins behind `FROM subscriber s`."""
        return "".join(
            f"\n    {join}" for join in (*map(self._scan, self._of_events), *self._joined)
        )

    def fact_count(self, event: str, within: dt.timedelta | None) -> str:
        counted = "count(*)"
        if within is not None:
            counted += f" FILTER (WHERE x.occurred_at > {self._ago(within)})"
        return f"coalesce({self._column(event, within, counted)}, 0)"

    def fact_last(self, event: str) -> str:
        return self._column(event, None, "max(x.occurred_at)")

    def fact_score(self, name: str, max_age: dt.timedelta) -> str:
        return self._join("score", "value", name, max_age)

    def fact_label(self, segment: str) -> str:
        return self._join("segment_member", "label", segment)

    def fact_opted_in(self, topic: str) -> str:
        return self._join("consent", "opted_in", topic)

    def fact_in_segment(self, segment: str) -> str:
        return f"({self._join('segment_present', 'subscriber_id', segment)} IS NOT NULL)"

    def _column(self, event: str, within: dt.timedelta | None, what: str) -> str:
        known = (event, what.partition(" ")[0], within)
        if known not in self._columns:
            events = self._of_events.setdefault(event, _Events(f"e{len(self._of_events)}"))
            longer = None if within is None or events.since is None else max(within, events.since)
            events.since = longer
            self._columns[known] = f"{events.alias}.c{len(events.columns)}"
            events.columns.append(f"{what} AS c{len(events.columns)}")
        return self._columns[known]

    def _scan(self, event: str) -> str:
        events = self._of_events[event]
        since = "" if events.since is None else f" AND x.occurred_at > {self._ago(events.since)}"
        return (
            f"LEFT JOIN (SELECT x.subscriber_id, {', '.join(events.columns)} FROM event x"
            f" WHERE true{self._events(event)}{since} GROUP BY 1) {events.alias}"
            f" ON {events.alias}.subscriber_id = s.id"
        )

    def _join(self, table: str, column: str, *asked: Any) -> str:
        known = (table, *asked)
        if known not in self._columns:
            alias = f"j{len(self._joined)}"
            match table:
                case "score":
                    where = self._scores(*asked)
                case "segment_member":
                    where = f" AND x.run = {self._promoted(*asked)}"
                case "consent":
                    where = f" AND x.topic = {self._bind(*asked)}"
                case _:
                    where = f" AND x.segment = {self._bind(*asked)}"
            self._columns[known] = f"{alias}.{column}"
            wanted = dict.fromkeys(("subscriber_id", column))
            self._joined.append(
                f"LEFT JOIN (SELECT {', '.join(f'x.{each}' for each in wanted)} FROM {table} x"
                f" WHERE true{where}) {alias} ON {alias}.subscriber_id = s.id"
            )
        return self._columns[known]
