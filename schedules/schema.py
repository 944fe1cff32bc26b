"""The JSON Schema of a sequence file, for editors: what the reader itself looks for.

Nothing is written down twice. The reader reads `SAMPLE`, in which nearly everything stands, and tells
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
entry:
  trigger: {event: subscription.paused, where: "event.plan != 'free'", max_age: 7d}
  filter: "score('churn', max_age='24h') >= 0.6"
  on_stale_score: skip
  dedupe_key: "event.pause_id"
  reentry: {policy: after_exit, cooldown: 90d, max_entries: 3, while_active: ignore}
  admission: {max_active: 50000, rate: 2000/h}
exit:
  - {event: purchase, reason: converted}
  - {when: "sub.status != 'subscribed'", reason: gone}
  - {after: 45d, reason: expired}
goal: {event: subscription.resumed, window: 21d, value: event.mrr}
holdout: {percent: 10, salt: sample-2026}
catch_up: {fires: latest, max_lateness: 6h, on_late: skip, spread: 30m}
limits:
  quiet_hours: {from: "21:00", to: "08:00", on_hit: next_allowed}
  send_window: {days: [mon, tue, wed, thu, fri], from: "08:00", to: "19:00"}
  cap: {max: 2, per: 7d, scope: topic, on_hit: wait, give_up_after: 3d}
  throttle: 500/h
pause: {clock: run}
publish: {enrolled: migrate, content: follow, deleted_step: finish_wait, finished: stay, max_immediate_sends: 5000}
steps:
  - {id: hello, send: {template: sample/hello, personalize: {prompt: sample/hello, lead: 30m, on_fail: template, per: person}}, on_fail: end, max_lateness: 12h, on_late: skip}
  - {id: pause, wait: {delay: 3d}}
  - {id: local, wait: {calendar_days: 2, at: "09:30"}}
  - {id: date, wait: {until_date: {attribute: trial_ends, offset: -3d, at: "09:30", missing: skip}}}
  - {id: click, wait: {until_event: email.clicked, of: hello, ignore_bots: true, timeout: 3d}, paths: {event: ask, timeout: ask}}
  - id: ask
    branch:
      - {if: "score('churn', max_age='24h') >= 0.8", next: note}
      - {else: split}
    on_stale: note
  - id: split
    experiment:
      arms: {plain: 50, offer: 50}
      metric: goal
      allocate: fixed
      salt: sample-2026
      stop: {test: sequential, alpha: 0.05, min_per_arm: 1000, max_days: 30, effect: 0.1, guardrail: {complaint_rate: 0.001, unsubscribe_rate: 0.02}}
    paths: {plain: note, offer: end}
  - {id: note, update: {set: {tried: true, visits: {expression: sub.visits + 1}}, topics: {news: true}}, next: call}
  - {id: call, webhook: {to: crm, fields: [plan]}}
  - {id: end, exit: {reason: completed}}
"""

# Another way to say the same, and mappings that leave out what they may.
OTHERS: Final = (
    """
entry: {trigger: {event: purchase}, reentry: {policy: never}, admission: {rate: 2000/h}}
goal: {event: purchase, window: 1d}
steps:
  - {id: a, send: {template: sample/a, personalize: {prompt: sample/a}}}
""",
    """
timezone: {source: subscriber, fallback: UTC}
entry: {trigger: {schedule: "0 9 * * MON", zone: Europe/Berlin, audience: lapsed}}
steps:
  - {id: a, send: {template: sample/a, personalize: {prompt: sample/a, per: segment, segment: value}}}
""",
    "entry: {trigger: {segment: lapsed, edge: join}, admission: {max_active: 5}}\nsteps: []\n",
    "entry: {trigger: {manual: true}, filter: sub.x}\nsteps: []\n",
    "entry: {manual: true}\nsteps: []\n",
    "key: sample\n",
)


@dataclass(slots=True)
class _Shape:
    """What was looked for, by place."""

    document: int = 0
    keys: dict[Place, dict[str, None]] = field(default_factory=dict)
    takes: dict[Place, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    needed: dict[Place, dict[tuple[int, Path], set[str]]] = field(default_factory=dict)

    def table(self, path: Path, keys: tuple[str, ...]) -> None:
        self.keys.setdefault(_place(path), {}).update(dict.fromkeys(keys))

    def key(self, path: Path, key: str, takes: Mapping[str, Any], required: bool) -> None:
        place = _place(path)
        told = self.takes.setdefault(place, {}).setdefault(key, [])
        if takes not in told:
            told.append(dict(takes))
        # Of the file itself, all of what any of them needs: a list is asked for where there is none.
        which = (self.document if path else 0, path)
        needed = self.needed.setdefault(place, {}).setdefault(which, set())
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
        # Beside the reader's own keys names of somebody's own, such as the arms in `paths`.
        if named := [one for name in takes if name not in known for one in self._key(place, name)]:
            found["additionalProperties"] = _any(
                [one for n, one in enumerate(named) if one not in named[:n]]
            )
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
    for shape.document, text in enumerate((SAMPLE, *OTHERS)):
        watched(text, "sample", shape)
    return {"$schema": DIALECT, "title": "dripfleet sequence"} | shape.of(())


def _any(told: list[dict[str, Any]]) -> Any:
    if not told:
        return True
    return told[0] if len(told) == 1 else {"anyOf": told}


def _place(path: Path) -> Place:
    return tuple("*" if isinstance(part, int) else part for part in path)
