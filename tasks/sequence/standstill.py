"""Declared pauses of a simulation: spans in which a sequence, or all mail of a stream, stands still."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from schedules.windows import Span

Spans: TypeAlias = tuple[Span, ...]
"""Half-open, in order, none touching another."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause that begins `after` the start of a simulation and takes `length`.

    Attributes:
        sequence: key of the one that it stops; None: the stream of that name.
        stream: as ``dripfleet stream pause`` has it: people go on, mails keep their places.
    """

    after: timedelta
    length: timedelta
    sequence: str | None = None
    stream: str | None = None


def spans_of(pauses: Iterable[Pause], start: datetime) -> Spans:
    """Return when it stands still; pauses that touch are one."""
    found: list[Span] = []
    for pause in sorted(pauses, key=lambda each: each.after):
        begin = start + pause.after
        end = begin + pause.length
        if found and begin <= found[-1][1]:
            begin, last = found.pop()
            end = max(end, last)
        found.append((begin, end))
    return tuple(found)


def holding(spans: Spans, at: datetime) -> Span | None:
    """Return the span that an instant lies in."""
    return next((span for span in spans if span[0] <= at < span[1]), None)


def resumed(spans: Spans, at: datetime) -> datetime:
    """Return the first instant from `at` on that no span holds."""
    span = holding(spans, at)
    return at if span is None else span[1]


def goes_at(
    ready: datetime,
    made_at: datetime,
    expires_at: datetime,
    allowed: Spans,
    sequence: Spans,
    stream: Spans,
    *,
    freeze: bool,
) -> datetime | None:
    """Return when a mail goes, as ARM has it: within its spans, and while nothing stands still.

    Args:
        ready: when a worker has it.
        made_at: when it was handed off.
        expires_at: it goes before that, or not at all.
        allowed: the spans of the message.
        sequence: when its sequence stands still.
        stream: when its stream does.
        freeze: a pause of the sequence does not count against `expires_at`.
    """
    at = ready
    while True:
        open_ = next((max(at, begin) for begin, end in allowed if at < end), None)
        if open_ is None:
            return None
        at = open_
        own, other = holding(sequence, at), holding(stream, at)
        if own is not None:
            if freeze:
                expires_at += own[1] - max(own[0], made_at)
            at = own[1]
        elif other is not None:
            at = other[1]
        else:
            return at if at < expires_at else None
