"""The mails that ship, whole: a change of one shows as a diff, and is meant.

Write one anew with `dripfleet content preview NAME --golden tests/golden/NAME.txt --update`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.send.render import bundle_from_folder, compile
from tasks.sequence.publish import MADE_UP
from workers.cli import main
from workers.cli.content import whole
from workers.cli.proof import sample_sender
from workers.cli.render import ExitCode

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden"
MAILS = sorted(
    str(path.parent.relative_to(ROOT / "templates"))
    for path in (ROOT / "templates").rglob("subject.txt")
)


def test_every_mail_that_ships_has_its_file() -> None:
    kept = (path.relative_to(GOLDEN) for path in GOLDEN.rglob("*.txt"))
    assert sorted(str(path.with_suffix("")) for path in kept) == MAILS


@pytest.mark.parametrize("name", MAILS)
def test_a_mail_that_ships_is_the_one_that_was_looked_at(name: str) -> None:
    sender = sample_sender()
    made = compile(bundle_from_folder(ROOT / "templates", name)).render(
        {
            "subscriber": MADE_UP[0].variables,
            "sender": {"name": sender.name, "postal_address": sender.postal_address},
            "unsubscribe": {
                "mailto": "mailto:unsubscribe@example.com?subject=unsubscribe%20k1.sample"
            },
        }
    )
    assert whole(made) == (GOLDEN / f"{name}.txt").read_text("utf-8")


def test_the_command_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    golden = str(GOLDEN / "win-back/nudge.txt")
    code = main(["content", "preview", "win-back/nudge", "--golden", golden])
    assert code == ExitCode.OK, capsys.readouterr().out
