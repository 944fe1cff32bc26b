"""How well churn is foretold on real customers: CDNOW, a tenth of them for the fit, the others later.

    python -m tests.bench.cdnow_figures

Fitted and calibrated on the published 1/10 sample, tested on all other customers at a later cutoff.
Prints every kind of model and every baseline with its interval, and the paired bootstrap over the rule.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is first imported

import numpy as np

from models.migrate import migrate
from models.session import Database
from tasks.churn import contest, training
from tasks.churn.book import hashed
from tests.live import cdnow
from workers.cli.render import emit, say
from workers.embedded.postgres import EmbeddedPostgres


def main() -> int:
    """Run it, and print the figures."""
    sample = np.array([int(row["customer"]) for row in cdnow.sample()])

    def parts(ids: Any, part: str) -> Any:
        inside = np.isin(ids, sample)
        if part == training.TEST:
            return ~inside
        return inside & ((hashed(ids) < 0.8) == (part == training.FIT))

    with tempfile.TemporaryDirectory(prefix="df") as folder:
        server = EmbeddedPostgres.start(Path(folder) / "pg")
        try:
            database = Database(server.url)
            migrate(database)
            cdnow.fill(database)
            trained = training.train(database, "churn", parts=parts, say=say)
            database.close()
        finally:
            server.stop()
    report = trained.artifact.manifest["report"]
    emit(contest.table_report(report), title=str(report["rows"]))
    gap, low, high = report["over_rule"]
    say(f"AUC over {report['rule']}: {gap:+.4f} ({low:+.4f} to {high:+.4f}), paired bootstrap")
    return 0


if __name__ == "__main__":
    sys.exit(main())
