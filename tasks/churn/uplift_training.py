"""From people who were divided by chance to an uplift, and whether anybody may branch on it.

One rule, for the operator too: an uplift is champion only while its Qini coefficient lies above 0 with
its whole 95 % interval. A training that does not show it withdraws the champion that there was, with
its scores, so that a step takes its `on_stale` way from that moment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import structlog
from numpy.typing import NDArray

from models.session import Database
from tasks.churn import store
from tasks.churn.artifact import Artifact, pack
from tasks.churn.book import Book, Rows, features_at, hashed, reading
from tasks.churn.contest import TooLittle
from tasks.churn.divided import Divided, divided
from tasks.churn.drift import reference, score_reference
from tasks.churn.explain import typical
from tasks.churn.kinds import named
from tasks.churn.qini import CROSS_FITTED, by_part, curve, qini
from tasks.churn.settings import ChurnSettings
from tasks.churn.trainings import Ended
from tasks.churn.uplift import FOLDS, KINDS, UpliftModel, out_of_fold
from tasks.churn.uplift_name import no_gain, parse
from tasks.errors import Permanent
from tasks.experiment.intervals import newcombe

log = structlog.get_logger()

PEOPLE: Final = 100
"""People of whom something is known, an arm, below which nothing is learned."""
EACH: Final = 25
"""Conversions, and people without one, an arm: five a fold."""
AT_ONCE: Final = 20_000  # people whose features are read at once


def train(
    database: Database, name: str, options: dict[str, Any], settings: ChurnSettings, say: Any
) -> Ended:
    """Learn an uplift, keep its artifact, and make it champion or withdraw the one there is.

    Args:
        database: the book.
        name: ``uplift:…``, see `uplift_name`.
        options: kinds (the first one is taken), seed, promote (False: it does not become champion).
        settings: the pool's.
        say: told how far it is.

    Raises:
        TooLittle: too few people or conversions in an arm; the champion stays.
        Permanent: see `divided`; or an option that an uplift does not have.
    """
    word = options.get("promote")
    kind = next(iter(options.get("kinds", KINDS)))
    if kind not in KINDS or options.get("horizon_days") is not None:
        raise Permanent(
            f"an uplift is learned by one of {', '.join(KINDS)}, over the time that the goal has:"
            " expected no other --kind, and no --horizon"
        )
    artifact = learn(database, name, kind, int(options.get("seed", 0)), settings.sample, say)
    why = no_gain(name, artifact.manifest["report"])
    with database.transaction() as connection:
        store.save(connection, artifact)
        if why is not None:
            gone = store.withdraw(connection, name, why)
            why += f"; {gone} and its scores are withdrawn" if gone else ""
        elif word is not False:
            store.promote(connection, artifact.id, "its Qini coefficient lies above 0")
    if why is None:
        value, low, high = artifact.manifest["report"]["qini"]
        said = f"its Qini coefficient is {value:+.3f} ({low:+.3f} to {high:+.3f}), above 0"
        said = (
            f"not promoted, by the operator's word: {said}"
            if word is False
            else f"promoted: {said}"
        )
    else:
        said = f"not promoted: {why}"
    log.info("trained", score=name, artifact=artifact.id, promoted=why is None, why=said)
    return Ended(artifact.id, said, why is None and word is not False, artifact.manifest)


def learn(
    database: Database, name: str, kind: str, seed: int, most: int, say: Any = lambda text: None
) -> Artifact:
    """Fit it, and measure it on people whom it was not fitted to.

    Raises:
        TooLittle: as `train`.
        Permanent: likewise.
    """
    asked = parse(name)
    with database.snapshot() as connection:
        all_ = divided(connection, asked)
    say(f"{len(all_.ids)} people: {all_.said}")
    plans = Book(database).plans()
    rows, trial = _known(database, all_, plans, most)
    require_enough(trial)
    y, treated, weights = trial.converted, trial.treated, trial.weights
    say(f"fitting {kind} in {FOLDS} folds to {len(y)} people")
    model = UpliftModel(kind, random_state=seed)
    try:
        foretold = out_of_fold(model, rows.table, y, treated)
        model.fit(rows.table, y, treated)
    except ValueError as fault:
        raise TooLittle(f"no uplift: {fault}") from fault
    estimate = qini(y, treated, foretold, weights=weights, widen=CROSS_FITTED, seed=seed)
    counts = _counts(trial)
    (x, n), (z, m) = counts["with"], counts["without"]
    report = {
        "qini": [estimate.value, estimate.low, estimate.high],
        "arms": trial.said,
        "rows": {"fit": len(y), "calibrate": 0, "test": len(y)},
        "people_without_events": len(all_.ids) - len(y),
        "with": {"people": n, "converted": x},
        "without": {"people": m, "converted": z},
        "all": [x / n - z / m, *newcombe(z, m, x, n)],
        "curve": curve(y, treated, foretold, weights),
        "parts": by_part(y, treated, foretold),
    }
    return pack(
        name,
        model,
        rows.table,
        {
            "kind": f"T-learner, {kind}",
            "foretells": named(name).foretells,
            "of": named(name).of,
            "horizon_days": trial.window.total_seconds() / 86400,
            "cutoff": _iso(trial.epochs.max()),
            "plans": plans,
            "seed": seed,
            "data_sha256": _hash(rows.table, trial),
            "typical": typical(rows.table),
            "reference": reference(rows.table),
            "scores": score_reference(model, rows.table),
            "report": report,
            "source": f"who came in from {_iso(trial.epochs.min())[:10]} to"
            f" {_iso(trial.epochs.max())[:10]}, as each was known then",
        },
    )


def require_enough(trial: Divided) -> None:
    """Refuse arms from which nothing can be learned.

    Raises:
        TooLittle: names the arm, what was expected, and the next move.
    """
    for word, (converted, people) in _counts(trial).items():
        if people < PEOPLE or not EACH <= converted <= people - EACH:
            raise TooLittle(
                f"{converted} of {people} people {word} the mail reached the goal ({trial.said}): at"
                f" least {PEOPLE} people were expected in each arm, {EACH} of them with the goal and"
                f" {EACH} without; wait for more entries, or make the holdout larger"
            )


def _counts(trial: Divided) -> dict[str, tuple[int, int]]:
    """Conversions and people of both arms."""
    return {
        word: (int(trial.converted[rows].sum()), int(rows.sum()))
        for word, rows in (("with", trial.treated), ("without", ~trial.treated))
    }


def _known(
    database: Database, trial: Divided, plans: Sequence[str], most: int
) -> tuple[Rows, Divided]:
    """Of whom anything was known when they came in, with their features; a sample of `most`."""
    keep = hashed(trial.ids, salt=3) < most / max(len(trial.ids), 1)
    trial = _of(trial, keep)
    ids, tables = [], []
    for at in range(0, len(trial.ids), AT_ONCE):
        part = slice(at, at + AT_ONCE)
        with reading(database) as raw:
            found = features_at(raw, trial.ids[part].tolist(), trial.epochs[part].tolist(), plans)
        ids.append(found.ids)
        tables.append(found.table)
    if not ids or not sum(map(len, ids)):
        raise TooLittle(
            f"nobody who came in has an event from before ({trial.said}): nothing tells one from"
            " another; `dripfleet events import` brings events in"
        )
    rows = Rows(np.concatenate(ids), pd.concat(tables, ignore_index=True))
    return rows, _of(trial, np.isin(trial.ids, rows.ids, assume_unique=True))


def _of(trial: Divided, keep: NDArray[np.bool_]) -> Divided:
    return Divided(
        trial.ids[keep], trial.epochs[keep], trial.treated[keep], trial.converted[keep],
        trial.weights[keep], trial.said, trial.window,
    )  # fmt: skip


def _iso(epoch: float) -> str:
    import datetime as dt

    return dt.datetime.fromtimestamp(float(epoch), dt.UTC).isoformat(timespec="seconds")


def _hash(table: pd.DataFrame, trial: Divided) -> str:
    rows = pd.util.hash_pandas_object(table, index=False).to_numpy()
    return hashlib.sha256(
        rows.tobytes() + trial.treated.tobytes() + trial.converted.tobytes()
    ).hexdigest()
