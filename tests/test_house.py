"""The house stands as it is drawn: rooms, arrows, and names that are ours."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("workers", "tasks", "schedules", "models", "templates")
TOP = {
    *ROOMS, "deploy", "tests", "pyproject.toml", "README.md", "Makefile", "CHANGELOG.md", "LICENSE",
    "requirements.lock", ".ci", ".gitignore",
}  # fmt: skip
SHARED = {"moves", "experiment"}  # in tasks/, and no specialism: everybody may import it


def config() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return listed.stdout.splitlines()


def test_the_top_level_holds_what_it_should_and_nothing_else() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    assert {path.split("/")[0] for path in tracked()} <= TOP


def test_every_specialism_is_in_the_contract_that_keeps_them_apart() -> None:
    contracts = config()["tool"]["importlinter"]["contracts"]  # type: ignore[index]
    (apart,) = (c for c in contracts if c["type"] == "independence")
    packages = {p.parent.name for p in (ROOT / "tasks").glob("*/__init__.py")}
    assert set(apart["modules"]) == {f"tasks.{name}" for name in packages - SHARED}


def test_the_arrows_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_no_other_distribution_owns_our_names() -> None:
    owners = importlib.metadata.packages_distributions()
    for room in ROOMS:
        assert set(owners.get(room, ["dripfleet"])) == {"dripfleet"}, room


def test_only_moves_writes_the_state_of_a_message() -> None:
    writes = re.compile(r"UPDATE\s+message\b|INSERT\s+INTO\s+message\b", re.IGNORECASE)
    allowed = ("tasks/moves/", "models/migrations/")
    found = [
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if writes.search(path.read_text())
    ]
    assert [path for path in found if not path.startswith(allowed)] == []


def test_the_lock_file_names_no_index_and_pins_every_hash() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock and "index" not in re.sub(r"(?m)^ *#.*$", "", lock)
    pins = re.findall(r"^[a-z0-9][^\n]*==[^\n]*$", lock, re.MULTILINE)
    assert pins and all(pin.rstrip().endswith("\\") for pin in pins)


def test_the_checkout_names_no_path_of_a_machine() -> None:
    pattern = re.compile(r"/(?:home|root|work)/[a-z]")
    named = [
        path
        for path in tracked()
        if Path(path).suffix in {".py", ".md", ".toml", ".yaml", ".txt", ".html", ".lock", ""}
        and path != "tests/test_house.py"
        and (ROOT / path).is_file()
        and pattern.search((ROOT / path).read_text(errors="ignore"))
    ]
    assert named == []
