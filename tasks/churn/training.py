"""From the book of subscribers to an artifact: past, calibration and test are three times.

::

    ──────────────┬──── horizon ────┬──── horizon ────┬──── horizon ────┤ last event
       features   c0    their label c1    their label c2   test's label
    fit: one part of the customers at c0 and c1; calibration: a second part at c1; test: a third at c2

No label of what a model is fitted to or calibrated on reaches past c2, and no customer is in two
parts. Which part is a hash of the id, the same in every training.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.session import Database
from tasks.churn import contest, measure, store
from tasks.churn.artifact import Artifact, pack, unpack
from tasks.churn.book import Book, Ids, hashed
from tasks.churn.contest import Baseline, Part, Verdict
from tasks.churn.drift import reference, score_reference
from tasks.churn.engine import KINDS
from tasks.churn.explain import typical
from tasks.churn.kinds import CHURN, CLV, Kind, named, rule
from tasks.churn.value import LifetimeModel
from tasks.errors import Permanent

FIT, CALIBRATE, TEST = "fit", "calibrate", "test"
SHARES: Final = (0.6, 0.75)  # up to where the hash of an id is fit, and calibration; the rest tests
YEAR: Final = 365.0

Parts = Callable[[Ids, str], NDArray[np.bool_]]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How to train.

    Attributes:
        horizon_days: how far the label looks; None: the score's own.
        kinds: of models that compete.
        most: subscribers looked at, a sample of the book.
        seed: of fits and intervals.
    """

    horizon_days: float | None = None
    kinds: tuple[str, ...] = KINDS
    most: int = 200_000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Trained:
    """An artifact that was kept, and what the rule says of it."""

    artifact: Artifact
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Times:
    """The cutoffs; `fits` one or two of them, and the end of the test's label."""

    fits: tuple[dt.datetime, ...]
    test: dt.datetime
    end: dt.datetime


def by_hash(ids: Ids, part: str) -> NDArray[np.bool_]:
    """Which subscribers are in a part."""
    place = hashed(ids)
    if part == FIT:
        return np.asarray(place < SHARES[0])
    if part == CALIBRATE:
        return np.asarray((place >= SHARES[0]) & (place < SHARES[1]))
    return np.asarray(place >= SHARES[1])


def times(first: dt.datetime, last: dt.datetime, horizon: dt.timedelta) -> Times:
    """The cutoffs of a history.

    Raises:
        TooLittle: it is shorter than two horizons and a half.
    """
    test = last - horizon
    at = [test - horizon * n for n in (2, 1)]
    fits = tuple(each for each in at if each - first >= horizon / 2)
    if not fits:
        raise contest.TooLittle(
            f"events reach back {(last - first).days} days: at least {2.5 * horizon.days:.0f} were"
            f" expected for a horizon of {horizon.days}; bring in more history, or ask for a shorter"
            " one (--horizon)"
        )
    return Times(fits, test, last)


def train(
    database: Database,
    name: str,
    options: Options | None = None,
    *,
    parts: Parts = by_hash,
    say: Say = lambda text: None,
) -> Trained:
    """Train a score on the book, keep the artifact, and judge it; promotes nothing.

    Args:
        database: the book.
        name: of the score: churn, engagement, clv.
        options: how.
        parts: which subscribers are in a part; by default a hash of the id decides.
        say: told how far it is.

    Raises:
        TooLittle: the history has nothing to learn from.
        Permanent: there is no such score.
    """
    options = options or Options()
    kind = named(name)
    book = Book(database, most=options.most)
    try:
        first, last = book.span()
    except LookupError:
        raise contest.TooLittle(
            "there are no events to train on: `dripfleet events import` brings them in"
        ) from None
    horizon = dt.timedelta(days=options.horizon_days or kind.horizon_days)
    when = times(first, last, horizon)
    if kind.name == CLV:
        return _train_value(database, book, kind, when, parts, say)
    return _train_label(database, book, kind, when, horizon, options, parts, say)


def _train_label(
    database: Database, book: Book, kind: Kind, when: Times, horizon: dt.timedelta,
    options: Options, parts: Parts, say: Say,
) -> Trained:  # fmt: skip
    plans = book.plans()

    def at(part: str, cutoff: dt.datetime) -> tuple[Ids, Part]:
        say(f"features of the {part} part at {cutoff:%Y-%m-%d}")
        return book.part(kind, cutoff, cutoff + horizon, plans, lambda ids: parts(ids, part))

    fits = [at(FIT, cutoff)[1] for cutoff in when.fits]
    fit = Part(
        pd.concat([each.table for each in fits], ignore_index=True),
        np.concatenate([each.positive for each in fits]),
    )
    _, calibrate = at(CALIBRATE, when.fits[-1])
    ids, test = at(TEST, when.test)
    contest.require_enough(test, "to test on", kind.of)
    rules = [rule(kind, test.table, horizon.days)]
    if kind.name == CHURN:
        rules += _expected_purchases(book, when, horizon, parts, ids)
    say(f"fitting {', '.join(options.kinds)} to {len(fit.positive)} rows")
    outcome = contest.compete(
        fit, calibrate, test, rules, of=kind.of, kinds=options.kinds, seed=options.seed
    )
    artifact = pack(
        kind.name,
        outcome.model,
        test.table,
        {
            "kind": outcome.model.kind,
            "foretells": kind.foretells,
            "of": kind.of,
            "horizon_days": horizon.days,
            "cutoff": when.test.isoformat(),
            "fitted_at": [each.isoformat() for each in when.fits],
            "label_until": when.end.isoformat(),
            "plans": plans,
            "seed": options.seed,
            "data_sha256": _hash(fit),
            "typical": typical(fit.table),
            "reference": reference(test.table),
            "scores": score_reference(outcome.model, test.table),
            "report": outcome.report,
            "source": "events of the book",
        },
    )
    with database.transaction() as connection:
        store.save(connection, artifact)
    over = _over_champion(database, artifact, outcome.model, test)
    return Trained(artifact, contest.judge(outcome.report["over_rule"], rules[0].name, over))


def _expected_purchases(
    book: Book, when: Times, horizon: dt.timedelta, parts: Parts, ids: Ids
) -> list[Baseline]:
    """BG/NBD's expected purchases of the test, fitted to the others earlier; none if it has no fit."""
    fit = book.histories(when.fits[-1], lambda each: parts(each, FIT)).table
    asked = book.histories(when.test, lambda each: np.isin(each, ids))
    try:
        model = LifetimeModel(horizon.days).fit(fit)
    except ValueError:
        return []
    order = np.searchsorted(asked.ids, ids)
    score = -model.expected_purchases(asked.table.iloc[order])
    return [Baseline("BG/NBD expected purchases", score, -0.5)]


def _over_champion(
    database: Database, artifact: Artifact, model: Any, test: Part
) -> list[float] | None:
    """AUC difference to the champion on the same rows, with its interval; None: nothing to hold it to."""
    with database.transaction() as connection:
        current = store.champion(connection, artifact.name)
        found = None if current in (None, artifact.id) else store.load(connection, str(current))
    if found is None or found.manifest["horizon_days"] != artifact.manifest["horizon_days"]:
        return None
    try:
        champion = unpack(found)
        theirs = champion.predict_proba(test.table)[:, 1]
    except (Permanent, ValueError):
        return None  # one that cannot be used is no champion to be held to
    ours = model.predict_proba(test.table)[:, 1]
    gap = measure.auc_difference(test.positive, ours, theirs)
    return [gap.value, gap.low, gap.high]


def _train_value(
    database: Database, book: Book, kind: Kind, when: Times, parts: Parts, say: Say
) -> Trained:
    horizon = (when.end - when.test).days
    say(f"purchase histories before {when.test:%Y-%m-%d}")
    fit = book.histories(when.test, lambda ids: parts(ids, FIT))
    test = book.histories(when.test, lambda ids: parts(ids, TEST))
    if min(len(fit.ids), len(test.ids)) < contest.ROWS:
        raise contest.TooLittle(
            f"{len(fit.ids)} customers to train on and {len(test.ids)} to test on: at least"
            f" {contest.ROWS} of each were expected; bring in more history"
        )
    try:
        model = LifetimeModel(horizon).fit(fit.table)
    except ValueError as fault:
        raise contest.TooLittle(f"no lifetime value: {fault}") from fault
    foretold = model.predict(test.table)
    spent = book.spent(when.test, when.end, test.ids)
    # The one-line rule: it goes on as it went.
    days = np.maximum(test.table["T"].to_numpy(), 1.0)
    as_before = test.table["spent"].to_numpy() / days * horizon
    gap = measure.mean_difference(np.abs(foretold - spent), np.abs(as_before - spent))
    report = {
        "rows": {"fit": len(fit.ids), "calibrate": 0, "test": len(test.ids)},
        "horizon_days": horizon,
        "total_foretold": float(foretold.sum()),
        "total_spent": float(spent.sum()),
        "mean_error": float(np.abs(foretold - spent).mean()),
        "mean_error_of_rule": float(np.abs(as_before - spent).mean()),
        "rule": "goes on as before",
        "error_over_rule": [gap.value, gap.low, gap.high],
        "purchases": dict(
            zip(("r", "alpha", "a", "b", "log_likelihood"), model.purchases_, strict=True)
        ),
        "worth": dict(zip(("p", "q", "v", "log_likelihood"), model.worth_, strict=True)),
    }
    model.horizon_days = YEAR
    columns = ["x", "t_x", "T", "mean"]
    artifact = pack(
        kind.name,
        model,
        test.table[columns],
        {
            "kind": "BG/NBD and Gamma-Gamma",
            "foretells": kind.foretells,
            "of": kind.of,
            "horizon_days": YEAR,
            "cutoff": when.test.isoformat(),
            "fitted_at": [when.test.isoformat()],
            "label_until": when.end.isoformat(),
            "plans": [],
            "data_sha256": hashlib.sha256(fit.table.to_numpy().tobytes()).hexdigest(),
            "typical": typical(fit.table[columns]),
            "reference": reference(test.table[columns]),
            "scores": score_reference(model, test.table),
            "report": report,
            "source": "events of the book",
        },
    )
    with database.transaction() as connection:
        store.save(connection, artifact)
    if gap.high < 0:
        verdict = Verdict(True, f"its mean error is {-gap.value:.2f} under that of the rule")
    else:
        verdict = Verdict(
            False,
            f"its mean error is {gap.value:+.2f} ({gap.low:+.2f} to {gap.high:+.2f}) over that of the"
            " rule that it goes on as before: the interval does not lie under 0",
        )
    return Trained(artifact, verdict)


def _hash(part: Part) -> str:
    rows = pd.util.hash_pandas_object(part.table, index=False).to_numpy()
    return hashlib.sha256(rows.tobytes() + part.positive.tobytes()).hexdigest()
