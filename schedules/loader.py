"""How a sequence file becomes a `Sequence`, or the list of everything that is wrong with it.

Structure is judged here: keys, types, durations, successors, reachability, cycles. What needs the
rest of the house (does the template exist, does the topic) is judged by ``tasks.sequence.validate``
with the places that `read` returns beside the sequence.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Final

from ruamel.yaml.nodes import MappingNode

from schedules.definition import (
    CatchUp,
    Sequence,
    StreamClass,
    Timezone,
    WaitStep,
)
from schedules.door import read_entry
from schedules.durations import parse_duration
from schedules.exits import read_exits
from schedules.findings import DefinitionError, Finding, Located
from schedules.fires import CatchUp as Fires
from schedules.limiting import judge_late, read_limits, read_pause
from schedules.localtime import is_zone, zones
from schedules.measuring import read_goal, read_holdout
from schedules.publishing import read_publish
from schedules.reading import Report, Shape, Table, compose, suggest
from schedules.steps import read_lateness, read_steps
from schedules.waits import DURATION

__all__ = ["DefinitionError", "Finding", "Loaded", "Located", "load", "loads", "read", "reads"]

LARGEST_FILE: Final = 1_000_000
"""Bytes; no sequence written by people comes near it."""

_KEYS: Final = (
    "key", "title", "class", "topic", "priority", "timezone", "entry", "catch_up", "exit", "goal",
    "holdout", "limits", "pause", "publish", "steps",
)  # fmt: skip
_FIRES: Final[dict[str, Fires]] = {"latest": "latest", "all": "all", "skip": "skip"}
_CLASSES: Final[dict[str, StreamClass]] = {
    "marketing": "marketing",
    "transactional": "transactional",
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A sequence, and where in its file everything stands."""

    sequence: Sequence
    located: Located


def load(path: str | os.PathLike[str]) -> Sequence:
    """Read a sequence file.

    Raises:
        DefinitionError: the file cannot be read or used; carries every finding.
    """
    return read(path).sequence


def loads(text: str, name: str) -> Sequence:
    """Read a sequence from ``text``; ``name`` stands for the file in findings. Raises as `load`."""
    return reads(text, name).sequence


def read(path: str | os.PathLike[str]) -> Loaded:
    """Read a sequence file together with its places. Raises as `load`."""
    name = os.fspath(path)

    def refuse(message: str) -> DefinitionError:
        return DefinitionError([Finding(name, 1, 1, message)])

    try:
        with FilePath(path).open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise refuse(
            f"the file cannot be read ({error.strerror}): expected a sequence file; check the path"
        ) from error
    if len(raw) > LARGEST_FILE:
        raise refuse(
            f"the file is larger than {LARGEST_FILE} bytes: expected a sequence; shorten it"
        )
    try:
        return reads(raw.decode("utf-8-sig"), name)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DefinitionError(
            [Finding(name, line, 1, "the file is not UTF-8: expected UTF-8 text; save it as that")]
        ) from error


def reads(text: str, name: str) -> Loaded:
    """Read a sequence from ``text`` together with its places. Raises as `load`."""
    report = Report(Located(name))
    root = compose(text, name)
    if not isinstance(root, MappingNode):
        report.add(root, "the file is no mapping: expected 'key: …' at the top; start with that")
        raise DefinitionError(report.findings)
    sequence = _sequence(Table(report, (), "the sequence", root))
    if report.findings or sequence is None:
        raise DefinitionError(report.findings)
    return Loaded(sequence, report.located)


def watched(text: str, name: str, shape: Shape) -> None:
    """Read ``text`` and tell ``shape`` what is looked for; what is wrong with it does not matter."""
    top = Table(Report(Located(name), shape=shape), (), "the sequence", compose(text, name))
    _sequence(top)


def _sequence(top: Table) -> Sequence | None:
    top.only(_KEYS)
    key = top.slug("key", required=True)
    title = top.text("title", "one line of text", _line, required=True)
    class_ = top.choice("class", _CLASSES, required=True)
    topic = top.slug("topic")
    if class_ == "marketing" and "topic" not in top:
        top.missing("topic", "the topic that subscribers of a marketing sequence have opted in to")
    priority = top.whole("priority", 0, 100)
    timezone = _timezone(top)
    entry = read_entry(top, timezone.fallback if timezone else None)
    catch_up, bounded = _catch_up(top)
    exits = read_exits(top)
    goal = read_goal(top)
    holdout = read_holdout(top, class_, key)
    publish = read_publish(top)
    limits, pause = read_limits(top, class_), read_pause(top)
    steps = read_steps(top, bounded)
    judge_late(top, limits, catch_up, steps)
    local = any(
        isinstance(step, WaitStep) and (step.calendar_days is not None or step.until_date)
        for step in steps
    )
    if "timezone" not in top and (local or limits.local):
        what = "a step waits for" if local else "its limits are in"
        top.missing("timezone", f"source and fallback, since {what} a local time")
    if top.report.findings or key is None or title is None or class_ is None or entry is None:
        return None
    return Sequence(
        key=key,
        title=title,
        class_=class_,
        topic=topic,
        priority=50 if priority is None else priority,
        timezone=timezone or Timezone(),
        entry=entry,
        catch_up=catch_up,
        steps=tuple(steps),
        exits=exits,
        goal=goal,
        holdout=holdout,
        publish=publish,
        limits=limits,
        pause=pause,
    )


def _timezone(top: Table) -> Timezone | None:
    table = top.table("timezone")
    if table is None:
        return None

    def zone(text: str) -> str:
        if not is_zone(text):
            move = suggest(text, zones()) or "write a name such as Europe/Berlin"
            raise ValueError(f"{text[:64]!r} is no time zone: expected an IANA name; {move}")
        return text

    table.only(("source", "fallback"))
    table.choice("source", {"subscriber": "subscriber"}, required=True)
    fallback = table.text(
        "fallback", "an IANA time zone such as Europe/Berlin", zone, required=True
    )
    return Timezone(fallback=fallback) if fallback else None


def _catch_up(top: Table) -> tuple[CatchUp, bool]:
    """Return the rules for late sends, and whether the file bounds lateness for all steps."""
    table = top.table("catch_up")
    if table is None:
        return CatchUp(), False
    table.only(("max_lateness", "on_late", "spread", "fires"))
    bounded = "max_lateness" in table
    max_lateness, on_late = read_lateness(table, bounded)
    spread = table.text("spread", DURATION, parse_duration)
    fires = table.choice("fires", _FIRES) or "latest"
    return CatchUp(max_lateness, on_late or "skip", spread, fires), bounded


def _line(text: str) -> str:
    if not text.strip() or len(text) > 200 or not text.isprintable():
        raise ValueError
    return text
