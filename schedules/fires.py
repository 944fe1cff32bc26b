"""When a cron line fires, and which of its fires still count after downtime.

A line speaks of local wall time. `cronsim` computes on naive times alone here, and `localtime`
says what instant each is: with a zone of its own, cronsim skips a time in a DST gap and fires an
ambiguous one twice as soon as minute or hour begin with a star. So a wall time in a gap fires at the
first instant after it (several in one gap: once), an ambiguous one at its first occurrence, and a
line of every ten minutes is silent for an hour when clocks go back: it says ``zone: UTC`` to
count elapsed time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

from cronsim import CronSim, CronSimError

from schedules.localtime import local, resolve

CatchUp: TypeAlias = Literal["latest", "all", "skip"]
"""What runs of the fires that nobody was there for: the last of them, each, none."""

ON_TIME: Final = timedelta(minutes=1)
"""A fire seen within this time was not missed; it is also the least that max_lateness may be."""

LONGEST: Final = 200
"""Characters of an expression."""


@dataclass(frozen=True, slots=True)
class Fire:
    """One fire: the wall time that the line says (naive), and its instant (UTC)."""

    wall: datetime
    at: datetime


@dataclass(frozen=True, slots=True)
class Judged:
    """What becomes of a fire that is due; `reason` of a missed one: superseded, too_late, skipped."""

    fire: Fire
    state: Literal["claimed", "missed"]
    reason: str | None = None


def parse_cron(text: str) -> str:
    """Return a cron expression in its one form: five fields, single spaces, upper case.

    Day of month and day of week, as in Debian's cron: both must match if either begins with a star,
    else one of them. ``L`` is the last day of a month, ``MON#1`` the first Monday, ``5L`` the last
    Friday.

    Raises:
        ValueError: not such an expression, or one that never fires.
    """
    fields = text[: LONGEST + 1].upper().split()
    why = None
    if len(text) > LONGEST:
        why = f"over {LONGEST} characters"
    elif len(fields) != 5:
        why = f"{len(fields)} field{'' if len(fields) == 1 else 's'}"
    else:
        try:
            # The next fifty years from any day are looked through, leap days among them.
            if next(CronSim(" ".join(fields), datetime(2026, 1, 1)), None) is None:  # noqa: DTZ001
                why = "it never fires"
        except CronSimError as error:
            why = str(error).lower()
    if why:
        raise ValueError(
            f"{text[:40]!r} is not a cron expression ({why}): expected five fields, minute, hour, day"
            ' of month, month and day of week, such as "0 9 * * MON"; correct it'
        )
    return " ".join(fields)


def fires(cron: str, zone: str, after: datetime) -> Iterator[Fire]:
    """Yield the fires after the instant `after`, in order, each instant once.

    Ends if there is none for fifty years.

    Raises:
        ValueError: no cron expression, or no zone.
    """
    expression, last = parse_cron(cron), after
    # No wall time up to this one has an instant after `after`: the first occurrence counts.
    for wall in CronSim(expression, local(after, zone)):
        at = resolve(wall, zone)
        if at > last:
            last = at
            yield Fire(wall, at)


def judge(
    due: Sequence[Fire],
    now: datetime,
    catch_up: CatchUp,
    max_lateness: timedelta,
    *,
    more: bool = False,
) -> list[Judged]:
    """Say of fires that are due which run, and why the others do not.

    Args:
        due: in order, none after `now`.
        now: instant.
        catch_up: of the line.
        max_lateness: a fire older than this never runs.
        more: later ones are due too, and will be judged after these.
    """
    judged = []
    for place, fire in enumerate(due):
        late = now - fire.at
        reason = None
        if late > max_lateness:
            reason = "too_late"
        elif catch_up == "skip" and late > ON_TIME:
            reason = "skipped"
        elif catch_up == "latest" and (more or place < len(due) - 1):
            reason = "superseded"
        judged.append(Judged(fire, "missed" if reason else "claimed", reason))
    return judged
