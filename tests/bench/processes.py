"""What more send processes bring: the same fleet with one, two and four of them, in turns.

    python -m tests.bench.processes [--processes 1,2,4] [--mails 20000] [--rounds 3] [--quick] [--json]

Fleets on servers of their own, all of them up; the others idle while one sends. Beside mails a second stand
microseconds of processor a mail, and who used them: where a row's mails a second times its microseconds come
near the machine's cores, more processes bring nothing, and more cores would. And what a mail writes into
Postgres's log, from its enrollment to its end. Nothing is printed unless due = sent = the sink's ledger, and
the audits are clean.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

from sqlalchemy import text

from tasks.errors import DripfleetError
from tests.bench.question import QUICK
from tests.bench.whole_fleet import Delivered, WholeFleet
from workers.cli.render import say


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print; 0, or 1 with a sentence if there is no figure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.processes", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--processes", default="1,2,4", help="how many of them, parted by commas")
    parser.add_argument("--mails", type=int, default=20_000, help="a window")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32, help="of each process")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} mails a window")
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    args = parser.parse_args(argv)
    mails = QUICK if args.quick else args.mails
    numbers = [int(each) for each in args.processes.split(",")]
    windows: dict[int, list[Delivered]] = {number: [] for number in numbers}
    written: list[float] = []
    try:
        with ExitStack() as exits:
            fleets = {
                number: exits.enter_context(
                    WholeFleet(
                        mails, args.connections, lambda said: None, {}, send_processes=number
                    )
                )
                for number in numbers
            }
            for fleet in fleets.values():
                _send(fleet)  # until all of its processes have imported what they need
            for _ in range(args.rounds):
                for number, fleet in fleets.items():
                    before = _written(fleet)
                    windows[number].append(_send(fleet))
                    written.append((_written(fleet) - before) / mails)
                    rate = windows[number][-1].mails / _took(windows[number][-1])
                    say(f"{number} send processes: {rate:,.0f} mails/s")
            for fleet in fleets.values():
                say(f"verify: {fleet.verify()}")
    except DripfleetError as fault:
        say(str(fault))
        return 1
    figures: dict[str, Any] = {str(number): _figures(found) for number, found in windows.items()}
    figures["wal_octets_a_mail"] = round(median(written))
    if not args.json:
        sys.stdout.write(
            "| send processes | mails/s | CPU µs a mail | of which send, sequence, Postgres, Valkey, sink |"
            " cores used |\n|---|---|---|---|---|\n"
        )
        for name in map(str, numbers):
            row = figures[name]
            split = ", ".join(f"{row['by'].get(each, 0):.0f}" for each in SHOWN)
            low, high = row["range"]
            sys.stdout.write(
                f"| {name} | {row['mails_per_second']:,.0f} ({low:,.0f}–{high:,.0f})"
                f" | {row['micros']:.0f} | {split} | {row['cores']:.1f} of {os.cpu_count()} |\n"
            )
        sys.stdout.write(f"\n{figures['wal_octets_a_mail']:,} octets of WAL a mail.\n\n")
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


WRITTEN = text("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')")
SHOWN = ("send", "sequence", "postgres", "valkey", "sink")


def _send(fleet: WholeFleet) -> Delivered:
    return fleet.deliver("default", ("sink", fleet.stack.home.sink().pid))


def _written(fleet: WholeFleet) -> int:
    """Octets of WAL so far."""
    with fleet.database.transaction() as connection:
        return int(connection.execute(WRITTEN).scalar_one())


def _took(done: Delivered) -> float:
    """From the first record to the last; the wait for beat's next tick is not in it."""
    return max(done.seconds - done.first, 0.001)


def _figures(windows: Sequence[Delivered]) -> dict[str, Any]:
    rates = [done.mails / _took(done) for done in windows]
    micros = median(done.micros for done in windows)
    shares: list[Counter[str]] = []
    for done in windows:
        share: Counter[str] = Counter()
        for name, used in done.cpu.items():
            share[name.partition("-")[0]] += used / done.mails * 1e6  # type: ignore[assignment]
        shares.append(share)
    return {
        "mails_per_second": round(median(rates)),
        "range": [round(min(rates)), round(max(rates))],
        "micros": round(micros, 1),
        "by": {name: round(median(s[name] for s in shares), 1) for name in shares[0]},
        "cores": round(median(rates) * micros / 1e6, 2),
    }


if __name__ == "__main__":
    sys.exit(main())
