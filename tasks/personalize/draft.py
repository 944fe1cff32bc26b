"""A whole sequence from a brief: what a model is asked for, and whether its answer may be used. Pure.

A model fills an outline: a title, and for each mail when it goes and its texts. Steps, templates,
links, the way out and the consent that is asked for are built around it by `drafted`, so a model cannot
leave them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final

from schedules.findings import DefinitionError
from schedules.loader import reads
from tasks.personalize import checks
from tasks.personalize.commission import (
    MOST_FAULTS,
    Reading,
    conversation,
    json_schema,
    line,
    object_of,
    read_object,
    refused,
)
from tasks.personalize.drafted import sequence_file
from tasks.personalize.frames import frame

LONGEST: Final = {"subject": 60, "preheader": 90, "heading": 80, "call_to_action": 60}
LONGEST_TITLE: Final = 80
LONGEST_PARAGRAPH: Final = 600
MOST_PARAGRAPHS: Final = 6
LATEST: Final = 60
"""Days between two mails at most."""
MOST_MAILS: Final = 10
LONGEST_BRIEF: Final = 8000
LEAST_BRIEF: Final = 300
"""Characters from which on a brief is a measure of what is about it; a shorter one shares few letters."""

_RULES: Final = """You draft a sequence of mails from a brief. Answer with one JSON object and nothing else:
a title; and the mails in their order, each with the days since the one before (0 for the first, 1 to
60 for the others), a subject of at most 60 characters, a preheader of at most 90, a heading of at most
80, one to six paragraphs of at most 600 characters each, and a call to action of at most 60. Plain
sentences only: no greeting and no signature (both are there), no links, no addresses, no HTML, no
placeholders, no figures and no offers but those of the brief. Do not repeat a subject."""


@dataclass(frozen=True)
class Draft:
    """A draft that is asked for; also the commission of a model.

    Attributes:
        key: of the sequence.
        brief: what it is to say, by the operator.
        language: such as ``en``.
        mails: how many.
        topic: that subscribers have opted in to.
        link: where the call to action leads, if it leads anywhere.
        goal: an event that it is for: who had it leaves.
        zone: of subscribers whose own is not known.
        fault: why the draft before was refused.
    """

    key: str
    brief: str
    language: str = "en"
    mails: int = 3
    topic: str = "product-news"
    link: str | None = None
    goal: str | None = None
    zone: str = "UTC"
    fault: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The form that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Draft:
        """Read what `to_json` wrote."""
        return cls(**data)

    @property
    def tokens(self) -> int:
        """The longest answer: some 600 words a mail."""
        return 300 + 900 * self.mails

    @cached_property
    def form(self) -> dict[str, Any]:
        """Of the answer."""
        text = {"type": "string"}
        mail: dict[str, Any] = {"days": {"type": "integer"}, **dict.fromkeys(LONGEST, text)}
        mail["paragraphs"] = {"type": "array", "items": text}
        mails = {"type": "array", "items": object_of(mail)}
        return json_schema("draft", {"title": text, "mails": mails})

    def messages(self, fault: str | None) -> list[dict[str, str]]:
        """The conversation; the example is our own frame with the brief's sentences in it."""
        rules = f"{_RULES}\n\nLanguage: {self.language}. Mails: {self.mails}."
        example = frame(self.brief, self.language, self.mails, self._fits)
        return conversation(rules, f"The brief:\n{self.brief}", example, fault or self.fault)

    def read(self, content: str) -> Reading:
        """An outline, or what is wrong with it; never both."""
        value = read_object(content, ("title", "mails"))
        if isinstance(value, str):
            return Reading(None, [value])
        made = outline(value, self.mails)
        if isinstance(made, str):
            return Reading(None, [made])
        faults = self._faults(made)
        if not faults:
            try:
                reads(sequence_file(self, made), f"{self.key}.yaml")
            except DefinitionError as error:
                faults = [finding.message for finding in error.findings]
        return Reading(None if faults else made, faults[:MOST_FAULTS])

    def _faults(self, made: Mapping[str, Any]) -> list[str]:
        found = refused(
            {"title": made["title"]}, self.brief, self.language, {"title": LONGEST_TITLE}
        )
        whole: list[str] = []
        for number, mail in enumerate(made["mails"], 1):
            texts = {name: mail[name] for name in LONGEST}
            texts |= {f"paragraph {n}": said for n, said in enumerate(mail["paragraphs"], 1)}
            longest = {name: LONGEST.get(name, LONGEST_PARAGRAPH) for name in texts}
            found += [
                f"mail {number}: {why}"
                for why in refused(texts, self.brief, self.language, longest)
            ]
            whole += texts.values()
        subjects = [mail["subject"].casefold() for mail in made["mails"]]
        if len(set(subjects)) < len(subjects):
            found.append("two mails have the same subject")
        like = checks.likeness(" ".join(whole), self.brief)
        if not found and len(self.brief) >= LEAST_BRIEF and like < checks.LEAST_LIKE:
            found.append(f"the draft is not about the brief (likeness {like:.2f})")
        return found

    def _fits(self, said: str) -> bool:
        """Whether a sentence of the brief can stand in a mail as it is."""
        longest = {"paragraph": LONGEST_PARAGRAPH}
        return not refused({"paragraph": said}, self.brief, self.language, longest)


def outline(value: Mapping[str, Any], mails: int) -> dict[str, Any] | str:
    """An answer as an outline, texts on one line each; or what is wrong with its form, in words."""
    title = line(value["title"])
    if not title:
        return "the title is no text"
    if not isinstance(value["mails"], list) or len(value["mails"]) != mails:
        return f"it does not hold exactly {mails} mails"
    made = []
    for number, mail in enumerate(value["mails"], 1):
        if not isinstance(mail, dict) or set(mail) != {*LONGEST, "days", "paragraphs"}:
            return f"mail {number} does not hold exactly days, {', '.join(LONGEST)}, paragraphs"
        days = mail["days"]
        if not isinstance(days, int) or isinstance(days, bool):
            return f"the days of mail {number} are no whole number"
        if not (days == 0 if number == 1 else 1 <= days <= LATEST):
            what = "0" if number == 1 else f"1 to {LATEST}"
            return f"mail {number} has {days} days, {what} is right"
        paragraphs = mail["paragraphs"]
        if not isinstance(paragraphs, list) or not 1 <= len(paragraphs) <= MOST_PARAGRAPHS:
            return f"mail {number} has not one to {MOST_PARAGRAPHS} paragraphs"
        texts = {name: line(mail[name]) for name in LONGEST}
        said = [line(each) for each in paragraphs]
        if not all(texts.values()) or not all(said):
            return f"a text of mail {number} is none, or empty"
        made.append({"days": days, **texts, "paragraphs": said})
    return {"title": title, "mails": made}
