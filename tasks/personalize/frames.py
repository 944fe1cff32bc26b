"""Our own frame of a sequence, with the sentences of a brief in it. Pure.

It shows a model the form of an answer, and is what the server that ships answers with: no language
model wrote it, and it says nothing that the brief does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+|\n+|;\s")


class _Frame:
    def __init__(
        self, opening: str, again: str, last: str, subjects: tuple[str, ...], call: str
    ) -> None:
        self.opening, self.again, self.last = opening, again, last
        self.subjects, self.call = subjects, call


_FRAMES: Final = {
    "en": _Frame(
        "We would like to tell you about this.",
        "We wrote to you a few days ago, and here it is once more, for when you have a moment.",
        "This is the last time that we write to you about it, and then we leave you in peace.",
        ("Once more, in short", "Have you seen it?", "In case you missed it", "One more thought",
         "A short reminder", "Still here for you", "If you have a moment", "Before we stop",
         "Our last word on it"),
        "Have a look",
    ),
    "de": _Frame(
        "Davon möchten wir dir gern erzählen.",
        "Wir haben dir vor ein paar Tagen geschrieben, und hier ist es noch einmal für dich.",
        "Das ist das letzte Mal, dass wir dir davon schreiben, und dann lassen wir dich in Ruhe.",
        ("Noch einmal, ganz kurz", "Hast du es gesehen?", "Falls du es verpasst hast",
         "Noch ein Gedanke", "Eine kurze Erinnerung", "Wir sind noch da", "Wenn du Zeit hast",
         "Bevor wir aufhören", "Unser letztes Wort dazu"),
        "Sieh es dir an",
    ),
}  # fmt: skip
LANGUAGES: Final = tuple(_FRAMES)


def frame(
    brief: str,
    language: str,
    mails: int,
    fits: Callable[[str], bool],
    subjects: int = 1,
    branch: bool = False,
) -> dict[str, Any] | None:
    """An outline of `mails` mails as `draft.outline` gives one; None in a language without a frame.

    Args:
        brief: whose sentences stand in it.
        language: of brief and frame.
        mails: how many.
        fits: whether a sentence may stand in a mail as it is.
        subjects: of the first mail, its own among them.
        branch: whether there is one more mail, for some readers in the last one's place.
    """
    words = _FRAMES.get(language)
    if words is None:
        return None
    said = [s for each in _SENTENCE.split(brief) if (s := " ".join(each.split())) and fits(s)]
    said = said or [words.opening]
    title = _cut(said[0], 60)
    made = []
    for number in range(mails):
        first, last = number == 0, 0 < number == mails - 1
        own = said if first else [said[number % len(said)]]
        lead = words.opening if first else words.last if last else words.again
        paragraphs = [lead, *own][:6]
        subject = title if first else words.subjects[-1 if last else (number - 1) % 8]
        made.append(
            {
                "days": 0 if first else 3 + number,
                "subject": subject,
                "preheader": _cut(said[-1], 90),
                "heading": title if first else subject,
                "paragraphs": [_cut(each, 600) for each in dict.fromkeys(paragraphs)],
                "call_to_action": words.call,
            }
        )
    outline: dict[str, Any] = {"title": title, "mails": made}
    used = {mail["subject"] for mail in made}
    ours = (*words.subjects, words.opening, words.again, words.last, words.call)
    free = [short for each in ours if (short := _cut(each, 60)) not in used]
    if subjects > 1:
        outline["subjects"] = free[: subjects - 1]
    if branch:
        outline["branch"] = {**made[-1], "subject": free[-1], "heading": free[-1]}
    return outline


def _cut(text: str, most: int) -> str:
    """A text, cut at a blank where it is too long, without the point at its end."""
    text = text.rstrip(".") if most < 100 else text
    return text if len(text) <= most else text[: most + 1].rpartition(" ")[0] or text[:most]
