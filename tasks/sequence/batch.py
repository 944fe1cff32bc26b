"""Due enrollments that are planned together: what they ask for, and what is to be written of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from typing import Any

import structlog
from sqlalchemy import Connection

from schedules.definition import Sequence, UpdateStep
from schedules.expression.evaluate import Known
from tasks.moves import plan as moves
from tasks.moves import update
from tasks.sequence import known, outbox, taken, trials, waited, words_at_hand
from tasks.sequence.planned import Assigned, Words
from tasks.sequence.slots import Slots

FAULT_PAUSE = dt.timedelta(minutes=5)

log = structlog.get_logger()


class Batch:
    """Due enrollments with what they ask for, and what is to be written of them.

    Args:
        connection: of the transaction that holds the enrollments.
        definitions: by enrollment; a fault is put off at once.
        rows: as `DUE` gave them.
    """

    def __init__(
        self,
        connection: Connection,
        definitions: Mapping[int, Sequence | ValueError],
        rows: Seq[Any],
    ) -> None:
        self.messages: list[moves.NewMessage] = []
        self.resting: list[moves.Resting] = []
        self.updates: list[update.SubscriberUpdate] = []
        self.calls: list[outbox.NewCall] = []
        self.assigned: list[tuple[Any, Assigned]] = []
        self.sequences: dict[int, Sequence] = {}
        for row in rows:
            found = definitions[row.id]
            if isinstance(found, Sequence):
                self.sequences[row.id] = found
            else:
                self.fault(row, found)
        # In this order: what an update reads is read under the lock that it is written under.
        self.busy = self._hold(connection, rows)
        asked = [
            (row.subscriber_id, sequence.needs)
            for row in rows
            if (sequence := self.sequences.get(row.id)) is not None and sequence.needs
        ]
        self.known: dict[int, Known] = {}
        if asked:
            self.known = known.known_of(connection, asked, rows[-1].now)
        self.happened = known.happened(connection, self.sequences.items())
        self.words = words_at_hand.at_hand(connection, self.sequences.items())
        self.worded: list[tuple[int, str, str, Words]] = []
        self.pauses = waited.pauses(connection, self.sequences.values())
        self.awaited = waited.awaited(connection, self.sequences.items())
        self.trials = trials.standings(connection, rows, self.sequences)
        free = (row for row in rows if row.id not in self.busy and row.id in self.sequences)
        self.slots = Slots(connection, self.sequences.values())
        self.taken = taken.taken(connection, ((row, self.sequences[row.id]) for row in free))

    def fault(self, row: Any, fault: ValueError) -> None:
        """Put off a row, or all of a stored version, that makes no sense: others go on."""
        log.error("enrollment_not_planned", enrollment=row.id, why=str(fault))
        decision = ("put_off", row.step_id, "definition_fault", {"why": str(fault)})
        self.resting.append(put_off(row, FAULT_PAUSE, decision))

    def _hold(self, connection: Connection, rows: Seq[Any]) -> set[int]:
        """Lock subscribers to be updated or counted; returns the enrollments that cannot go on now.

        A subscriber is updated once a batch: the second time would reckon with what was before. Of
        several that want the last free slot of a cap, the first by `taken.in_turn` is looked at.
        """
        by_subscriber: dict[int, int] = {}
        stops: set[int] = set()
        busy: set[int] = set()
        known = [(row, self.sequences[row.id]) for row in rows if row.id in self.sequences]
        for row, sequence in taken.in_turn(known):
            updates = [step for step in sequence.steps if isinstance(step, UpdateStep)]
            if not updates and not taken.capped(sequence):
                continue
            if row.subscriber_id in by_subscriber:
                busy.add(row.id)
                continue
            by_subscriber[row.subscriber_id] = row.id
            if any(step.topics for step in updates):
                stops.add(row.subscriber_id)
        held = update.hold(connection, by_subscriber, stops)
        busy.update(by_subscriber[subscriber] for subscriber in by_subscriber.keys() - held)
        return busy


def put_off(row: Any, pause: dt.timedelta, *decisions: Any) -> moves.Resting:
    """Leave a due enrollment where it is, and look again after `pause`."""
    return moves.Resting(
        row.id,
        row.step_id,
        row.step_started_at is not None,
        due_at=row.now + pause,
        wait_rule=row.wait_rule,
        decisions=decisions,
    )
