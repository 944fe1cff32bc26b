"""The steps of a drafted sequence: waits, mails, an experiment on subjects, a branch. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.personalize.draft import Draft

ARMS = "abcd"


def steps(draft: Draft, outline: Mapping[str, Any]) -> list[str]:
    """The lines below ``steps:``.

    The subjects of the first mail are arms of one experiment, which come together behind it. In the
    place of the last mail, whom the branch is about get one of their own.
    """
    lines: list[str] = []
    after = [
        _pause(number) if number <= draft.mails else "end" for number in range(2, draft.mails + 2)
    ]
    for number, mail in enumerate(outline["mails"], 1):
        tried = number == 1 and draft.subjects > 1
        begins = "subject" if tried else f"mail-{number}"
        last = number == draft.mails
        if mail["days"]:
            wait = f'{{calendar_days: {mail["days"]}, at: "09:30"}}'
            lines.append(f"  - {{id: {_pause(number)}, wait: {wait}}}")
        if last and draft.branch is not None:
            lines += _branch(draft.branch, begins, draft.stale, f"mail-{number}-branch")
            lines.append(_send(draft, f"mail-{number}-branch", f"mail-{number}-branch", "end"))
        onward = after[number - 1] if tried else None
        if tried:
            lines += _experiment(draft.subjects)
            lines += [
                _send(draft, f"mail-1-{arm}", "mail-1", after[0])
                for arm in ARMS[1 : draft.subjects]
            ]
        lines.append(_send(draft, f"mail-{number}", f"mail-{number}", onward))
    return [*lines, "  - {id: end, exit: {reason: completed}}"]


def _pause(number: int) -> str:
    return f"wait-{number}"


def _send(draft: Draft, id_: str, prompt: str, onward: str | None) -> str:
    """A mail; arms of one experiment ask with one prompt."""
    words = f", personalize: {{prompt: {draft.key}/{prompt}}}" if draft.fields else ""
    goes = f", next: {onward}" if onward else ""
    return f"  - {{id: {id_}, send: {{template: {draft.key}/{id_}{words}}}{goes}}}"


def _experiment(subjects: int) -> list[str]:
    arms = ARMS[:subjects]
    ways = {arm: "mail-1" if arm == "a" else f"mail-1-{arm}" for arm in arms}
    return [
        "  - id: subject",
        f"    experiment: {{arms: {{{', '.join(f'{arm}: 1' for arm in arms)}}}}}",
        f"    paths: {{{', '.join(f'{arm}: {to}' for arm, to in ways.items())}}}",
    ]


def _branch(condition: str, otherwise: str, stale: bool, to: str) -> list[str]:
    made = [
        "  - id: readers",
        "    branch:",
        f"      - {{if: {json.dumps(condition, ensure_ascii=False)}, next: {to}}}",
        f"      - {{else: {otherwise}}}",
    ]
    # Of whom it cannot be told get the mail for everybody.
    return [*made, f"    on_stale: {otherwise}"] if stale else made
