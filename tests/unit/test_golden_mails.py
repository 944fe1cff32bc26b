"""The mails that ship, whole: a change of one shows as a diff, and is meant.

Write them anew with `dripfleet content preview NAME --golden tests/golden/NAME.txt --update`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.cli import main
from workers.cli.render import ExitCode

ROOT = Path(__file__).parents[2]
MAILS = sorted(
    str(path.parent.relative_to(ROOT / "templates"))
    for path in (ROOT / "templates").rglob("subject.txt")
)


def test_every_mail_that_ships_has_its_file() -> None:
    kept = (
        path.relative_to(ROOT / "tests/golden") for path in (ROOT / "tests/golden").rglob("*.txt")
    )
    assert sorted(str(path.with_suffix("")) for path in kept) == MAILS


@pytest.mark.parametrize("name", MAILS)
def test_a_mail_that_ships_is_the_one_that_was_looked_at(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = str(ROOT / f"tests/golden/{name}.txt")
    code = main(["content", "preview", name, "--golden", golden])
    assert code == ExitCode.OK, capsys.readouterr().out
