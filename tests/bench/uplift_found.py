"""How often an uplift is shown where there is none, and how often a planted one is found.

Made-up people in two arms: the mail adds to everybody alike, or to some more than to others. Learned
out of fold and measured as `dripfleet churn train uplift:KEY` does it; shown is what it would promote.
`python -m tests.bench.uplift_found --runs 200`. It needs no server; about a minute a hundred runs.
"""

from __future__ import annotations

import argparse
import os
import sys

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
WORLDS = ((1500, 0.5), (4000, 0.9))
"""People, and the share of them with the mail: an experiment, and a holdout of a tenth."""


def world(
    people: int, share: float, seed: int, planted: float, base: float = 0.15
) -> tuple[pd.DataFrame, Bools, Bools]:
    """People who do not exist: their features, who reached the goal, and who had the mail.

    Args:
        people: how many.
        share: of them with the mail.
        seed: of everything.
        planted: what the mail adds to the probability for each unit of the first feature, beside .04
            for all. Without it the gain is alike in probability, so no ranking is worth anything.
        base: rate without the mail, of people whose second feature is 0.
    """
    chance = np.random.default_rng(seed)
    table = pd.DataFrame({f"x{k}": chance.normal(size=people) for k in range(6)})
    gaps = chance.random(people) < 0.3
    table["gap"] = np.where(gaps, np.nan, chance.exponential(30, people))
    table["plan"] = pd.Categorical(chance.choice(["free", "pro", "team"], people))
    treated = chance.random(people) < share
    without = 1 / (1 + np.exp(-(np.log(base / (1 - base)) + 0.6 * table["x1"].to_numpy())))
    added = 0.04 + planted * table["x0"].to_numpy()
    rate = np.clip(without + treated * added, 0.0, 1.0)
    return table, chance.random(people) < rate, treated


def shown(
    people: int, share: float, planted: float, runs: int, kind: str = "logistic", seed: int = 0
) -> int:
    """In how many of the runs a gain is shown."""
    from tasks.churn.qini import CROSS_FITTED, qini
    from tasks.churn.uplift import UpliftModel, out_of_fold

    found = 0
    for run in range(seed, seed + runs):
        table, y, treated = world(people, share, run, planted)
        foretold = out_of_fold(UpliftModel(kind), table, y, treated)
        found += qini(y, treated, foretold, widen=CROSS_FITTED, seed=run).low > 0
    return found


def main() -> None:
    """Print a line a world."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--kind", default="logistic")
    asked = parser.parse_args()
    for people, share in WORLDS:
        for planted in (0.0, 0.05):
            found = shown(people, share, planted, asked.runs, asked.kind)
            what = "some more than others" if planted else "everybody alike"
            sys.stdout.write(
                f"{asked.kind}: {people} people, {share:.0%} with the mail, which adds to {what}:"
                f" shown in {found / asked.runs:.1%} of {asked.runs}\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    main()
