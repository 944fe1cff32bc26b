"""An experiment: its arms, who comes into which, and when it may be concluded."""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, cast

Test: TypeAlias = Literal["sequential", "pocock", "obrien_fleming"]
Allocation: TypeAlias = Literal["fixed", "thompson"]
Harm: TypeAlias = Literal["complaint_rate", "unsubscribe_rate"]
HARMS: Final[tuple[Harm, ...]] = ("complaint_rate", "unsubscribe_rate")


@dataclass(frozen=True, slots=True)
class Arm:
    """One way that is tried: its weight among the others, and the id of the step where it begins."""

    name: str
    weight: int
    next: str


@dataclass(frozen=True, slots=True)
class Stop:
    """When an experiment may be concluded, and what stops an arm at once.

    Attributes:
        test: `sequential` may be looked at always; the others at `looks` that are planned, up to
            `people` an arm.
        alpha: the chance to find something where there is nothing, over all looks and arms.
        min_per_arm: people an arm below which nothing is concluded.
        max_days: after which "no winner" is the answer; None: never.
        effect: the relative lift that is looked for; the sequential test is quickest near it.
        guardrail: the largest rate of a harm, of the mails of an arm, that is let pass.
    """

    test: Test = "sequential"
    alpha: float = 0.05
    min_per_arm: int = 1000
    max_days: int | None = None
    effect: float = 0.1
    looks: int | None = None
    people: int | None = None
    guardrail: tuple[tuple[Harm, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ExperimentStep:
    """People are divided at random, each always into the same arm; the first arm is the control.

    ``metric`` is what counts: the goal of the sequence. ``salt`` says who comes into which arm; None
    is one that no other experiment has. ``allocate``: the weights of the file hold, or the fleet moves
    them hourly to the arms that are likely to be the best.
    """

    id: str
    arms: tuple[Arm, ...]
    salt: str | None = None
    metric: Literal["goal"] = "goal"
    stop: Stop = field(default_factory=Stop)
    allocate: Allocation = "fixed"

    def __post_init__(self) -> None:
        if len({arm.name for arm in self.arms}) != len(self.arms) or len(self.arms) < 2:
            raise ValueError(
                f"experiment {self.id!r}: expected two arms or more, each with its name"
            )
        if not any(arm.weight for arm in self.arms):
            raise ValueError(f"experiment {self.id!r}: expected an arm with a weight above 0")

    @property
    def control(self) -> Arm:
        """The arm that the others are compared with."""
        return self.arms[0]

    @property
    def next(self) -> str:
        """The default way: that of the control."""
        return self.control.next

    def arm(self, name: str | None) -> Arm | None:
        """Return the arm of that name, or None where there is none (any more)."""
        return next((arm for arm in self.arms if arm.name == name), None)

    def shares(
        self, stopped: Collection[str] = (), moved: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        """Return arm → weight of those that people may come into, in lowest terms.

        ``moved`` are weights in place of the file's; an arm that the file closed stays closed.
        """
        weights = {
            arm.name: (moved or {}).get(arm.name, arm.weight)
            for arm in self.arms
            if arm.name not in stopped and arm.weight
        }
        common = math.gcd(*weights.values()) if weights else 1
        return {name: weight // common for name, weight in weights.items()}

    def draw(self, sequence_key: str, subscriber_id: int, shares: Mapping[str, int]) -> str:
        """Return the arm of a subscriber among ``shares``: always the same under the same salt.

        Weighted rendezvous hashing (Schindelhauer and Schomaker 2005): each arm draws a waiting time
        −ln(u) / weight, u from HMAC-SHA256 (RFC 2104) of subscriber and arm under the salt, and the
        shortest wins. So a share is weight / sum of weights, and where weights change or an arm goes
        only those change their arm who must: nobody goes from one arm to another whose weights both
        stayed.

        Raises:
            ValueError: there is no arm to draw from.
        """
        if not shares:
            raise ValueError(f"experiment {self.id!r} has no arm that people may come into")

        salt = (self.salt or f"{sequence_key}/{self.id}").encode()

        def waits(name: str) -> float:
            told = f"{subscriber_id}\x1f{name}".encode()
            digest = hmac.digest(salt, told, hashlib.sha256)
            return -math.log((int.from_bytes(digest[:6], "big") + 0.5) / (1 << 48)) / shares[name]

        return min(sorted(shares), key=waits)


def experiment_to_json(step: ExperimentStep) -> dict[str, Any]:
    """Return the form that `experiment_from_json` reads; arms as rows, since their order counts."""
    stop = step.stop
    return {
        "experiment": {
            "arms": [{"name": arm.name, "next": arm.next, "weight": arm.weight} for arm in step.arms],
            "metric": step.metric,
            "allocate": None if step.allocate == "fixed" else step.allocate,
            "salt": step.salt,
            "stop": {
                "test": stop.test, "alpha": stop.alpha, "min_per_arm": stop.min_per_arm,
                "max_days": stop.max_days, "effect": stop.effect, "looks": stop.looks,
                "people": stop.people, "guardrail": dict(stop.guardrail) or None,
            },
        }
    }  # fmt: skip


def experiment_from_json(id_: str, data: Mapping[str, Any]) -> ExperimentStep:
    """Read what `experiment_to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: it never wrote this.
    """
    stop = dict(data["stop"])
    harms = cast("Mapping[Harm, float]", stop.pop("guardrail", {}))
    return ExperimentStep(
        id_,
        tuple(Arm(row["name"], row["weight"], row["next"]) for row in data["arms"]),
        data.get("salt"),
        data["metric"],
        Stop(**stop, guardrail=tuple((name, harms[name]) for name in HARMS if name in harms)),
        data.get("allocate", "fixed"),
    )
