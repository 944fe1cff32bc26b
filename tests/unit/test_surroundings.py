"""What `doctor` sees of this machine, without a server."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import pytest

from tasks.send.journal import Journal, Owner, owner
from tasks.send.owner import boot_id
from workers.doctor import surroundings

ROOT = Path(__file__).parents[2]
NOWHERE = "postgresql://127.0.0.1:1/nothing"
SOURCES = [
    path for room in ("workers", "tasks", "models", "schedules") for path in (ROOT / room).rglob("*.py")
]  # fmt: skip


def test_every_settings_class_of_the_source_is_known() -> None:
    declared = {
        f"{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}:{node.name}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id == "BaseSettings" for base in node.bases)
    }
    assert declared == set(surroundings.SETTINGS)


def test_no_variable_that_the_source_reads_is_called_strange() -> None:
    read = {
        name
        for path in SOURCES
        for name in re.findall(r'"(DRIPFLEET_[A-Z][A-Z_]*[A-Z])"', path.read_text())
    }
    assert "DRIPFLEET_JOURNAL_DIR" in read
    assert not list(surroundings.variables(dict.fromkeys(read, "x")))


def test_a_slip_of_the_pen_is_a_warning() -> None:
    (said,) = surroundings.variables(
        {"DRIPFLEET_SCAN_EVRY": "1", "DRIPFLEET_SECRET_X": "x", "A": ""}
    )
    assert (said.severity, said.says) == ("warning", "nobody reads DRIPFLEET_SCAN_EVRY")


def test_the_option_that_leaves_workers_deaf_is_found_in_the_url_too() -> None:
    (said,) = surroundings.app_options("redis://127.0.0.1:1/0")
    assert said.severity == "fine"
    (said,) = surroundings.app_options("redis://127.0.0.1:1/0?retry_on_timeout=true")
    assert said.severity == "error"


def test_journals_are_told_by_what_is_strange_about_them(tmp_path: Path) -> None:
    def told() -> dict[str, str]:
        return {f.says: f.severity for f in surroundings.journals(NOWHERE, tmp_path)}

    living = Journal.create(tmp_path, owner(), "our/database")
    living.append_dots([(1, 1)])
    assert set(told().values()) == {"fine"} or "warning" in told().values()  # a small disk
    assert "none is corrupt, or of another database" in told()
    (tmp_path / "0123456789abcdef.journal").write_text("half a hea")
    before = Journal.create(tmp_path, Owner("1" * 12, "a" * 16))
    before.close(remove=False)
    said = told()
    assert [s for t, s in said.items() if "0123456789abcdef.journal is corrupt" in t] == ["error"]
    assert [s for t, s in said.items() if "earlier boot" in t] == ["warning"]
    path = living.path
    of_another = surroundings._journal(path, "another/one")
    assert of_another is not None and "another database" in of_another.says
    assert surroundings._journal(path, "our/database") is None
    with path.open("a") as file:
        file.write("nonsense\n")
    assert "corrupt" in str(surroundings._journal(path, "our/database"))
    assert boot_id() != "1" * 12
    living.close(remove=True)


@pytest.mark.parametrize(("free", "severity"), [(1, "error"), (500, "warning"), (5000, "fine")])
def test_the_disk_of_the_journals_is_looked_at_before_it_is_full(
    free: int, severity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=free * 1024**2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    first, *_ = surroundings.journals(NOWHERE, tmp_path / "not" / "yet")
    assert (first.check, first.severity) == ("journal disk", severity)
