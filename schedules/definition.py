"""What a sequence is: its steps, their order and its rules, as values without behaviour.

A `Sequence` is read from YAML by ``schedules.loader``, stored in Postgres as the canonical JSON of
`Sequence.to_json`, and read back by the fleet with `Sequence.from_json`. Each step names its
successor: what fell through in the file is explicit here, so that no reader repeats that rule.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import time, timedelta
from typing import Any, Final, Literal, TypeAlias, cast

from schedules.durations import format_duration, parse_clock, parse_duration

SCHEMA: Final = 1
"""Version of the JSON form; a reader refuses every other."""

StreamClass: TypeAlias = Literal["marketing", "transactional"]
OnLate: TypeAlias = Literal["send", "skip", "exit"]


@dataclass(frozen=True, slots=True)
class SendStep:
    """One mail. ``on_fail`` is ``next``, ``exit`` or the id of a step."""

    id: str
    template: str
    next: str | None = None
    on_fail: str = "next"
    max_lateness: timedelta | None = None
    on_late: OnLate | None = None


@dataclass(frozen=True, slots=True)
class WaitStep:
    """Elapsed time (``delay``), or local dates (``calendar_days``) and then the next ``at``."""

    id: str
    next: str | None = None
    delay: timedelta | None = None
    calendar_days: int | None = None
    at: time | None = None

    def __post_init__(self) -> None:
        if (self.delay is None) == (self.calendar_days is None):
            raise ValueError(
                f"wait {self.id!r} has both or neither of delay and calendar_days: expected one"
            )


@dataclass(frozen=True, slots=True)
class ExitStep:
    """The end of the way, with its reason."""

    id: str
    reason: str

    @property
    def next(self) -> None:
        """Nothing follows an exit."""


Step: TypeAlias = SendStep | WaitStep | ExitStep


@dataclass(frozen=True, slots=True)
class Timezone:
    """Whose zone counts, and which one where that is missing or unknown."""

    source: Literal["subscriber"] = "subscriber"
    fallback: str = "UTC"


@dataclass(frozen=True, slots=True)
class Entry:
    """How people come in; by hand (``dripfleet enqueue``) so far."""

    manual: bool = True


@dataclass(frozen=True, slots=True)
class CatchUp:
    """What becomes of a send that is late.

    ``max_lateness`` None means that nothing is ever too late; beyond it ``on_late`` decides. Late
    sends within it are spread over ``spread``, where given.
    """

    max_lateness: timedelta | None = None
    on_late: OnLate = "skip"
    spread: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Sequence:
    """A whole definition; steps in the order of the file, the first being where people begin.

    Raises:
        ValueError: no step, an id twice, or a successor that does not exist. The loader finds these
            with their place; here they guard what comes out of the database.
    """

    key: str
    title: str
    class_: StreamClass
    steps: tuple[Step, ...]
    topic: str | None = None
    priority: int = 50
    timezone: Timezone = Timezone()
    entry: Entry = Entry()
    catch_up: CatchUp = CatchUp()
    _by_id: dict[str, Step] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_id = {step.id: step for step in self.steps}
        object.__setattr__(self, "_by_id", by_id)
        if len(by_id) != len(self.steps) or not by_id:
            raise ValueError(f"sequence {self.key!r}: expected steps, each with an id of its own")
        for step in self.steps:
            for target in successors(step):
                if target not in by_id:
                    raise ValueError(
                        f"sequence {self.key!r}: step {step.id!r} leads to {target!r}, which is no step"
                    )

    @property
    def first(self) -> str:
        """Id of the step where people begin."""
        return self.steps[0].id

    def step(self, step_id: str) -> Step | None:
        """Return the step of that id, or None where the definition has none (any more)."""
        return self._by_id.get(step_id)

    def next_of(self, step_id: str) -> str | None:
        """Return the id of what follows ``step_id``, or None where the way ends there.

        Raises:
            KeyError: no step has that id.
        """
        return self._by_id[step_id].next

    def to_json(self) -> dict[str, Any]:
        """Return the canonical form for ``jsonb``: plain values, sorted keys, no empty ones."""
        return _plain(
            {
                "schema": SCHEMA,
                "key": self.key,
                "title": self.title,
                "class": self.class_,
                "topic": self.topic,
                "priority": self.priority,
                "timezone": {"source": self.timezone.source, "fallback": self.timezone.fallback},
                "entry": {"manual": self.entry.manual},
                "catch_up": {
                    "max_lateness": self.catch_up.max_lateness,
                    "on_late": self.catch_up.on_late,
                    "spread": self.catch_up.spread,
                },
                "steps": [_step_to_json(step) for step in self.steps],
            }
        )

    def canonical(self) -> str:
        """Return the canonical form as text: equal for equal definitions, so it can be hashed."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sequence:
        """Read what `to_json` wrote.

        Raises:
            ValueError: another schema version, or a form that `to_json` never writes.
        """
        if data.get("schema") != SCHEMA:
            raise ValueError(
                f"a stored definition has schema {data.get('schema')!r}: expected {SCHEMA};"
                " run the release that wrote it, or publish the sequence again"
            )
        try:
            catch_up = data["catch_up"]
            return cls(
                key=data["key"],
                title=data["title"],
                class_=cast(StreamClass, data["class"]),
                topic=data.get("topic"),
                priority=data["priority"],
                timezone=Timezone(**data["timezone"]),
                entry=Entry(**data["entry"]),
                catch_up=CatchUp(
                    max_lateness=_duration(catch_up.get("max_lateness")),
                    on_late=cast(OnLate, catch_up["on_late"]),
                    spread=_duration(catch_up.get("spread")),
                ),
                steps=tuple(_step_from_json(step) for step in data["steps"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"the stored definition of {data.get('key')!r} is not what schema {SCHEMA} holds"
                f" ({error}): publish the sequence again"
            ) from error


def successors(step: Step) -> tuple[str, ...]:
    """Return the ids a step can lead to, without repetition; none where the way ends."""
    found = [step.next] if step.next is not None else []
    if isinstance(step, SendStep) and step.on_fail not in ("next", "exit", *found):
        found.append(step.on_fail)
    return tuple(found)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key in sorted(values):
        value = values[key]
        if isinstance(value, dict):
            plain[key] = _plain(value)
        elif isinstance(value, timedelta):
            plain[key] = format_duration(value)
        elif isinstance(value, time):
            plain[key] = value.strftime("%H:%M")
        elif value is not None:
            plain[key] = value
    return plain


def _step_to_json(step: Step) -> dict[str, Any]:
    body: dict[str, Any]
    match step:
        case SendStep():
            late = {"max_lateness": step.max_lateness, "on_late": step.on_late}
            body = {"send": {"template": step.template}, "on_fail": step.on_fail, **late}
        case WaitStep():
            rule = {"delay": step.delay, "calendar_days": step.calendar_days, "at": step.at}
            body = {"wait": rule}
        case ExitStep():
            body = {"exit": {"reason": step.reason}}
    return _plain({"id": step.id, "next": step.next, **body})


def _step_from_json(data: Mapping[str, Any]) -> Step:
    id_, next_ = data["id"], data.get("next")
    if "send" in data:
        return SendStep(
            id=id_,
            next=next_,
            template=data["send"]["template"],
            on_fail=data["on_fail"],
            max_lateness=_duration(data.get("max_lateness")),
            on_late=cast("OnLate | None", data.get("on_late")),
        )
    if "wait" in data:
        wait = data["wait"]
        at = parse_clock(wait["at"]) if "at" in wait else None
        days = wait.get("calendar_days")
        return WaitStep(
            id=id_, next=next_, delay=_duration(wait.get("delay")), calendar_days=days, at=at
        )
    return ExitStep(id=id_, reason=data["exit"]["reason"])


def _duration(text: str | None) -> timedelta | None:
    return None if text is None else parse_duration(text)
