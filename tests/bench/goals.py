"""How near the fleet is to the wire: every goal by its figure, as a table and a line of JSON.

    python -m tests.bench.goals [--quick] [--only G4,G8] [--mails 20000] [--rounds 3] [--json]

G1  the whole fleet (real Celery workers, Postgres with fsync, Valkey), by smtp-source and smtp-sink   (`wire`)
G2  by django-post-office in its best configuration                                                    (`wire`)
G3  with RSA-2048 signatures, by that without and one bare signature                                   (`wire`)
G4  among a million enrollments and five, and beside a transaction that is held open, by among 10 000  (`scale`)
G5  through 200 connections of which each answers after a second                                       (`slow_relay`)
G6  the send worker's own memory, and its growth                                                       (`memory`)
G7  the price of the promise                                                                           (`price_of_safety`)
G8  import, enqueue and an empty scan                                                                  (`volume`)

Figures of processor time are of *all* processes, reaped children included, and of variants that took turns
round by round; medians, and ranges in brackets. Nothing is printed unless what was due, sent and (where
the sink keeps one) in its ledger agree at every turn. The last line is JSON, goal → median. `--quick` takes
under five minutes, and its books are smaller: 100 000 and 300 000 people. Alone on a machine!
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tests.bench import price_of_safety, scale, volume, wire
from tests.bench.table import told


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print; 0, or 1 with a sentence if there is no figure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.goals", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    questions = {
        wire.GOALS: wire.ask,
        "G7": lambda plan, answers, args: price_of_safety.measure(plan, answers),
        scale.GOALS: scale.ask,
        volume.GOALS: volume.ask,
    }
    return told(parser, questions, argv)


if __name__ == "__main__":
    sys.exit(main())
