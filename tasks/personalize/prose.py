"""A comparison told in sentences: from its figures alone, whatever the mails say. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from tasks.personalize import checks
from tasks.personalize.commission import Reading, conversation, json_schema, line, read_object
from tasks.personalize.engine import Brief

LONGEST: Final = 1200
_POINT: Final = re.compile(r"(?<=\d)\.(?=\d)")
_RULES: Final = """You are given figures of somebody else's mails and of one of ours. Answer with one JSON
object that holds "summary", three to six plain English sentences on how the two differ in length,
links, offers, tone and how often they write, and nothing else. Use only figures that are given, as they
are given. No links, no addresses, no advice that no figure supports."""
# Offers are what such a summary may be about; nobody is mailed it.
_HELD: Final = frozenset(("length", "link", "address", "header", "placeholder", "characters",
                          "figures", "language", "spam"))  # fmt: skip


@dataclass(frozen=True)
class Prose:
    """Figures that a model puts into sentences: a row each, ``figure``, ``theirs``, ``ours``."""

    rows: Sequence[Mapping[str, Any]]

    tokens = 500

    @cached_property
    def form(self) -> dict[str, Any]:
        """Of the answer."""
        return json_schema("comparison", {"summary": {"type": "string"}})

    def messages(self, fault: str | None) -> list[dict[str, str]]:
        """The conversation; the example is the plain sentences of `_plain`."""
        return conversation(_RULES, self._told, {"summary": self._plain()}, fault)

    def read(self, content: str) -> Reading:
        """The summary, or what is wrong with it."""
        value = read_object(content, ("summary",))
        if isinstance(value, str):
            return Reading(None, [value])
        said = line(value["summary"])
        if not said:
            return Reading(None, ["the summary is no text"])
        brief = Brief("comparison", f"{self._told}\n{_RULES}", "en", {"summary": LONGEST})
        # A point within a figure is that of no host; the digits on both sides are still given ones.
        plain = {"summary": _POINT.sub(" ", said)}
        found = [why for check, why in checks.faults(plain, brief, {}) if check in _HELD]
        return Reading(None if found else {"summary": said}, found)

    @cached_property
    def _told(self) -> str:
        rows = (
            f"{row['figure'].replace('_', ' ')}: theirs {row['theirs']}, ours {row['ours']}"
            for row in self.rows
        )
        return "The figures:\n" + "\n".join(rows)

    def _plain(self) -> str:
        """The figures that differ, a sentence each: what the server that ships answers with."""
        made = [
            f"Of {row['figure'].replace('_', ' ')} theirs have {_figure(row['theirs'])} and ours"
            f" has {_figure(row['ours'])}."
            for row in self.rows
            if row["theirs"] != row["ours"] and row["figure"] != "mails"
        ]
        text = ""
        for each in made:
            if len(text) + len(each) < LONGEST:
                text = f"{text} {each}".strip()
        return text or "The figures of the two are the same for all that is to be told of them."


def _figure(value: Any) -> str:
    return "none" if value is None else str(value)
