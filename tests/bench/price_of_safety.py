"""What the promise costs: the whole fleet as it is, without its journal, and with a transaction a mail.

    python -m tests.bench.price_of_safety [--mails 10000] [--rounds 3] [--json]

Each round measures the three one after the other, each a fleet of its own on servers of its own, so
that what the neighbours of a machine take falls on all alike. Nothing is printed unless due = sent =
the sink's ledger, and the audit is clean.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from statistics import median

from tasks.errors import DripfleetError
from tests.bench.whole_fleet import WholeFleet
from workers.cli.render import say

VARIANTS: tuple[tuple[str, str | None], ...] = (
    ("as it is", None),
    ("no journal", "journal"),
    ("a transaction a mail", "grouping"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--mails", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    rates: dict[str, list[float]] = {name: [] for name, _ in VARIANTS}
    micros: dict[str, list[float]] = {name: [] for name, _ in VARIANTS}
    try:
        for number in range(args.rounds):
            for name, guard in VARIANTS:
                with WholeFleet(
                    args.mails, args.connections, lambda text: None, {}, guard
                ) as fleet:
                    sink = ("sink", fleet.stack.home.sink().pid)
                    fleet.deliver("default", sink)  # warm
                    done = fleet.deliver("default", sink)
                    fleet.verify()
                rates[name].append(done.mails / done.seconds)
                micros[name].append(sum(done.cpu.values()) / done.mails * 1e6)
                say(f"round {number + 1}, {name}: {rates[name][-1]:,.0f} mails/s")
    except DripfleetError as fault:
        say(f"price_of_safety: {fault}")
        return 1
    figures = {
        name: {
            "mails_per_second": round(median(rates[name])),
            "cpu_us": round(median(micros[name])),
            "cpu_ratio": round(
                median(a / b for a, b in zip(micros[name], micros["as it is"], strict=True)), 2
            ),
        }
        for name, _ in VARIANTS
    }
    if args.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return 0
    lines = ["| variant | mails/s | CPU µs a mail | CPU ratio |", "|---|---|---|---|"]
    for name, row in figures.items():
        lines.append(f"| {name} | {' | '.join(map(str, row.values()))} |")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
