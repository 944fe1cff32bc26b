"""How many workers a queue should have: the rule of the chart's KEDA objects, for one machine.

An age is held against a target, as Kubernetes' autoscaler does it: replicas are multiplied by age
over target. It grows at once, at most to the double (or by two) in `scale_up_period`. It shrinks by
one, when for `scale_down_stabilization_seconds` never as many were wanted as there are, and at most
once in `scale_down_period`. Values in, numbers out; the clock is an argument.

Source: Kubernetes, "Horizontal Pod Autoscaling", algorithm details and scaling policies.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from math import ceil
from typing import Final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks import names
from tasks.errors import Misconfigured
from tasks.upkeep.lateness import POOLS

TOLERANCE: Final = 0.1
"""As near to the target as this, nothing is changed."""

MOST: Final = 64


class AutoscaleSettings(BaseSettings):
    """When `up --autoscale` grows and shrinks a pool, in seconds; `DRIPFLEET_AUTOSCALE_` and the name.

    Names and defaults are those of the chart's `keda` values.
    """

    model_config = SettingsConfigDict(env_prefix="DRIPFLEET_AUTOSCALE_", frozen=True)

    target_age: float = Field(60, gt=0, description="so long may the oldest due row wait")
    polling_interval: float = Field(15, gt=0, description="between two looks at that age")
    scale_down_stabilization_seconds: float = Field(
        900, ge=0, description="in time for so long before a worker is taken away"
    )
    scale_up_period: float = Field(60, ge=0, description="from one growth to the next")
    scale_down_period: float = Field(120, ge=0, description="from one shrinking to the next")


@dataclass(frozen=True, slots=True)
class Bounds:
    """A queue, and how many workers it has at least and at most."""

    queue: str
    min_replicas: int
    max_replicas: int

    @classmethod
    def parse(cls, text: str) -> Bounds:
        """Read ``send=1:3`` or ``send@eu=1:3``.

        Raises:
            Misconfigured: it is not that, or a pool of which no age tells how late it is.
        """
        found = re.fullmatch(rf"([a-z]+(?:@{names.REGION})?)=(\d{{1,3}}):(\d{{1,3}})", text)
        if not found:
            raise Misconfigured(
                f"--autoscale {text[:64]!r}: expected POOL=MIN:MAX, such as send=1:3; correct it"
            )
        queue, low, high = found[1], int(found[2]), int(found[3])
        if names.place_of(queue)[0] not in POOLS:
            raise Misconfigured(
                f"--autoscale {text}: no age tells how late that pool is; expected"
                f" {' or '.join(POOLS)}"
            )
        if not 1 <= low <= high <= MOST:
            raise Misconfigured(
                f"--autoscale {text}: expected 1 <= MIN <= MAX <= {MOST}; correct the range"
            )
        return cls(queue, low, high)


class Scaler:
    """Decides for one queue; `decide` is asked at each look."""

    def __init__(self, bounds: Bounds, settings: AutoscaleSettings) -> None:
        self.bounds = bounds
        self._settings = settings
        self._wanted: deque[tuple[float, int]] = deque()
        self._grew = self._shrank = float("-inf")

    def decide(self, now: float, age: float | None, replicas: int) -> int:
        """How many there should be from now on.

        Args:
            now: a clock, in seconds.
            age: of the oldest due row, in seconds; None: nobody knows, and nothing is changed.
            replicas: how many there are, without those that drain.
        """
        low, high = self.bounds.min_replicas, self.bounds.max_replicas
        wanted = replicas if age is None else self.wanted(age, replicas)
        if not self._wanted:
            # What there is at the start counts as wanted, so that it has its time too.
            self._wanted.append((now, max(replicas, wanted)))
        self._wanted.append((now, wanted))
        while now - self._wanted[0][0] > self._settings.scale_down_stabilization_seconds:
            self._wanted.popleft()
        if replicas < low:
            return low
        if wanted > replicas and now - self._grew >= self._settings.scale_up_period:
            self._grew = now
            return min(wanted, max(2 * replicas, replicas + 2), high)
        most_wanted = max(n for _, n in self._wanted)
        if most_wanted < replicas and now - self._shrank >= self._settings.scale_down_period:
            self._shrank = now
            return replicas - 1
        return replicas

    def wanted(self, age: float, replicas: int) -> int:
        """How many this age asks for, within the bounds."""
        ratio = age / self._settings.target_age
        asked = replicas if abs(ratio - 1) <= TOLERANCE else ceil(replicas * ratio)
        return min(max(asked, self.bounds.min_replicas), self.bounds.max_replicas)
