"""Goals and what they are, asked for by a command line, and told as a table and a line of JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tasks.errors import DripfleetError
from tests.bench.question import QUICK, Answers, Plan, Row
from workers.cli.render import say

Ask = Callable[[Plan, Answers, argparse.Namespace], None]


@dataclass(frozen=True, slots=True)
class Goal:
    """What is wanted of a figure; `least`: it is the least, not the most."""

    what: str
    limit: float | None
    least: bool = False

    def met(self, value: float) -> str:
        """`yes`, `no`, or nothing where nothing is wanted."""
        if self.limit is None:
            return ""
        return "yes" if (value >= self.limit if self.least else value <= self.limit) else "no"

    @property
    def wanted(self) -> str:
        """Such as `≤ 3`."""
        return "" if self.limit is None else f"{'≥' if self.least else '≤'} {self.limit:,g}"


GOALS: Mapping[str, Goal] = {
    "G1": Goal("CPU a mail of the whole fleet, by smtp-source and smtp-sink", 3.0),
    "G2": Goal("CPU a mail of the whole fleet, by django-post-office", 0.1),
    "G3": Goal("CPU a mail with RSA-2048, by that without and one bare signature", 1.5),
    "G4": Goal("CPU a mail among 1M enrollments, by that among 10k", 1.25),
    "G4_claim": Goal("time of a claim among 1M, by that among 10k", 1.5),
    "G4_5M": Goal("CPU a mail among 5M, by that among 10k", 1.25),
    "G4_5M_claim": Goal("time of a claim among 5M, by that among 10k", 1.5),
    "G4_held": Goal("CPU a mail while a transaction is held open, by that among 10k", 1.25),
    "G4_held_claim": Goal(
        "time of a claim while a transaction is held open, by that among 10k", None
    ),
    "G5": Goal(
        "mails/s through 200 connections that answer after 1 s, of what is possible", 0.9, True
    ),
    "G5_source": Goal("the same of smtp-source", None),
    "G6": Goal("MB that the send worker shares with nobody", 90),
    "G6_growth": Goal("% that it grew by over the mails of this run", 5),
    "G7": Goal("CPU a mail of the promise, by smtp-source and smtp-sink", 1.0),
    "G8_import": Goal("rows/s of an import", 50_000, True),
    "G8_enqueue": Goal("people/s of an enqueue", 50_000, True),
    "G8_scan": Goal("ms of a scan that finds nobody due", 5),
    "G8_claim": Goal("ms of a claim that finds nothing due", None),
}


def told(
    parser: argparse.ArgumentParser, questions: Mapping[str, Ask], argv: Sequence[str] | None
) -> int:
    """Ask, and print; 0, or 1 with a sentence if there is no figure.

    Args:
        parser: with the options of these questions; those that all have are added.
        questions: the goals that each answers, parted by blanks → it; asked in that order.
        argv: of the command line.
    """
    parser.add_argument("--mails", type=int, default=20_000, help="a window")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64, help="SMTP connections")
    parser.add_argument(
        "--quick", action="store_true", help=f"windows of {QUICK} mails, small books"
    )
    parser.add_argument("--only", default="", help="goals, such as G4 or G1,G3")
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    args = parser.parse_args(argv)
    if min(args.mails, args.rounds, args.connections) < 1:
        parser.error("--mails, --rounds and --connections are at least 1")
    known = {goal for goals in questions for goal in goals.split()}
    wanted = {each.strip() for each in args.only.split(",") if each.strip()} or known
    if unknown := sorted(wanted - known):
        parser.error(f"--only {unknown[0]}: expected some of {', '.join(sorted(known))}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: in order
    mails = min(QUICK, args.mails) if args.quick else args.mails
    plan = Plan(mails, args.rounds, args.connections, args.quick, frozenset(wanted), say)
    answers = Answers()
    loads = [os.getloadavg()[0]]
    try:
        for goals, ask in questions.items():
            if plan.wants(*goals.split()):
                say(f"{goals}: load {os.getloadavg()[0]:.1f}")
                ask(plan, answers, args)
                loads.append(os.getloadavg()[0])
    except DripfleetError as fault:
        say(str(fault))
        return 1
    except KeyboardInterrupt:
        say("stopped; no figure")
        return 130
    if not args.json:
        sys.stdout.write(markdown(answers, plan, loads))
    figures: dict[str, Any] = {g: round(median(v), 3) for g, v in answers.goals.items()}
    sys.stdout.write(json.dumps(figures) + "\n")
    for goals, why in answers.missing.items():
        say(f"{goals}: {why}")
    return 0


def markdown(answers: Answers, plan: Plan, loads: Sequence[float]) -> str:
    """Both tables, and where they were measured."""
    lines = ["| goal | figure | wanted | met |", "|---|---|---|---|"]
    for key, values in answers.goals.items():
        goal = GOALS[key]
        figure = Row(goal.what, "", values).spread
        # What stands there is what was measured: the books of `--quick` are smaller.
        what = goal.what.replace("1M", "100k").replace("5M", "300k") if plan.quick else goal.what
        lines.append(f"| {key}: {what} | {figure} | {goal.wanted} | {goal.met(median(values))} |")
    lines += [f"| {key} | – | | {why} |" for key, why in answers.missing.items()]
    lines += ["", "| what was measured | figure | |", "|---|---|---|"]
    lines += [f"| {row.what} | {row.spread} | {row.unit} |" for row in answers.rows]
    where = (
        f"{os.cpu_count()} cores ({platform.machine()}), load {min(loads):.1f} to {max(loads):.1f};"
        f" windows of {plan.mails:,} mails over {plan.connections} connections, {plan.rounds} rounds."
    )
    return "\n".join([*lines, "", where, "", ""])
