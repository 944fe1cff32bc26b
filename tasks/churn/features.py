"""What is known of a subscriber at a cutoff, as numbers: the catalogue, and its SQL.

Everything is counted from events strictly before the cutoff, and from mails sent before it. An
attribute of the subscriber is what it is today, not what it was then, so none is a feature; the
plan is read from the last event that told one.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from tasks.audience import rfm

OPENED: Final = "email.opened"
CLICKED: Final = "email.clicked"
LOGIN: Final = "login"
PLANS: Final = "subscription."
"""Prefix of the events that tell a plan: subscription.started, .paused, .resumed …"""
MACHINE: Final = "machine"
"""Property, true on an open or a click that no human made (scanner, proxy): it never enters."""

HALF_LIFE: Final = 30.0  # days after which an open or a click counts half
WINDOW: Final = 91.0  # days that count as recent: a quarter of a year, whole weeks


# Of some, each at an instant of their own: what had happened before somebody came into an arm.
_EACH = (
    "unnest(CAST(%(ids)s AS bigint[]), CAST(%(epochs)s AS float8[])) t (id, epoch)"
    " JOIN event e ON e.subscriber_id = t.id AND e.occurred_at < to_timestamp(t.epoch)",
    "t.epoch",
)


def events_sql(*, each: bool = False) -> str:
    """One row for each event of a range that counts: how old it is, and as what it counts.

    An age stands in the column of its kind and is NULL in the others, which the aggregates pass
    over without a condition. Each event is looked at once: what it is and how old, then what it
    weighs; `OFFSET 0` keeps the planner from reckoning these again in every aggregate.
    """
    source, epoch = _EACH if each else (f"event e WHERE {rfm.WINDOW}", "%(epoch)s")
    weight = f"exp(greatest(-{math.log(2) / HALF_LIFE:.9f} * e.age, -700))"
    return f"""
SELECT e.subscriber_id, e.age,
    CASE WHEN e.kind = 1 THEN e.age END AS bought, CASE WHEN e.kind = 2 THEN e.age END AS opened,
    CASE WHEN e.kind = 3 THEN e.age END AS clicked, CASE WHEN e.kind = 4 THEN e.age END AS came,
    CASE WHEN e.kind = 1 THEN {rfm.AMOUNT_OF} END AS amount,
    CASE WHEN e.kind = 2 THEN {weight} END AS open_weight,
    CASE WHEN e.kind = 3 THEN {weight} END AS click_weight,
    CASE WHEN e.kind = 0 AND starts_with(e.name, '{PLANS}')
        THEN to_char(e.occurred_at AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS')
            || (e.properties ->> 'plan') END AS plan
FROM (
    SELECT e.subscriber_id, e.name, e.occurred_at, e.properties,
        ({epoch} - date_part('epoch', e.occurred_at)) / 86400 AS age,
        CASE e.name WHEN %(purchase)s THEN 1 WHEN '{LOGIN}' THEN 4
            WHEN '{OPENED}' THEN CASE WHEN {_MACHINE} THEN NULL ELSE 2 END
            WHEN '{CLICKED}' THEN CASE WHEN {_MACHINE} THEN NULL ELSE 3 END
            ELSE 0 END AS kind
    FROM {source} OFFSET 0) e
WHERE e.kind IS NOT NULL OFFSET 0
"""


_MACHINE = f"e.properties ->> '{MACHINE}' = 'true'"
# A plan that no model knows has no place in the array, and is none.
_PLAN = "array_position(CAST(%(plans)s AS text[]), substr(max(k.plan), 21))"


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature.

    Attributes:
        name: of its column.
        meaning: in words that an operator reads, fit to follow "because: ".
        unit: of the value.
        source: which rows it is counted from.
        sql: its aggregate over `k`, the events of a subscriber; empty: derived from others.
    """

    name: str
    meaning: str
    unit: str
    source: str
    sql: str = ""


CATALOG: Final[tuple[Feature, ...]] = (
    Feature("recency_days", "days since the last purchase", "days", "event purchase",
            "min(k.bought)"),
    Feature("frequency", "purchases ever", "purchases", "event purchase",
            "count(k.bought)"),
    Feature("monetary", "spent ever", "currency of the shop", "event purchase",
            "coalesce(sum(k.amount), 0)"),
    Feature("tenure_days", "days since the first purchase", "days", "event purchase",
            "max(k.bought)"),
    Feature("purchases_91d", "purchases in the last 91 days", "purchases", "event purchase",
            f"count(*) FILTER (WHERE k.bought <= {WINDOW:g})"),
    Feature("purchase_spread_days", "spread of the purchase dates", "days (standard deviation)",
            "event purchase",
            "coalesce(stddev_pop(k.bought), 0)"),
    Feature("known_days", "days since the first event of any kind", "days", "all events",
            "max(k.age)"),
    Feature("active_days_ago", "days since the last event of any kind", "days", "all events",
            "min(k.age)"),
    Feature("open_days_ago", "days since the last open by a human", "days", f"event {OPENED}",
            "min(k.opened)"),
    Feature("opens_decayed", "opens by a human, each halved every 30 days", "opens",
            f"event {OPENED}", "coalesce(sum(k.open_weight), 0)"),
    Feature("click_days_ago", "days since the last click by a human", "days", f"event {CLICKED}",
            "min(k.clicked)"),
    Feature("clicks_decayed", "clicks by a human, each halved every 30 days", "clicks",
            f"event {CLICKED}", "coalesce(sum(k.click_weight), 0)"),
    Feature("login_days_ago", "days since the last log-in", "days", f"event {LOGIN}",
            "min(k.came)"),
    Feature("logins_91d", "log-ins in the last 91 days", "log-ins", f"event {LOGIN}",
            f"count(*) FILTER (WHERE k.came <= {WINDOW:g})"),
    Feature("plan", "the plan", "name", f"last event {PLANS}* with a property plan", _PLAN),
    Feature("mails_91d", "mails sent to them in the last 91 days", "mails", "message", "mails"),
    Feature("gap_days", "usual days between purchases", "days", "derived"),
    Feature("overdue", "days since the last purchase over the usual days between them", "ratio",
            "derived"),
    Feature("spent_each", "spent a purchase", "currency of the shop", "derived"),
)  # fmt: skip
"""Every feature, in the order of the columns."""

COUNTED: Final = tuple(feature for feature in CATALOG if feature.sql)
CATEGORIES: Final = frozenset({"plan"})
COLUMNS: Final = ("subscriber_id", *(feature.name for feature in COUNTED))
"""Columns of `features_sql`: the id as int8, the others as float8, NaN where nothing is known."""
NAMES: Final = tuple(feature.name for feature in CATALOG)
BY_NAME: Final[Mapping[str, Feature]] = {feature.name: feature for feature in CATALOG}


_MAILED_RANGE = (
    "message m WHERE m.subscriber_id >= %(first)s AND m.subscriber_id < %(end)s",
    "%(cutoff)s",
)
_MAILED_EACH = (
    "unnest(CAST(%(ids)s AS bigint[]), CAST(%(epochs)s AS float8[])) t (id, epoch)"
    " JOIN message m ON m.subscriber_id = t.id WHERE true",
    "to_timestamp(t.epoch)",
)


def features_sql(*, bought: bool = False, each: bool = False) -> str:
    """One row for each subscriber of a range with an event before the cutoff: `COLUMNS`, by id.

    Args:
        bought: only those who bought before it (who never bought cannot lapse).
        each: of `each_parameters`: some, each at a cutoff of their own.

    Its parameters are those of `parameters`. The lower bound of time is left out on purpose: a
    purchase of years ago is tenure.
    """
    columns = ", ".join(
        f"coalesce(CAST({f.sql} AS float8), 'NaN') AS {f.name}"
        for f in COUNTED
        if f.source != "message"
    )
    having = "HAVING count(k.bought) > 0" if bought else ""
    mails, cutoff = _MAILED_EACH if each else _MAILED_RANGE
    return f"""
WITH counted AS (
    SELECT k.subscriber_id, {columns}
    FROM ({events_sql(each=each)}) k GROUP BY k.subscriber_id {having}
), mailed AS (
    SELECT m.subscriber_id, count(*) AS mails FROM {mails}
      AND m.state IN ('sent', 'sent_assumed') AND m.armed_at < {cutoff}
      AND m.armed_at >= {cutoff} - interval '{WINDOW:g} days'
    GROUP BY m.subscriber_id)
SELECT counted.*, CAST(coalesce(mailed.mails, 0) AS float8) AS mails_91d
FROM counted LEFT JOIN mailed USING (subscriber_id) ORDER BY subscriber_id
"""


def parameters(
    cutoff: dt.datetime, first: int, end: int, plans: Sequence[str] = ()
) -> dict[str, object]:
    """What `features_sql` asks for.

    Args:
        cutoff: aware; what happened strictly before it counts.
        first: the first subscriber id of the range.
        end: the first id after it.
        plans: names of the plans that the model knows; others read as none.
    """
    own = {"plans": list(plans), "epoch": cutoff.timestamp()}
    return rfm.parameters(cutoff, first, end) | own


def each_parameters(
    ids: Sequence[int], epochs: Sequence[float], plans: Sequence[str] = ()
) -> dict[str, object]:
    """What `features_sql(each=True)` asks for.

    Args:
        ids: of subscribers, each once.
        epochs: of each the cutoff, in seconds since 1970.
        plans: as `parameters`.
    """
    names = {"purchase": rfm.PURCHASE, "amount": rfm.AMOUNT}
    return names | {"ids": list(ids), "epochs": list(epochs), "plans": list(plans)}


def table(columns: Mapping[str, Any], plans: Sequence[str] = ()) -> pd.DataFrame:
    """The features of a range as a model takes them: `NAMES`, a row a subscriber.

    Args:
        columns: arrays of float64 (n,) by name: those of `COLUMNS` but the id.
        plans: as they were given to the query.

    Raises:
        SeesTheFuture: a row knows something that is not over at the cutoff.
    """
    refuse_the_future(columns)
    found: dict[str, Any] = {f.name: columns[f.name] for f in COUNTED if f.name not in CATEGORIES}
    frequency, recency = columns["frequency"], columns["recency_days"]
    with np.errstate(all="ignore"):
        gap = np.where(frequency > 1, (columns["tenure_days"] - recency) / (frequency - 1), np.nan)
        found["gap_days"] = gap
        # Two purchases of one day say nothing of a rhythm in days.
        found["overdue"] = np.where(gap >= 1, recency / gap, np.nan)
        found["spent_each"] = np.where(frequency > 0, columns["monetary"] / frequency, np.nan)
    codes = np.nan_to_num(columns["plan"], nan=0).astype(int) - 1
    found["plan"] = pd.Categorical.from_codes(codes, categories=list(plans))
    return pd.DataFrame(found, columns=list(NAMES))


class SeesTheFuture(ValueError):
    """A feature was counted from something at or after its cutoff."""


def refuse_the_future(columns: Mapping[str, Any]) -> None:
    """Refuse ages below zero: whatever is younger than the cutoff is what was to be foretold.

    Raises:
        SeesTheFuture: names the feature, and how far it looks ahead.
    """
    for name, values in columns.items():
        if name.endswith(("_days", "_ago")) and name != "purchase_spread_days":
            least = np.nanmin(values, initial=np.inf)
            if least < 0:
                raise SeesTheFuture(
                    f"feature {name!r} sees {-least:.2f} days past its cutoff; nothing is fitted or"
                    " scored with it: look for its events with a time in the future"
                )


def empty(plans: Sequence[str] = ()) -> pd.DataFrame:
    """A table of features with no rows."""
    nothing = {name: np.empty(0) for name in COLUMNS[1:]}
    return table(nothing, plans)
