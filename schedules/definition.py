"""What a sequence is: its steps, their order and its rules, as values without behaviour.

A `Sequence` is read from YAML by ``schedules.loader``, stored in Postgres as the canonical JSON of
`Sequence.to_json`, and read back by the fleet with `Sequence.from_json`. Each step names its
successor: what fell through in the file is explicit here, so that no reader repeats that rule.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias, cast

from schedules.arms import ExperimentStep
from schedules.entry import BY_HAND, Entry, entry_from_json, entry_to_json
from schedules.expression import ExpressionError, Needs
from schedules.fires import CatchUp as Fires
from schedules.goal import (
    Goal,
    Holdout,
    goal_from_json,
    goal_to_json,
    holdout_from_json,
    holdout_to_json,
)
from schedules.kinds import (
    BranchStep,
    Case,
    ExitRule,
    ExitStep,
    OnLate,
    SendStep,
    Step,
    UntilDate,
    UntilEvent,
    UpdateStep,
    WaitStep,
    WebhookStep,
    needs_of,
    successors,
)
from schedules.limits import UNLIMITED, Limits, PauseClock, limits_from_json, limits_to_json
from schedules.publishing import Publish, publish_from_json, publish_to_json
from schedules.stored import (
    duration,
    plain,
    rule_from_json,
    rule_to_json,
    step_from_json,
    step_to_json,
)

__all__ = [
    "SCHEMA", "BranchStep", "Case", "CatchUp", "Entry", "ExitRule", "ExitStep",
    "ExperimentStep", "Goal", "Holdout",
    "Limits", "OnLate", "PauseClock", "Publish", "SendStep", "Sequence", "Step", "StreamClass",
    "Timezone", "UntilDate", "UntilEvent", "UpdateStep", "WaitStep", "WebhookStep", "successors",
]  # fmt: skip

SCHEMA: Final = 1
"""Version of the JSON form; a reader refuses every other."""

StreamClass: TypeAlias = Literal["marketing", "transactional"]


@dataclass(frozen=True, slots=True)
class Timezone:
    """Whose zone counts, and which one where that is missing or unknown."""

    source: Literal["subscriber"] = "subscriber"
    fallback: str = "UTC"


@dataclass(frozen=True, slots=True)
class CatchUp:
    """What becomes of a send that is late.

    ``max_lateness`` None means that nothing is ever too late; beyond it ``on_late`` decides. Late
    sends within it are spread over ``spread``, where given. ``fires`` is for those of its cron line.
    """

    max_lateness: timedelta | None = None
    on_late: OnLate = "skip"
    spread: timedelta | None = None
    fires: Fires = "latest"


@dataclass(frozen=True, slots=True)
class Sequence:
    """A whole definition; steps in the order of the file, the first being where people begin.

    ``exits`` are asked at every hand-off, in their order; ``needs`` is what steps and exits ask for.

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
    entry: Entry = BY_HAND
    catch_up: CatchUp = CatchUp()
    exits: tuple[ExitRule, ...] = ()
    goal: Goal | None = None
    holdout: Holdout | None = None
    publish: Publish = field(default_factory=Publish)
    limits: Limits = UNLIMITED
    pause: PauseClock = "run"
    needs: Needs = field(init=False, repr=False, compare=False)
    _by_id: dict[str, Step] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_id = {step.id: step for step in self.steps}
        object.__setattr__(self, "_by_id", by_id)
        needs = Needs()
        for part in (*self.steps, *self.exits):
            needs |= needs_of(part)
        object.__setattr__(self, "needs", needs)
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
        return plain(
            {
                "schema": SCHEMA,
                "key": self.key,
                "title": self.title,
                "class": self.class_,
                "topic": self.topic,
                "priority": self.priority,
                "timezone": {"source": self.timezone.source, "fallback": self.timezone.fallback},
                "entry": entry_to_json(self.entry),
                "catch_up": {
                    "max_lateness": self.catch_up.max_lateness,
                    "on_late": self.catch_up.on_late,
                    "spread": self.catch_up.spread,
                    "fires": None if self.catch_up.fires == "latest" else self.catch_up.fires,
                },
                "exit": [rule_to_json(rule) for rule in self.exits] or None,
                "goal": goal_to_json(self.goal),
                "holdout": holdout_to_json(self.holdout),
                "publish": publish_to_json(self.publish),
                "limits": limits_to_json(self.limits),
                "pause": {"clock": self.pause} if self.pause != "run" else None,
                "steps": [step_to_json(step) for step in self.steps],
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
                entry=entry_from_json(data["entry"]),
                catch_up=CatchUp(
                    max_lateness=duration(catch_up.get("max_lateness")),
                    on_late=cast(OnLate, catch_up["on_late"]),
                    spread=duration(catch_up.get("spread")),
                    fires=cast(Fires, catch_up.get("fires", "latest")),
                ),
                steps=tuple(step_from_json(step) for step in data["steps"]),
                exits=tuple(rule_from_json(rule) for rule in data.get("exit", ())),
                goal=goal_from_json(data.get("goal")),
                holdout=holdout_from_json(data.get("holdout")),
                publish=publish_from_json(data.get("publish")),
                limits=limits_from_json(data.get("limits")),
                pause=data.get("pause", {}).get("clock", "run"),
            )
        except (KeyError, TypeError, ExpressionError) as error:
            raise ValueError(
                f"the stored definition of {data.get('key')!r} is not what schema {SCHEMA} holds"
                f" ({error}): publish the sequence again"
            ) from error
