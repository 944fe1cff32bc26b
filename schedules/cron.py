"""How a file of cron lines becomes `Line`s, or the list of everything that is wrong with it.

Structure is judged here. What needs the rest of the house (is the sequence published, may the task
be scheduled) is judged by ``tasks.sequence.crontab`` with the places that `read` returns.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path as FilePath
from typing import Any, Final

from ruamel.yaml.nodes import MappingNode, SequenceNode

from schedules.conditions import read_expression
from schedules.durations import parse_duration
from schedules.findings import DefinitionError, Finding, Located
from schedules.fires import ON_TIME, CatchUp, parse_cron
from schedules.localtime import is_zone, zones
from schedules.reading import Report, Table, compose, suggest
from schedules.segment import as_condition

MAX_LATENESS: Final = timedelta(hours=6)
LARGEST_FILE: Final = 1_000_000
_CATCH_UP: Final[dict[str, CatchUp]] = {"latest": "latest", "all": "all", "skip": "skip"}
_KEYS: Final = ("key", "cron", "zone", "target", "catch_up", "max_lateness", "paused")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the file.

    `target` as it is stored: with the keys sequence and audience, into and segment (a condition,
    as it was written), or task.
    """

    key: str
    cron: str
    zone: str
    target: dict[str, str]
    catch_up: CatchUp = "latest"
    max_lateness: timedelta = MAX_LATENESS
    paused: bool = False

    @property
    def sequence(self) -> str | None:
        """Key of the sequence that people enter, if it is that what the line starts."""
        return self.target.get("into") or self.target.get("sequence")


@dataclass(frozen=True, slots=True)
class Crontab:
    """Every line of a file, and where everything stands in it."""

    lines: tuple[Line, ...]
    located: Located


def read(path: str | os.PathLike[str]) -> Crontab:
    """Read a file of cron lines.

    Raises:
        DefinitionError: the file cannot be read or used; carries every finding.
    """
    name = os.fspath(path)
    try:
        with FilePath(path).open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise _refused(
            name,
            1,
            f"the file cannot be read ({error.strerror}): expected cron lines; check the path",
        ) from error
    if len(raw) > LARGEST_FILE:
        raise _refused(
            name,
            1,
            f"the file is larger than {LARGEST_FILE} bytes: expected cron lines; shorten it",
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _refused(
            name, line, "the file is not UTF-8: expected UTF-8 text; save it as that"
        ) from error
    return reads(text, name)


def reads(text: str, name: str) -> Crontab:
    """Read cron lines from ``text``; ``name`` stands for the file in findings. Raises as `read`."""
    try:
        root = compose(text, name)
    except DefinitionError as error:
        raise DefinitionError(_hinted(finding, text) for finding in error.findings) from error
    report = Report(Located(name))
    lines: list[Line] = []
    if not isinstance(root, MappingNode):
        report.add(root, "the file is no mapping: expected 'schedules: [ … ]'; start with that")
        raise DefinitionError(report.findings)
    top = Table(report, (), "the file", root)
    top.only(("schedules",))
    listed = top.values.get("schedules")
    # An empty list is a sound file: nothing is scheduled.
    if not isinstance(listed, SequenceNode) or listed.value:
        seen: dict[str, int] = {}
        for path, node in top.rows("schedules"):
            line = _line(report, path, node, seen)
            if line is not None:
                lines.append(line)
    if report.findings:
        raise DefinitionError(report.findings)
    return Crontab(tuple(lines), report.located)


def _line(report: Report, path: Any, node: Any, seen: dict[str, int]) -> Line | None:
    table = Table(report, path, f"schedule {path[-1] + 1}", node)
    key = table.slug("key", required=True)
    if key is not None:
        table.name = f"schedule {key!r}"
        if key in seen:
            report.add_at(
                (*path, "key"),
                f"{table.name} stands twice: expected each key once; rename this one or the one on"
                f" line {seen[key]}",
            )
        seen.setdefault(key, report.located.at(*path, "key")[0])
    table.only(_KEYS)
    cron = table.text("cron", 'an expression such as "0 9 * * MON"', parse_cron, required=True)
    zone = table.text("zone", "an IANA time zone such as Europe/Berlin", _zone, required=True)
    target = _target(table)
    catch_up = table.choice("catch_up", _CATCH_UP)
    max_lateness = table.text("max_lateness", "a duration such as 6h", _lateness)
    paused = table.flag("paused")
    if key is None or cron is None or zone is None or target is None:
        return None
    return Line(
        key, cron, zone, target, catch_up or "latest", max_lateness or MAX_LATENESS, bool(paused)
    )


def _target(line: Table) -> dict[str, str] | None:
    table = line.table("target", required=True)
    if table is None:
        return None
    if "task" in table:
        table.only(("task",))
        task = table.text("task", "the name of a task such as churn.score", _word)
        return {"task": task} if task else None
    table.only(("sequence", "audience", "segment", "task"))
    sequence = table.slug("sequence", required=True)
    if "segment" in table:
        if "audience" in table:
            table.report.add_at(
                (*table.path, "audience"),
                f"{table.name} has both 'audience' and 'segment': expected one of them; remove one",
            )
        said = str(getattr(table.values["segment"], "value", "")).strip()
        if (named := as_condition(said)) != said:  # the key of a segment, alone
            return {"into": sequence, "segment": named} if sequence else None
        condition = read_expression(table, "segment")
        # Under a key of its own: a worker of before would take no heed of the condition, and enroll
        # everybody into what stands at `sequence`.
        return {"into": sequence, "segment": condition.source} if sequence and condition else None
    audience = table.choice("audience", {"all": "all"}, required=True)
    return {"sequence": sequence, "audience": audience} if sequence and audience else None


def _zone(text: str) -> str:
    if not is_zone(text):
        move = suggest(text, zones()) or "write a name such as Europe/Berlin"
        raise ValueError(f"{text[:64]!r} is no time zone: expected an IANA name; {move}")
    return text


def _lateness(text: str) -> timedelta:
    lateness = parse_duration(text)
    if lateness < ON_TIME:
        raise ValueError(
            f"{text!r} would miss fires that are on time: expected at least 1m; write a longer one"
        )
    return lateness


def _word(text: str) -> str:
    if not text.isascii() or not text.replace(".", "").replace("_", "").isalnum() or len(text) > 64:
        raise ValueError
    return text


def _hinted(finding: Finding, text: str) -> Finding:
    """Say what is meant where a star that is not in quotes was read as a YAML alias."""
    lines = text.split("\n")
    said = lines[finding.line - 1] if finding.line <= len(lines) else ""
    if "cron:" not in said or "*" not in said:
        return finding
    return Finding(
        finding.file,
        finding.line,
        finding.column,
        finding.message
        + '; an expression that begins with a star stands in quotes: "*/10 * * * *"',
    )


def _refused(name: str, line: int, message: str) -> DefinitionError:
    return DefinitionError([Finding(name, line, 1, message)])
