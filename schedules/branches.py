"""How a ``branch`` and an ``update`` of a file are read."""

from __future__ import annotations

from typing import Final

from schedules.conditions import attribute_name, read_expression
from schedules.expression import Expression
from schedules.kinds import BranchStep, Case, Plain, UpdateStep
from schedules.reading import Table

_STEP: Final = "the id of a step"
_EXAMPLE: Final = "{if: \"sub.country == 'DE'\", next: …}"


def read_branch(table: Table, id_: str) -> BranchStep | None:
    """Read a branch; None where its ways on cannot be known."""
    rows = table.rows("branch", _EXAMPLE)
    stale_way = table.slug("on_stale")
    cases: list[Case] = []
    last: str | None = None
    sound = bool(rows) and len(rows) == len(table.values["branch"].value)
    asks: Table | None = None
    ends = False
    for number, (path, node) in enumerate(rows, 1):
        row = Table(table.report, path, f"case {number} of {table.name}", node)
        if number == len(rows) and "if" not in row:
            row.only(("else",))
            last, ends = row.slug("else", required=True), True
            continue
        row.only(("if", "next"))
        condition, next_ = read_expression(row, "if"), row.slug("next", required=True)
        if condition is None or next_ is None:
            sound = False
            continue
        asked = [" ".join(case.condition.source.split()) for case in cases]
        if (here := " ".join(condition.source.split())) in asked:
            table.report.add_at(
                (*path, "if"),
                f"{row.name} asks what case {asked.index(here) + 1} asked, so nobody takes it: expected"
                " another condition; correct it, or remove the case",
            )
        cases.append(Case(condition, next_))
        if condition.needs.stale_at is not None:
            asks = asks or row
    if not rows:
        return None
    if not ends:
        table.report.add(
            table.values["branch"],
            f"'branch' of {table.name} has no way for those of whom nothing holds: expected"
            " '- {else: …}' as its last case; add it",
        )
    if asks is not None and "on_stale" not in table:
        table.report.add_at(
            (*asks.path, "if"),
            f"{asks.name} asks for a score or segment, which may be missing or too old: expected"
            f" 'on_stale' in {table.name}, with {_STEP}; add it",
        )
        sound = False
    elif asks is None and sound and stale_way is not None:
        table.report.add_at(
            (*table.path, "on_stale"),
            f"'on_stale' of {table.name} has no effect: expected it where a case asks for a score()"
            " or segment(); remove it",
        )
    if not sound or last is None or ("on_stale" in table and stale_way is None):
        return None
    if not cases:
        table.report.add(
            table.values["branch"],
            f"'branch' of {table.name} has no case but 'else': expected one with 'if'; add it, or"
            " let the step before lead on",
        )
        return None
    return BranchStep(id_, tuple(cases), last, stale_way)


def read_update(body: Table | None, id_: str, next_: str | None) -> UpdateStep:
    """Read the body of an update; to be used only where the report stays empty."""
    if body is None:
        return UpdateStep(id_, next_)
    body.only(("set", "topics"))
    if not any(key in body for key in ("set", "topics")):
        body.report.add(
            body.node,
            f"{body.name} changes nothing: expected 'set' with attributes or 'topics'; add one",
        )
    attributes: list[tuple[str, Plain | Expression]] = []
    set_ = body.table("set") if "set" in body else None
    for name in set_.values if set_ is not None else ():
        assert set_ is not None
        try:
            attribute_name(name)
        except ValueError as error:
            body.report.add(set_.keys[name], f"a key of {set_.name}: {error}")
            continue
        attributes.append((name, _value(set_, name)))
    topics: list[tuple[str, bool]] = []
    answers = body.table("topics") if "topics" in body else None
    for topic in answers.values if answers is not None else ():
        assert answers is not None
        answer = answers.flag(topic)
        if answer is not None:
            topics.append((topic, answer))
    for part in (set_, answers):
        if part is not None and not part.values:
            body.report.add(part.node, f"{part.name} is empty: expected one at least; add it")
    return UpdateStep(id_, next_, tuple(attributes), tuple(sorted(topics)))


def _value(set_: Table, name: str) -> Plain | Expression:
    node = set_.values[name]
    if not hasattr(node, "value") or not isinstance(node.value, list):
        return set_.plain(name)
    inner = set_.table(name)
    if inner is None:
        return None
    inner.only(("expression",))
    return read_expression(inner, "expression", condition=False, scores=False)
