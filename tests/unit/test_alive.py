"""The probe: it restarts what is silent by itself, and leaves alone what waits for a server."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tasks import names
from workers.pools import BY_NAME

FRESH = {("tick", names.DISPATCH): 1.0, ("tick", names.REAP): 3.0}
ANSWERING = {("pool", pool): 20.0 for pool in names.POOLS}


@pytest.fixture(scope="module")
def alive() -> ModuleType:
    path = Path(__file__).parents[2] / "deploy" / "alive.py"
    spec = importlib.util.spec_from_file_location("alive", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("pool", names.POOLS)
def test_a_worker_that_answers_is_alive(alive: ModuleType, pool: str) -> None:
    assert alive.worker_fault(pool, FRESH | ANSWERING) == ""


def test_a_pool_that_is_silent_while_the_dispatcher_works_is_not(alive: ModuleType) -> None:
    assert alive.worker_fault("send", FRESH | ANSWERING | {("pool", "send"): 151.0})
    assert alive.worker_fault("send", FRESH)
    assert alive.worker_fault("sequence", ANSWERING | {("tick", names.DISPATCH): 151.0, ("tick", names.REAP): 3.0})  # fmt: skip


@pytest.mark.parametrize("pool", names.POOLS)
def test_when_all_ticks_have_stopped_no_worker_is_blamed(alive: ModuleType, pool: str) -> None:
    stopped = {key: 9999.0 for key in FRESH | ANSWERING}
    assert alive.worker_fault(pool, stopped) == ""
    assert alive.worker_fault(pool, {}) == ""


def test_a_long_task_of_a_prefork_pool_is_no_silence(alive: ModuleType) -> None:
    limit = BY_NAME["churn"].hard_limit
    assert limit is not None
    assert alive.worker_fault("churn", FRESH | {("pool", "churn"): limit + 100}) == ""
    assert alive.worker_fault("churn", FRESH | {("pool", "churn"): limit + 200})


def test_a_worker_of_a_region_is_judged_by_the_canary_of_its_region(alive: ModuleType) -> None:
    there = FRESH | ANSWERING | {("pool", "send@eu"): 151.0}
    assert alive.worker_fault("send", there, "eu") and not alive.worker_fault("send", there)
    assert not alive.worker_fault("upkeep", there, "eu"), "it has no regions"


def test_beat_is_told_by_its_ticks(alive: ModuleType) -> None:
    assert alive.beat_fault(FRESH) == alive.beat_fault({}) == ""
    assert alive.beat_fault({key: 151.0 for key in FRESH})


def test_the_process_is_read_from_a_command_line(
    alive: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = ["/opt/dripfleet/bin/python", "/opt/dripfleet/bin/dripfleet"]
    assert alive.process_of([*python, "worker", "send", "--name", "a", ""]) == ["worker", "send"]
    assert alive.process_of([*python, "beat", ""]) == ["beat"]
    assert alive.process_of([*python, "migrate", ""]) == alive.process_of([]) == []
    monkeypatch.setenv("DRIPFLEET_POOL", "churn")
    assert alive.process_of([*python, "worker", ""]) == ["worker", "churn"]


def test_without_postgres_nothing_is_known_and_nobody_is_blamed(
    alive: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", "postgresql://x:hunter2@127.0.0.1:1/x")
    assert alive.main(["worker", "send"]) == 0
    said = capsys.readouterr().out
    assert "Postgres does not answer" in said and "hunter2" not in said
    monkeypatch.setenv("DRIPFLEET_FLOWER_PORT", "1")
    assert alive.main(["flower"]) == 1
