"""How the ``steps`` of a sequence file become steps with explicit successors."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from schedules.branches import read_branch, read_update
from schedules.durations import parse_duration
from schedules.experimenting import judge_experiments, read_experiment
from schedules.findings import Path
from schedules.graph import Edge, cycles, unreached
from schedules.kinds import ExitStep, OnLate, SendStep, Step, ways
from schedules.prompt_file import read_personalize
from schedules.reading import SLUG, Table, matching, suggest
from schedules.waits import DURATION, judge_of, read_wait
from schedules.webhooks import read_webhook

_KINDS: Final = ("send", "wait", "branch", "experiment", "update", "webhook", "exit")
_KINDS_LATER: Final[tuple[str, ...]] = ()
_STEP_KEYS: Final = {
    "send": ("id", "send", "next", "on_fail", "max_lateness", "on_late"),
    "wait": ("id", "wait", "next", "paths"),
    "webhook": ("id", "webhook", "next"),
    "branch": ("id", "branch", "on_stale"),
    "experiment": ("id", "experiment", "paths"),
    "update": ("id", "update", "next"),
    "exit": ("id", "exit"),
}
_STEP_LATER: Final = _KINDS_LATER
_ON_LATE: Final[dict[str, OnLate]] = {
    "send": "send", "next_window": "next_window", "skip": "skip", "exit": "exit",
}  # fmt: skip


def read_steps(top: Table, bounded: bool) -> list[Step]:
    """Read the steps, and judge the ways between them once each of them is known.

    Args:
        top: the whole file.
        bounded: whether the file has a ``max_lateness`` that holds for every step.

    Returns:
        Steps to be used only where the report stays empty.
    """
    tables: list[Table] = []
    for path, node in top.rows("steps"):
        number = int(path[-1]) + 1
        named = next((v.value for k, v in node.value if k.value == "id"), None)
        name = f"step {named!r}" if isinstance(named, str) else f"step {number}"
        tables.append(Table(top.report, path, name, node))
    if not tables:
        return []
    ids = [table.slug("id", required=True, reserved=("next", "exit")) for table in tables]
    places: dict[str, Path] = {}
    for table, id_ in zip(tables, ids, strict=True):
        if id_ in places:
            line = top.report.located.at(*places[id_], "id")[0]
            top.report.add_at(
                (*table.path, "id"),
                f"step id {id_!r} is taken on line {line}: expected an id of its own; rename one",
            )
        elif id_ is not None:
            places[id_] = table.path
    steps: list[Step] = []
    edges: list[Edge] = []
    whole = len(places) == len(tables) == len(top.values["steps"].value)
    for table, id_, below in zip(tables, ids, [*ids[1:], None], strict=True):
        step = _step(table, id_ or "?", below, bounded)
        whole = whole and step is not None
        if step is None:
            continue
        steps.append(step)
        for key, target in ways(step):
            written = (*table.path, *key) in top.report.located.places
            at = (*table.path, *key) if written else table.path
            if target in places:
                edges.append(Edge(step.id, target, at))
            elif written:
                whole = False
                move = suggest(target, places) or "add that step or name another"
                table.report.add_at(
                    at,
                    f"{str(key[-1])!r} of {table.name} leads to {target!r}, which is no step: expected the"
                    f" id of one; {move}",
                )
    judge_of(top, steps)
    judge_experiments(top, tables)
    if whole:
        for path, message in (*unreached(places, edges), *cycles(places, edges)):
            top.report.add_at(path, message)
    return steps


def read_lateness(table: Table, bounded: bool) -> tuple[timedelta | None, OnLate | None]:
    """Read ``max_lateness`` and ``on_late``; ``bounded`` tells whether some bound applies here."""
    max_lateness = table.text("max_lateness", DURATION, parse_duration)
    on_late = table.choice("on_late", _ON_LATE)
    if "on_late" in table and not bounded:
        table.report.add_at(
            (*table.path, "on_late"),
            f"'on_late' of {table.name} has no effect: expected a 'max_lateness' beside it or in"
            " 'catch_up', without which nothing is ever too late; add one",
        )
    return max_lateness, on_late


def _step(table: Table, id_: str, below: str | None, bounded: bool) -> Step | None:
    """Read one step; None where its ways on cannot be known."""
    kinds = [key for key in _KINDS if key in table]
    if len(kinds) != 1:
        table.only({key: 0 for kind in _KINDS for key in _STEP_KEYS[kind]}, _STEP_LATER)
        if len(kinds) > 1 or not any(key in table for key in _KINDS_LATER):
            found = f"has {' and '.join(kinds)}" if kinds else "does nothing"
            table.report.add(
                table.node,
                f"{table.name} {found}: expected exactly one of {', '.join(_KINDS)}; correct it",
            )
        return None
    kind = kinds[0]
    later = [key for key in _STEP_LATER if key not in _STEP_KEYS[kind]]
    table.only(_STEP_KEYS[kind], later)
    next_ = table.slug("next") if "next" in table and kind != "exit" else below
    step: Step | None
    if kind == "branch":
        step = read_branch(table, id_)
        return None if any(key in table for key in later) else step
    if kind == "experiment":
        return read_experiment(table, id_)
    body = table.table(kind)
    if kind == "send":
        step = _send(table, body, id_, next_, bounded)
    elif kind == "wait":
        step = read_wait(body, id_, next_, table.table("paths"))
    elif kind == "update":
        step = read_update(body, id_, next_)
    elif kind == "webhook":
        step = read_webhook(body, id_, next_)
    else:
        step = _exit(body, id_)
    ways_unknown = any(key in table for key in later) or ("next" in table and next_ is None)
    return None if ways_unknown else step


def _send(
    table: Table, body: Table | None, id_: str, next_: str | None, bounded: bool
) -> SendStep | None:
    template = personalize = None
    if body is not None:
        body.only(("template", "personalize"))
        personalize = read_personalize(body)
        expected = "a template such as winback/hello"
        template = body.text("template", expected, matching(f"{SLUG}(/{SLUG})+"), required=True)
    max_lateness, on_late = read_lateness(table, bounded or "max_lateness" in table)
    on_fail: str | None = "next"
    if "on_fail" in table:
        on_fail = table.text("on_fail", "next, exit or the id of a step", matching(SLUG))
    if on_fail is None:
        return None
    return SendStep(id_, template or "?", next_, on_fail, max_lateness, on_late, personalize)


def _exit(body: Table | None, id_: str) -> ExitStep:
    if body is None:
        return ExitStep(id_, "?")
    body.only(("reason",))
    return ExitStep(id_, body.slug("reason", required=True) or "?")
