"""Who walks in a simulation, and what they do with their mail: declared, and the same for a seed.

Every chance is a hash of seed, person and step, not the next number of a generator: what somebody
does depends on nobody else, and a changed step changes nothing about the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

OPENED: Final = "email.opened"
CLICKED: Final = "email.clicked"
STOPPED: Final = "unsubscribe"

# Zone, country and share of the people who are made up; one in twenty has no zone.
_HOMES: Final = (
    ("Europe/Berlin", "DE", 0.30), ("America/New_York", "US", 0.25), ("Europe/London", "GB", 0.12),
    ("America/Los_Angeles", "US", 0.10), ("Asia/Tokyo", "JP", 0.08), ("Asia/Kolkata", "IN", 0.05),
    ("Australia/Sydney", "AU", 0.05), (None, None, 0.05),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Person:
    """A subscriber of a simulation.

    Attributes:
        id: what their chances hang on.
        zone: as the subscriber says it, valid or not.
        subscriber: what ``sub.…`` gives: columns and attributes.
        topics: their answers; None: they opted in to whatever is asked.
        scores: name → value, always fresh; one that is missing is stale.
        segments: name → label.
    """

    id: int
    zone: str | None = None
    subscriber: Mapping[str, Any] = field(default_factory=dict)
    topics: Mapping[str, bool] | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    segments: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Behavior:
    """What becomes of a mail, as chances from 0 to 1, each for itself.

    Attributes:
        opens, clicks: it is opened, clicked; who clicks has opened.
        converts: event → chance that a mail is followed by it.
        stops: its reader unsubscribes.
        fails: the relay refuses it for good.
        bounces: the address does not exist, and is suppressed.
        within: all of it happens in this time after the mail, evenly.
    """

    opens: float = 0.0
    clicks: float = 0.0
    converts: Mapping[str, float] = field(default_factory=dict)
    stops: float = 0.0
    fails: float = 0.0
    bounces: float = 0.0
    within: timedelta = timedelta(hours=24)


def chances(seed: int, person: int, *about: str) -> list[float]:
    """Return eight numbers in [0, 1) that hang on nothing but the arguments."""
    told = "\x1f".join((str(seed), str(person), *about)).encode()
    digest = hashlib.blake2b(told, digest_size=64).digest()
    return [int.from_bytes(digest[at : at + 6], "big") / (1 << 48) for at in range(0, 64, 8)]


def outcome_of(behavior: Behavior, draws: list[float]) -> tuple[str, bool]:
    """Return the terminal state of a mail, and whether its address does not exist."""
    if draws[0] < behavior.bounces:
        return "failed", True
    return ("failed" if draws[1] < behavior.fails else "sent"), False


def reactions(
    behavior: Behavior, seed: int, person: int, step_id: str, draws: list[float], sent_at: datetime
) -> Iterator[tuple[datetime, str]]:
    """Yield what a reader does after a mail, and when."""
    clicks = draws[2] < behavior.clicks
    read_at = sent_at + behavior.within * draws[3]
    if clicks or draws[4] < behavior.opens:
        yield read_at, OPENED
    if clicks:
        yield read_at + timedelta(seconds=20), CLICKED
    if draws[5] < behavior.stops:
        yield read_at + timedelta(seconds=30), STOPPED
    for event, chance in behavior.converts.items():
        answer, when, *_ = chances(seed, person, step_id, event)
        if answer < chance:
            yield sent_at + behavior.within * when, event


def made_up(count: int, seed: int, scores: frozenset[str] = frozenset()) -> list[Person]:
    """Return people who do not exist: zones, countries and orders by shares, scores evenly.

    Args:
        count: how many.
        seed: the same one makes the same people, however many.
        scores: those that the sequence asks for; one person in twenty has none.
    """
    people = []
    for number in range(1, count + 1):
        draws = chances(seed, number, "person")
        zone, country = _home(draws[0])
        about: dict[str, Any] = {
            "first_name": f"Person {number}", "locale": None, "zone": zone,
            "external_id": f"made-up-{number}", "status": "subscribed",
            "orders": int(draws[1] * 10),
        }  # fmt: skip
        if country is not None:
            about["country"] = country
        known = {}
        for name in sorted(scores):
            fresh, value, *_ = chances(seed, number, "score", name)
            if fresh >= 0.05:
                known[name] = value
        people.append(Person(number, zone, about, None, known))
    return people


def _home(draw: float) -> tuple[str | None, str | None]:
    for zone, country, share in _HOMES:
        draw -= share
        if draw < 0:
            return zone, country
    return None, None
