"""The first figure: mails a second through the whole fleet to a sink, and smtp-source beside it.

    python -m tests.bench.first_figure [--quick] [--mails 20000] [--rounds 3] [--json]

Each round measures the fleet and smtp-source against the shipped sink and against smtp-sink, one
after the other on the same servers, with mails of the same size over as many connections. What the
neighbours of a machine take falls on all of them alike, so the ratios of processor time hold where
the rates do not. Nothing is printed unless due = sent = the sink's ledger, and the audit is clean.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from tasks.errors import DripfleetError, Permanent
from tests.bench.cpu_time import cpu_seconds, used_between
from tests.bench.smtp_pair import MISSING, SINK, SOURCE, Pair
from tests.bench.whole_fleet import Delivered, WholeFleet
from workers.cli.render import say

QUICK = 4000
OWN = "our sink"
PROBE = 1000  # octets of payload by which the size of smtp-source's headers is found


@dataclass
class Figure:
    """One line of the table; a value a round in each list."""

    what: str
    rates: list[float] = field(default_factory=list)
    micros: list[float] = field(default_factory=list)
    shares: list[dict[str, float]] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)

    def add(self, mails: int, seconds: float, cpu: dict[str, float]) -> None:
        """Take one window: `cpu` seconds by process."""
        self.rates.append(mails / seconds)
        self.micros.append(sum(cpu.values()) / mails * 1e6)
        self.shares.append({name: used / mails * 1e6 for name, used in cpu.items()})
        self.loads.append(os.getloadavg()[0])
        say(f"{self.what}: {self.rates[-1]:,.0f} mails/s, {self.micros[-1]:,.0f} µs a mail")

    def split(self) -> dict[str, float]:
        """Median µs a mail of each process, the dearest first."""
        medians = {n: median(share[n] for share in self.shares) for n in self.shares[0]}
        return dict(sorted(medians.items(), key=lambda item: -item[1]))


class Comparison:
    """The four lines, measured round by round."""

    def __init__(self, mails: int, connections: int, pair: Pair | None) -> None:
        self.mails = mails
        self.connections = connections
        self.octets = 0.0
        self._pair = pair
        self._payload = 0
        self.figures: dict[tuple[str, str], Figure] = {}

    def round(self, fleet: WholeFleet, smtp_sink: tuple[int, int] | None) -> None:
        """Measure each line once; `smtp_sink`: its port and process id."""
        own = fleet.stack.home.sink()
        self._fleet(fleet, OWN, "default", own.pid)
        if self._pair is None or smtp_sink is None:
            return
        port = int(own.url.rpartition(":")[2])
        if not self._payload:
            self._pair.send(port, mails=1, connections=1, payload=PROBE)
            (octets,) = fleet.arrived()
            self._payload = round(self.octets) - (octets - PROBE)
        self._source(self._pair, OWN, port, own.pid)
        sizes = fleet.arrived()
        if len(sizes) != self.mails or abs(fmean(sizes) / self.octets - 1) > 0.02:
            raise Permanent(
                f"{SOURCE} brought {len(sizes)} mails of {fmean(sizes):.0f} octets, where"
                f" {self.mails} of {self.octets:.0f} were asked for: no figure"
            )
        self._fleet(fleet, SINK, "smtp_sink", smtp_sink[1])
        self._source(self._pair, SINK, *smtp_sink)

    def _figure(self, who: str, sink: str) -> Figure:
        return self.figures.setdefault((who, sink), Figure(f"{who} to {sink}"))

    def _fleet(self, fleet: WholeFleet, sink: str, relay: str, pid: int) -> None:
        done: Delivered = fleet.deliver(relay, ("sink", pid))
        self.octets = done.octets or self.octets
        figure = self._figure("fleet", sink)
        figure.firsts.append(done.first)
        figure.add(done.mails, done.seconds, dict(done.cpu))

    def _source(self, pair: Pair, sink: str, port: int, pid: int) -> None:
        before = cpu_seconds({"sink": pid})
        seconds, used = pair.send(
            port, mails=self.mails, connections=self.connections, payload=self._payload
        )
        cpu = used_between(before, cpu_seconds({"sink": pid}))
        self._figure(SOURCE, sink).add(self.mails, seconds, {SOURCE: used, "sink": cpu["sink"]})


def table(comparison: Comparison) -> str:
    """The figures in Markdown: medians, and ranges in brackets."""
    pair = comparison.figures.get((SOURCE, SINK))
    lines = [
        f"| what | mails/s | CPU µs a mail | ratio to {SOURCE} + {SINK} |",
        "|---|---|---|---|",
    ]
    for figure in comparison.figures.values():
        ratio = "–" if pair is None else _spread(_ratios(figure, pair), 2)
        cells = figure.what, _spread(figure.rates, 0), _spread(figure.micros, 0), ratio
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine(comparison: Comparison, rounds: int) -> str:
    """Where and how it was measured, in a line or two."""
    loads = [load for figure in comparison.figures.values() for load in figure.loads]
    split = ", ".join(
        f"{name} {micros:.0f}"
        for name, micros in comparison.figures["fleet", OWN].split().items()
        if micros >= 0.5
    )
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), load {min(loads):.1f} to {max(loads):.1f};"
        f" {rounds} rounds of {comparison.mails:,} mails of {comparison.octets:,.0f} octets over"
        f" {comparison.connections} connections; Postgres with fsync, one send worker.\n"
        f"CPU µs a mail of the fleet to {OWN}: {split}."
    )


def as_data(comparison: Comparison, rounds: int) -> dict[str, Any]:
    """Everything, for the last line."""
    pair = comparison.figures.get((SOURCE, SINK))
    return {
        "mails": comparison.mails,
        "rounds": rounds,
        "connections": comparison.connections,
        "octets": round(comparison.octets),
        "cores": os.cpu_count(),
        "figures": {
            figure.what: {
                "mails_per_second": _rounded(figure.rates, 0),
                "cpu_us_per_mail": _rounded(figure.micros, 1),
                "ratio": None if pair is None else _rounded(_ratios(figure, pair), 3),
                "cpu_us_by_process": {n: round(v, 1) for n, v in figure.split().items()},
                "first_after_seconds": [round(first, 2) for first in figure.firsts],
                "load": [round(load, 2) for load in figure.loads],
            }
            for figure in comparison.figures.values()
        },
    }


def _ratios(figure: Figure, pair: Figure) -> list[float]:
    """Processor time as multiples of the pair's, round by round."""
    return [ours / theirs for ours, theirs in zip(figure.micros, pair.micros, strict=True)]


def _spread(values: Sequence[float], places: int) -> str:
    low, high = min(values), max(values)
    return f"{median(values):,.{places}f} ({low:,.{places}f}–{high:,.{places}f})"


def _rounded(values: Sequence[float], places: int) -> dict[str, float]:
    named = {"median": median(values), "min": min(values), "max": max(values)}
    return {name: round(value, places) for name, value in named.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print; 0, or 1 with a sentence if there is no figure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.first_figure")
    parser.add_argument("--mails", type=int, default=20_000, help="mails a window")
    parser.add_argument("--rounds", type=int, default=3, help="each measures every line once")
    parser.add_argument("--connections", type=int, default=32, help="SMTP connections")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} mails a window")
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    args = parser.parse_args(argv)
    mails, rounds = QUICK if args.quick else args.mails, args.rounds
    if min(mails, rounds, args.connections) < 1:
        parser.error("--mails, --rounds and --connections are at least 1")
    pair = Pair.find()
    comparison = Comparison(mails, args.connections, pair)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: in order
    try:
        with ExitStack() as exits:
            smtp_sink, relays = None, {}
            if pair is not None:
                smtp_sink = exits.enter_context(pair.listening())
                relays["smtp_sink"] = f"smtp://127.0.0.1:{smtp_sink[0]}"
            fleet = exits.enter_context(WholeFleet(mails, args.connections, say, relays))
            for number in range(1, rounds + 1):
                say(f"round {number} of {rounds}, load {os.getloadavg()[0]:.1f}")
                comparison.round(fleet, smtp_sink)
            say(f"verify: {fleet.verify()}")
    except DripfleetError as fault:
        say(str(fault))
        return 1
    except KeyboardInterrupt:
        say("stopped; no figure")
        return 130
    if not args.json:
        sys.stdout.write(f"{table(comparison)}\n\n{machine(comparison, rounds)}\n")
        if pair is None:
            sys.stdout.write(f"{MISSING}\n")
        sys.stdout.write("\n")
    elif pair is None:
        say(MISSING)
    sys.stdout.write(json.dumps(as_data(comparison, rounds), ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
