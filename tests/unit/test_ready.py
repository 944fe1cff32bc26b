"""The sequences that ship: each is sound, walks as its golden file says, and can be started from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schedules.definition import SendStep
from schedules.loader import load
from schedules.ready import SEQUENCES, Ready, ready
from workers.cli import main
from workers.cli.render import ExitCode

ROOT = Path(__file__).parents[2]
WALKS = ROOT / "tests" / "golden" / "walks"
READY = {each.key: each for each in ready()}
WALKED = ("--subscribers", str(WALKS / "people.csv"), "--start", "2026-03-02", "--days", "120")
DID = ("--over", "2d", "--click", "0.3", "--stop", "0.03", "--bounce", "0.03")
EVENTS = {
    "abandoned-cart": ("purchase=0.15", "cart.emptied=0.1"),
    "account-verification": ("account.verified=0.6",),
    "appointment-reminder": ("appointment.cancelled=0.1",),
    "cross-sell": ("order.returned=0.1",),
    "feature-announcement": ("feature.used=0.2",),
    "medication-reminder": ("reminders.declined=0.1",),
    "onboarding": ("account.activated=0.4", "account.closed=0.05"),
    "re-consent": ("consent.confirmed=0.2", "purchase=0.05"),
    "renewal": ("contract.cancelled=0.1",),
    "seasonal-campaign": ("purchase=0.2",),
    "trial-ending": ("subscription.started=0.2",),
}

# Nobody is in a segment where no server stands.
UNSEEN = {"loyalty": {"still-here"}}


def walk(key: str) -> list[str]:
    """The command that tells the story of its golden file, across a change of clocks in two zones."""
    did = [word for each in EVENTS.get(key, ()) for word in ("--convert", each)]
    return ["sequence", "simulate", str(SEQUENCES / f"{key}.yaml"), *WALKED, *DID, *did]


@pytest.mark.parametrize("key", READY)
def test_it_walks_as_its_golden_file_says(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Write one anew with what `walk` says, and read the difference before you keep it."""
    golden = WALKS / f"{key}.json"
    assert main([*walk(key), "--golden", str(golden)]) == ExitCode.OK, capsys.readouterr().out
    told = json.loads(golden.read_text())
    mailed = {step["id"] for step in told["steps"] if step["mails"].get("sent")}
    sends = {
        step.id for step in load(SEQUENCES / f"{key}.yaml").steps if isinstance(step, SendStep)
    }
    assert mailed == sends - UNSEEN.get(key, set()), "each of its mails goes to somebody"
    assert told["under_way"] == 0, "everybody comes to an end"


def test_all_are_sound(capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(path) for path in SEQUENCES.glob("*.yaml")]
    assert main(["sequence", "validate", "--offline", "--json", *files]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == {"findings": [], "warnings": []}


@pytest.mark.parametrize("key", READY)
def test_its_mails_pass_their_review(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    for step in load(SEQUENCES / f"{key}.yaml").steps:
        if isinstance(step, SendStep):
            told = main(["content", "review", step.template])
            assert told == ExitCode.OK, capsys.readouterr().out


@pytest.mark.parametrize("each", READY.values(), ids=READY)
def test_it_says_what_it_does_in_its_first_line(each: Ready) -> None:
    first = each.source.partition("\n")[0]
    assert first.startswith("# ") and first.endswith("."), "the sentence that `--list` shows"


@pytest.mark.parametrize("key", READY)
def test_a_copy_of_it_is_sound_and_its_own(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sequence", "new", "my-own", "--from", key]) == ExitCode.OK
    written = json.loads(capsys.readouterr().out)["written"]
    copied = load(tmp_path / "my-own.yaml")
    original = load(SEQUENCES / f"{key}.yaml")
    assert copied.key == "my-own" and [s.id for s in copied.steps] == [s.id for s in original.steps]
    assert copied.holdout is None or copied.holdout.salt == "my-own"
    assert all(f"{key}/" not in path for path in written)
    checked = ["sequence", "validate", "my-own.yaml", "--templates", "templates", "--offline"]
    assert main(checked) == ExitCode.OK, capsys.readouterr()
    capsys.readouterr()
    # A second one overwrites nothing, what is shared least of all.
    (tmp_path / "templates" / "_base" / "layout.html").write_text("mine")
    assert main(["sequence", "new", "my-own", "--from", key]) == ExitCode.FAULT
    assert "is there already; nothing was written" in capsys.readouterr().err
    assert main(["sequence", "new", "other", "--from", key]) == ExitCode.OK
    assert (tmp_path / "templates" / "_base" / "layout.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["new", "x", "--from", "nothing"],
            "no ready sequence 'nothing': expected one of abandoned",
        ),
        (["new", "win-back", "--from", "win-back"], "is one that ships"),
        (["new", "Über", "--from", "win-back"], "is no key"),
        (["new"], "--list names the keys"),
    ],
)
def test_what_cannot_be_copied_is_said(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sequence", *words]) == ExitCode.USAGE
    assert said in " ".join(capsys.readouterr().err.split())
