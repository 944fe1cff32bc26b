"""How a segment file becomes a `SegmentDefinition`, and in which order segments ask for each other.

::

    key: lapsed
    title: Bought before, and not for 90 days
    when: "count('purchase') >= 1 and count('purchase', within='90d') == 0"
    refresh: 1h                       # or a cron expression, in `zone`

Structure is judged here; whether the topics and segments it names exist is judged where they stand
(``tasks.audience.segment_book``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path as FilePath
from typing import Final

from ruamel.yaml.nodes import MappingNode

from schedules.conditions import read_expression
from schedules.durations import parse_duration
from schedules.expression import Expression
from schedules.findings import DefinitionError, Finding, Located
from schedules.fires import fires, parse_cron
from schedules.localtime import is_zone, zones
from schedules.reading import SLUG, Report, Table, compose, suggest

LARGEST_FILE: Final = 100_000
HOURLY: Final = "1h"
SHORTEST: Final = timedelta(minutes=1)
_KEYS: Final = ("key", "title", "description", "when", "refresh", "zone")
_WORDS: Final = frozenset({"true", "false", "null"})


@dataclass(frozen=True, slots=True)
class SegmentDefinition:
    """A named expression. `refresh`: an interval (``1h``), or a cron expression in `zone`."""

    key: str
    title: str
    when: Expression
    refresh: str = HOURLY
    zone: str = "UTC"
    description: str | None = None


@dataclass(frozen=True, slots=True)
class LoadedSegment:
    """A segment, and where in its file everything stands."""

    segment: SegmentDefinition
    located: Located


def read(path: str | os.PathLike[str]) -> LoadedSegment:
    """Read a segment file.

    Raises:
        DefinitionError: the file cannot be read or used; carries every finding.
    """
    name = os.fspath(path)
    try:
        with FilePath(path).open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
        text = raw.decode("utf-8-sig")
    except OSError as error:
        why = f"the file cannot be read ({error.strerror}): expected a segment; check the path"
        raise DefinitionError([Finding(name, 1, 1, why)]) from error
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        why = "the file is not UTF-8: expected UTF-8 text; save it as that"
        raise DefinitionError([Finding(name, line, 1, why)]) from error
    if len(raw) > LARGEST_FILE:
        why = f"the file is larger than {LARGEST_FILE} bytes: expected a segment; shorten it"
        raise DefinitionError([Finding(name, 1, 1, why)])
    return reads(text, name)


def reads(text: str, name: str) -> LoadedSegment:
    """Read a segment from ``text``; ``name`` stands for the file in findings. Raises as `read`."""
    report = Report(Located(name))
    root = compose(text, name)
    if not isinstance(root, MappingNode):
        report.add(root, "the file is no mapping: expected 'key: …' at the top; start with that")
        raise DefinitionError(report.findings)
    top = Table(report, (), "the segment", root)
    top.only(_KEYS)
    key = top.slug("key", required=True, reserved=tuple(_WORDS))
    title = top.text("title", "one line of text", _line, required=True)
    description = top.text("description", "some text", str)
    when = read_expression(top, "when")
    refresh = top.text("refresh", 'an interval such as 1h, or cron: "0 6 * * *"', parse_refresh)
    zone = top.text("zone", "an IANA time zone such as Europe/Berlin", _zone)
    if key is not None and when is not None and key in when.needs.memberships:
        report.add_at(
            ("when",), f"segment {key!r} asks for itself: expected another one; remove it"
        )
    if report.findings or key is None or title is None or when is None:
        raise DefinitionError(report.findings)
    made = SegmentDefinition(key, title, when, refresh or HOURLY, zone or "UTC", description)
    return LoadedSegment(made, report.located)


def parse_refresh(text: str) -> str:
    """Return an interval as it is written, or a cron expression in its one form.

    Raises:
        ValueError: neither, or an interval of less than a minute.
    """
    if len(text.split()) > 1:
        return parse_cron(text)
    if parse_duration(text) < SHORTEST:
        raise ValueError(f"{text!r} is too short: expected at least 1m; write a longer interval")
    return text


def next_refresh(refresh: str, zone: str, after: datetime) -> datetime:
    """When a segment that was evaluated at the instant `after` is due again."""
    if " " in refresh:
        for fire in fires(refresh, zone, after):
            return fire.at
    return after + (timedelta(days=1) if " " in refresh else parse_duration(refresh))


def as_condition(text: str) -> str:
    """Return a condition as it is; the bare key of a segment as the condition to be in it."""
    text = text.strip()
    if text not in _WORDS and re.fullmatch(SLUG, text, re.ASCII):
        return f"in_segment('{text}')"
    return text


def in_order(asks: Mapping[str, Iterable[str]]) -> list[str]:
    """Return segments so that each stands behind those that it asks for.

    Args:
        asks: key → the segments that its condition names; one that is no key is left out.

    Raises:
        ValueError: they go round in a circle; the whole chain is named.
    """
    done: dict[str, None] = {}

    def visit(key: str, chain: tuple[str, ...]) -> None:
        if key in chain:
            circle = " → ".join(repr(each) for each in (*chain[chain.index(key) :], key))
            raise ValueError(f"segments ask for each other in a circle: {circle}; break it")
        if key in done or key not in asks:
            return
        for asked in sorted(asks[key]):
            visit(asked, (*chain, key))
        done[key] = None

    for key in sorted(asks):
        visit(key, ())
    return list(done)


def _line(text: str) -> str:
    if not text.strip() or len(text) > 200 or not text.isprintable():
        raise ValueError
    return text


def _zone(text: str) -> str:
    if not is_zone(text):
        move = suggest(text, zones()) or "write a name such as Europe/Berlin"
        raise ValueError(f"{text[:64]!r} is no time zone: expected an IANA name; {move}")
    return text
