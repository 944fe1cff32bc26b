"""Every fault of the catalogue, played on the real fleet in one run; each is a test of its own.

What a fault must not do is asked of the run as a whole: lose nothing, and make no copy but by a doubt
that was sent again. `dripfleet chaos --seed N` plays the same in another order.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.moves.settings import DeliverySettings
from workers.chaos import raised, run
from workers.chaos.catalogue import CATALOGUE
from workers.chaos.of_smtp import rules

SEED = 20
SECONDS = 90
SINK = [f"sink {rule.partition(',')[0]}" for rule in rules(DeliverySettings())]
RAISED = [
    f"raise {sqlstate} at {was or 'new'} → {now}"
    for was, now in raised.MOVES
    for sqlstate in raised.STATES.values()
]

# Addresses, tokens of links, content, a password in a URL.
LEAK = re.compile(
    rb"[\w.+-]+@(?:d\d\.)?example\.com|\bk1\.[\w-]{11}\.|Subject:|postgresql://\w+:(?!\*)"
)

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("chaos") / "home"
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
def result(root: Path) -> run.Result:
    return run.run(root, seconds=SECONDS, seed=SEED, shorter=60, say=print)


def test_nothing_is_lost_and_every_copy_is_a_doubt_that_was_sent_again(result: run.Result) -> None:
    assert result.report is not None
    assert result.report.clean, [f for f in result.report.findings if f.count]
    assert result.settled_in is not None, result.unsettled
    assert result.lost == 0
    assert result.faults == []
    assert result.doubts > 0 and result.explained > 0, "a run without doubts shows nothing"


def test_no_log_of_a_fleet_in_trouble_holds_an_address_a_token_or_content(
    result: run.Result, root: Path
) -> None:
    for log in (root / "logs").iterdir():
        found = LEAK.search(log.read_bytes())
        assert found is None, f"{log.name} holds {found and found.group()!r}"


@pytest.mark.parametrize("name", [*CATALOGUE, *SINK, *RAISED])
def test_the_fault_took_effect(result: run.Result, name: str) -> None:
    played = {each.name: each for each in result.played}[name]
    if played.lacks:
        pytest.skip(played.lacks)
    assert played.fired > 0


def test_with_a_guard_taken_out_the_same_judge_finds_copies(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    control = run.run(
        tmp_path_factory.mktemp("control") / "home",
        seconds=10,
        seed=SEED,
        only=("lose machine",),
        shorter=100,
        guard_off="armed-lease",
        latency=0.3,
        smtp=False,
    )
    assert control.report is not None
    found = {finding.name: finding.count for finding in control.report.findings}
    assert found["W1"] > 0 and control.copies > control.explained, found
