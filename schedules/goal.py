"""What people come out with: the goal of a sequence, and those who are held out to measure it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from schedules.durations import parse_duration
from schedules.expression import Expression, read
from schedules.stored import plain

BUCKETS: Final = 1 << 32
"""Buckets of a holdout; a percentage is as many of them, from the first one on."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A conversion is the first such event within ``window`` of the entry; ``value`` what it is worth."""

    event: str
    window: timedelta
    value: Expression | None = None


@dataclass(frozen=True, slots=True)
class Holdout:
    """``percent`` of the subscribers get no mail and walk all the same; who, is said by ``salt``."""

    percent: Decimal
    salt: str

    @property
    def threshold(self) -> int:
        """Who is in a bucket below it is held out: a larger percentage keeps whom a smaller one had."""
        return int(self.percent * BUCKETS / 100)

    def bucket(self, subscriber_id: int) -> int:
        """Return the bucket of a subscriber, 0 … 2³² − 1: always the same under the same salt.

        HMAC-SHA256 (RFC 2104) of the decimal id, keyed with the salt; its first four octets.
        """
        digest = hmac.digest(self.salt.encode(), str(subscriber_id).encode(), hashlib.sha256)
        return int.from_bytes(digest[:4], "big")

    def holds(self, subscriber_id: int) -> bool:
        """Tell whether a subscriber is held out."""
        return self.bucket(subscriber_id) < self.threshold

    @property
    def pads(self) -> tuple[bytes, bytes]:
        """The inner and outer padded key of that HMAC, for whoever computes it from sha256 alone."""
        key = self.salt.encode()
        key = hashlib.sha256(key).digest() if len(key) > 64 else key
        key = key.ljust(64, b"\0")
        return bytes(b ^ 0x36 for b in key), bytes(b ^ 0x5C for b in key)


def goal_to_json(goal: Goal | None) -> dict[str, Any] | None:
    """Return the form that `goal_from_json` reads."""
    if goal is None:
        return None
    return plain({"event": goal.event, "window": goal.window, "value": goal.value})


def goal_from_json(data: Mapping[str, Any] | None) -> Goal | None:
    """Read what `goal_to_json` wrote."""
    if data is None:
        return None
    value = data.get("value")
    return Goal(
        data["event"],
        parse_duration(data["window"]),
        None if value is None else read(value, condition=False, scores=False, event=True),
    )


def holdout_to_json(holdout: Holdout | None) -> dict[str, Any] | None:
    """Return the form that `holdout_from_json` reads; the share as text, so that it stays exact."""
    return None if holdout is None else {"percent": f"{holdout.percent:f}", "salt": holdout.salt}


def holdout_from_json(data: Mapping[str, Any] | None) -> Holdout | None:
    """Read what `holdout_to_json` wrote."""
    return None if data is None else Holdout(Decimal(data["percent"]), data["salt"])
