"""G7: what the promise costs: the whole fleet as it is, and the same path without ARM, RECORD and journal.

    python -m tests.bench.price_of_safety [--quick] [--mails 10000] [--rounds 5] [--all] [--json]

Fleets of the same code on servers of their own, in turns, round by round, so that what the neighbours of
a machine take falls on all alike; the one without is `unguarded`, and exists for this figure alone. The
price is what they differ in, by what smtp-source and smtp-sink use for a mail. `--all`: the fleet
without its journal alone, too, and with a transaction a mail instead of one a group.

Nothing is printed unless due = sent = the sink's ledger, and the audit of those with guards is clean.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.bench import question
from tests.bench.pair_window import Window
from tests.bench.question import MICROS, Answers, Plan
from tests.bench.smtp_pair import MISSING, Pair
from tests.bench.table import told
from tests.bench.whole_fleet import WholeFleet

LEAST_ROUNDS = 5
UNGUARDED = ("-P", str(Path(__file__).with_name("unguarded.py")))
AS_IT_IS, WITHOUT = "the fleet, to our sink", "without ARM, RECORD and journal"
OTHERS = {"without its journal": "journal", "with a transaction a mail": "grouping"}


def measure(plan: Plan, answers: Answers, *, others: bool = False) -> None:
    """Answer G7.

    Raises:
        Transient, Permanent: there is no figure, as `WholeFleet.deliver` says.
    """
    pair = Pair.find()
    if pair is None:
        answers.missing["G7"] = MISSING
        return
    micros: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    with ExitStack() as exits:
        window = exits.enter_context(Window.open(pair, plan))
        fleets = {AS_IT_IS: _fleet(plan), WITHOUT: _fleet(plan, program=UNGUARDED)}
        if others:
            fleets |= {name: _fleet(plan, guard_off=guard) for name, guard in OTHERS.items()}
        for fleet in fleets.values():
            exits.enter_context(fleet)
            fleet.deliver("default", ("sink", fleet.stack.home.sink().pid))  # warm
        for number in range(max(plan.rounds, LEAST_ROUNDS)):
            for name, fleet in fleets.items():
                done = fleet.deliver("default", ("sink", fleet.stack.home.sink().pid))
                micros.setdefault(name, []).append(done.micros)
                rates.setdefault(name, []).append(done.mails / done.seconds)
            micros.setdefault(window.name, []).append(window.micros())
            plan.say(
                f"round {number + 1}: " + ", ".join(f"{n} {v[-1]:.0f}" for n, v in micros.items())
            )
        for name, fleet in fleets.items():
            if name != WITHOUT:
                plan.say(f"verify: {fleet.verify()}")
    for name, values in micros.items():
        if name != window.name or not plan.wants("G1"):
            answers.row(f"{name} (G7)" if name == window.name else name, MICROS, values)
    for name in OTHERS.keys() & rates.keys():
        answers.row(
            f"{name}, by as it is", "mails/s", question.ratios(rates[name], rates[AS_IT_IS])
        )
    answers.goals["G7"] = [
        (guarded - bare) / beside
        for guarded, bare, beside in zip(
            micros[AS_IT_IS], micros[WITHOUT], micros[window.name], strict=True
        )
    ]


def _fleet(
    plan: Plan, program: tuple[str, ...] | None = None, guard_off: str | None = None
) -> WholeFleet:
    if program is None:
        return WholeFleet(plan.mails, plan.connections, lambda said: None, {}, guard_off)
    return WholeFleet(plan.mails, plan.connections, lambda said: None, {}, program=program)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--all", action="store_true", help="what single parts of it cost, too")
    return told(
        parser, {"G7": lambda plan, found, args: measure(plan, found, others=args.all)}, argv
    )


if __name__ == "__main__":
    sys.exit(main())
