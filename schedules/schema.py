"""The JSON Schema of a sequence file, for editors: what the reader itself looks for.

Nothing is written down twice. The reader reads `SAMPLE`, in which everything stands once, and tells
what it looks for: which keys a mapping takes, which of them it needs, and what each may be. A key
that the reader learns is in the schema; only a mapping that stands nowhere in the sample is open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from schedules.findings import Path
from schedules.loader import watched

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
Place: TypeAlias = tuple[str, ...]
"""A path whose positions in lists are all ``*``."""

SAMPLE: Final = """
key: sample
title: Everything once
class: marketing
topic: news
priority: 50
timezone: {source: subscriber, fallback: Europe/Berlin}
entry: {manual: true}
exit:
  - {event: purchase, reason: converted}
  - {when: "sub.status != 'subscribed'", reason: gone}
  - {after: 45d, reason: expired}
catch_up: {max_lateness: 6h, on_late: skip, spread: 30m}
publish: {enrolled: migrate, content: follow, deleted_step: finish_wait, max_immediate_sends: 5000}
steps:
  - {id: hello, send: {template: sample/hello}, on_fail: end, max_lateness: 12h, on_late: skip}
  - {id: pause, wait: {delay: 3d}}
  - {id: local, wait: {calendar_days: 2, at: "09:30"}}
  - {id: date, wait: {until_date: {attribute: trial_ends, offset: -3d, at: "09:30", missing: skip}}}
  - id: ask
    branch:
      - {if: "score('churn', max_age='24h') >= 0.8", next: note}
      - {else: end}
    on_stale: note
  - {id: note, update: {set: {tried: true, visits: {expression: sub.visits + 1}}, topics: {news: true}}, next: end}
  - {id: end, exit: {reason: completed}}
"""


@dataclass(slots=True)
class _Shape:
    """What was looked for, by place."""

    keys: dict[Place, dict[str, None]] = field(default_factory=dict)
    takes: dict[Place, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    needed: dict[Place, dict[Path, set[str]]] = field(default_factory=dict)

    def table(self, path: Path, keys: tuple[str, ...]) -> None:
        self.keys.setdefault(_place(path), {}).update(dict.fromkeys(keys))

    def key(self, path: Path, key: str, takes: Mapping[str, Any], required: bool) -> None:
        place = _place(path)
        told = self.takes.setdefault(place, {}).setdefault(key, [])
        if takes not in told:
            told.append(dict(takes))
        needed = self.needed.setdefault(place, {}).setdefault(path, set())
        if required:
            needed.add(key)

    def of(self, place: Place) -> dict[str, Any]:
        """Return the schema of the mapping at a place."""
        takes = self.takes.get(place, {})
        known = self.keys.get(place)
        if known is None:
            # Names of somebody's own, such as attributes: what holds for one holds for all.
            seen: list[dict[str, Any]] = []
            for name in takes:
                seen += [one for one in self._key(place, name) if one not in seen]
            return {"type": "object"} | ({"additionalProperties": _any(seen)} if seen else {})
        found: dict[str, Any] = {
            "type": "object",
            "additionalProperties": False,
            "properties": {name: _any(self._key(place, name)) for name in known},
        }
        # What only some of the mappings at this place need is needed by none of the others.
        needed = list(self.needed.get(place, {}).values())
        if always := sorted(set.intersection(*needed)) if needed else []:
            found["required"] = always
        return found

    def _key(self, place: Place, name: str) -> list[dict[str, Any]]:
        told = []
        for takes in self.takes.get(place, {}).get(name, []):
            if takes.get("type") == "object":
                told.append(self.of((*place, name)))
            elif takes.get("type") == "array":
                told.append(takes | {"minItems": 1, "items": self.of((*place, name, "*"))})
            else:
                told.append(takes)
        return told


def sequence_schema() -> dict[str, Any]:
    """Return the schema of a sequence file, in JSON's own values (draft 2020-12).

    It is what an editor completes and underlines by. What needs more than one key at once, such as
    a step that nobody reaches, is for ``dripfleet sequence validate``.
    """
    shape = _Shape()
    # The second says which lists are asked for where there are none.
    for text in (SAMPLE, "key: sample\n"):
        watched(text, "sample", shape)
    return {"$schema": DIALECT, "title": "dripfleet sequence"} | shape.of(())


def _any(told: list[dict[str, Any]]) -> Any:
    if not told:
        return True
    return told[0] if len(told) == 1 else {"anyOf": told}


def _place(path: Path) -> Place:
    return tuple("*" if isinstance(part, int) else part for part in path)
