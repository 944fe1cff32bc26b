"""The far end's word against ours: copies, strangers and losses by the ledger of a sink (W1 to W3).

The fleet may be at work meanwhile, so the order of reading matters. A mail is armed, and that is
committed, before its dot; its ledger line is written before the 250; the 250 comes before RECORD.
So what the ledger held *before* the snapshot must be accounted for in it (W1, W2), and what the
snapshot calls sent must stand in the ledger when that is read *after* it (W3).

Memory: two octets a message of this database and one chunk of the ledger, however long that is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from sqlalchemy import Connection, text

from tasks.upkeep.finding import InvariantResult, Violation

CHUNK = 20_000
PAGE = 1 << 14

# (name, promise, sentence), in the order of the results.
W1 = (
    "W1",
    "No mail was accepted twice at the far end, but in a resent doubt.",
    "The far end holds more copies of this mail than doubts explain, so a guard of delivery failed."
    " Pause the stream and read `dripfleet message show ID`.",
)
W2 = (
    "W2",
    "What the far end accepted is sent, armed or in doubt here.",
    "The far end accepted this mail and we do not know it, so it may go out again. Pause the stream"
    " before it is tried again, then settle it as sent.",
)
W3 = (
    "W3",
    "What is `sent` here arrived at the far end.",
    "We call this mail sent and the far end never had it: it is lost, or the ledger is not that of"
    " the relay in use. Compare the relay's address with the sink's.",
)

# Of mails in the ledger: who they are, and whether nothing here accounts for them.
KNOWN = text("""
SELECT m.id, m.rfc_message_id,
    m.state NOT IN ('sent', 'sent_assumed', 'in_doubt', 'armed') AND NOT EXISTS (
        SELECT 1 FROM attempt a
        WHERE a.message_id = m.id AND a.outcome IN ('accepted', 'in_doubt')) AS unaccounted
FROM message m WHERE m.rfc_message_id = ANY(CAST(:message_ids AS text[]))
""")

# How many copies a message's record explains: one, or if it was ever in doubt one a try that was
# or may have been accepted. One more where it was held because a restored database did not know.
EXPLAINED = text("""
SELECT m.id, CASE WHEN m.maybe_delivered THEN greatest(1,
        (SELECT count(*) FROM attempt a
         WHERE a.message_id = m.id AND a.outcome IN ('accepted', 'in_doubt'))
        + CASE WHEN m.state = 'armed' THEN 1 ELSE 0 END) ELSE 1 END
    + (SELECT count(*) FROM decision d
       WHERE d.subscriber_id = m.subscriber_id AND d.kind = 'quarantined'
         AND d.detail ->> 'message' = m.id::text) AS copies
FROM message m WHERE m.id = ANY(CAST(:ids AS bigint[]))
""")

NAMED = text("""
SELECT m.id, m.enrollment_id, m.subscriber_id, m.state::text AS state
FROM message m WHERE m.id = ANY(CAST(:ids AS bigint[])) ORDER BY m.id
""")

SENT = text("SELECT m.id FROM message m WHERE m.state = 'sent'")


class Ledger(Protocol):
    """What the far end says it accepted; it may grow while it is read."""

    def length(self) -> int:
        """How many whole lines it has now."""
        ...

    def message_ids(self) -> Iterator[str]:
        """The Message-ID of each line, oldest first, to what is its end by then."""
        ...


@dataclass(frozen=True, slots=True)
class SinkCounts:
    """What was compared.

    Attributes:
        lines: of the ledger, read after the snapshot.
        known: of these, mails of this database.
        foreign: of these, mails this database never made: of another one, or from before it. Not
            judged.
        copies_in_doubt: messages whose copies are explained by a doubt that was resent.
    """

    lines: int
    known: int
    foreign: int
    copies_in_doubt: int


class _Tally:
    """Counts by id up to 255, an octet each, in pages: ids are dense, mostly."""

    def __init__(self) -> None:
        self._pages: defaultdict[int, bytearray] = defaultdict(lambda: bytearray(PAGE))

    def add(self, key: int) -> None:
        page = self._pages[key // PAGE]
        page[key % PAGE] = min(page[key % PAGE] + 1, 255)

    def __getitem__(self, key: int) -> int:
        page = self._pages.get(key // PAGE)
        return page[key % PAGE] if page else 0

    def above(self, n: int) -> Iterator[int]:
        for number, page in sorted(self._pages.items()):
            if max(page) > n:
                yield from (number * PAGE + at for at, count in enumerate(page) if count > n)


def compare(
    connection: Connection, ledger: Ledger, before: int, first: int
) -> tuple[list[InvariantResult], SinkCounts]:
    """Hold the ledger against the rows.

    Args:
        connection: the snapshot.
        ledger: the far end's.
        before: its length before the snapshot was taken.
        first: how many rows each result brings.

    Returns:
        W1, W2 and W3, and what was compared.
    """
    early, ever = _Tally(), _Tally()
    strangers: set[int] = set()
    lines = known = 0
    message_ids = ledger.message_ids()
    while chunk := list(islice(message_ids, CHUNK)):
        rows = connection.execute(KNOWN, {"message_ids": list(set(chunk))})
        ours = {row.rfc_message_id: (row.id, row.unaccounted) for row in rows}
        for number, message_id in enumerate(chunk, lines):
            if message_id not in ours:
                continue
            known += 1
            key, unaccounted = ours[message_id]
            ever.add(key)
            if number < before:
                early.add(key)
                if unaccounted:
                    strangers.add(key)
        lines += len(chunk)

    copies: dict[int, int] = {}
    explained = 0
    doubles = early.above(1)
    while several := list(islice(doubles, CHUNK)):
        for row in connection.execute(EXPLAINED, {"ids": several}):
            if early[row.id] > row.copies:
                copies[row.id] = early[row.id]
            else:
                explained += 1

    sent = connection.execute(SENT, execution_options={"stream_results": True, "yield_per": CHUNK})
    lost = sorted(key for key in sent.scalars() if not ever[key])
    results = [
        _result(connection, W1, sorted(copies), first, "accepted {copies} times", copies),
        _result(connection, W2, sorted(strangers), first, "accepted there, {state} here"),
        _result(connection, W3, lost, first, "{state} here, not in the ledger"),
    ]
    return results, SinkCounts(lines, known, lines - known, explained)


def _result(
    connection: Connection,
    text_of: tuple[str, str, str],
    ids: Sequence[int],
    first: int,
    detail: str,
    copies: dict[int, int] | None = None,
) -> InvariantResult:
    name, promise, sentence = text_of
    named = connection.execute(NAMED, {"ids": list(ids[:first])}) if ids else ()
    rows = [
        Violation(
            row.id,
            row.enrollment_id,
            row.subscriber_id,
            detail.format(state=row.state, copies=(copies or {}).get(row.id)),
        )
        for row in named
    ]
    return InvariantResult(name, promise, sentence, len(ids), rows)
