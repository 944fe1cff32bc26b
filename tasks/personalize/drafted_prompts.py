"""The prompts of a drafted sequence whose mails are personalized: one a mail, by what is declared. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tasks.personalize.draft import Draft

LONGEST_TASK: Final = 1900
OPENING: Final = 600
SUBJECT: Final = 60


def prompt_files(draft: Draft, outline: Mapping[str, Any]) -> dict[str, str]:
    """The prompts, path below the folder of templates → source; none without declared fields."""
    if not draft.fields:
        return {}
    return {
        f"_prompts/{draft.key}/{name}.yaml": _prompt(draft, name, mail)
        for name, mail in _mails(draft, outline)
    }


def slots_of(draft: Draft, name: str) -> tuple[str, ...]:
    """The slots of a mail that a model fills; where subjects are tried, none of them is its own."""
    if not draft.fields:
        return ()
    tried = draft.subjects > 1 and (name == "mail-1" or name.startswith("mail-1-"))
    return ("opening",) if tried and not name.endswith("-branch") else ("subject", "opening")


def _mails(draft: Draft, outline: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, mail in enumerate(outline["mails"], 1):
        yield f"mail-{number}", mail
    if "branch" in outline:
        yield f"mail-{draft.mails}-branch", outline["branch"]


def _prompt(draft: Draft, name: str, mail: Mapping[str, Any]) -> str:
    slots = slots_of(draft, name)
    texts = {"subject": mail["subject"], "opening": mail["paragraphs"][0]}
    longest = {"subject": SUBJECT, "opening": OPENING}
    task = (
        f"Write the words that open the mail {mail['heading']!r}: friendly and plain. What the mail goes"
        f" on to say: {' '.join(mail['paragraphs'])} What it is about: {' '.join(draft.brief.split())}"
    )
    lines = [
        f"# What is asked for {name} of {draft.key}, drafted with it; read it, and add variants.",
        f"task: {_quoted(task[:LONGEST_TASK])}",
        f"language: {draft.language}",
        "fields:",
        *(f"  {field}: {how}" for field, how in draft.fields.items()),
        "slots:",
        *(f"  {slot}: {{max: {longest[slot]}}}" for slot in slots),
        "variants:",
        *(
            f"  {'-' if n == 0 else ' '} {slot}: {_quoted(texts[slot])}"
            for n, slot in enumerate(slots)
        ),
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
