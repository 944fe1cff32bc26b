"""What `make bench` prints: every goal by name, a figure or a reason, and a last line for programs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import pytest

from tasks.errors import Transient
from tests.bench import price_of_safety, scale, volume, wire
from tests.bench.question import Answers, Plan
from tests.bench.smtp_pair import MISSING, Pair
from tests.bench.table import GOALS, told

Ask = Callable[[Plan, Answers, argparse.Namespace], None]


def asked(ask: Ask, *argv: str) -> int:
    return told(argparse.ArgumentParser(), {"G1 G2": ask}, argv)


def test_every_goal_is_asked_by_one_question_and_has_its_words() -> None:
    asked_for = f"{wire.GOALS} G7 {scale.GOALS} {volume.GOALS}".split()
    assert sorted(asked_for) == sorted(GOALS)


def test_the_last_line_is_json_and_the_table_says_what_is_met(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def ask(plan: Plan, answers: Answers, args: argparse.Namespace) -> None:
        assert plan.mails == 3000 and plan.wants("G2") and not plan.wants("G7")
        answers.goals["G1"] = [3.5, 2.5, 9.0]
        answers.missing["G2"] = "it is not here"
        answers.row("the fleet", "µs", [120.4, 118.0])

    assert asked(ask, "--quick") == 0
    out = capsys.readouterr().out
    assert "| 3.50 (2.50–9.00) | ≤ 3 | no |" in out and "| the fleet | 119 (118–120) | µs |" in out
    assert "| G2 | – | | it is not here |" in out
    assert json.loads(out.splitlines()[-1]) == {"G1": 3.5}


def test_no_figure_is_one_sentence_and_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    def ask(plan: Plan, answers: Answers, args: argparse.Namespace) -> None:
        raise Transient("only 3 of 4 mails are sent")

    assert asked(ask) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "only 3 of 4 mails are sent" in printed.err


def test_a_goal_that_there_is_not_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        asked(lambda plan, answers, args: None, "--only", "G1,G99")
    assert "--only G99: expected some of G1, G2" in capsys.readouterr().err


def test_without_postfix_the_price_of_safety_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Pair, "find", classmethod(lambda cls: None))
    answers = Answers()
    price_of_safety.measure(Plan(1, 1, 1, True, frozenset({"G7"}), print), answers)
    assert answers.missing == {"G7": MISSING} and "Debian's package postfix" in MISSING
