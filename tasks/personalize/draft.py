"""A whole sequence from a brief: what a model is asked for, and whether its answer may be used. Pure.

A model fills an outline: a title, and for each mail when it goes and its texts. Steps, templates,
links, the way out and the consent that is asked for are built around it by `drafted`, so a model cannot
leave them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
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
        subjects: of the first mail, tried against each other where there are several.
        branch: a condition; of whom it holds get another mail in the place of the last one.
        reader: who these are, in words; by default the condition.
        stale: whether the condition may not be told of somebody.
        fields: name → how a prompt declares it, as YAML on a line; with any, each mail has a prompt, and
            a model's words for its subject and its opening.
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
    subjects: int = 1
    branch: str | None = None
    reader: str | None = None
    stale: bool = False
    fields: Mapping[str, str] = field(default_factory=dict)
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
        return 300 + 900 * (self.mails + (self.branch is not None)) + 60 * (self.subjects - 1)

    @cached_property
    def form(self) -> dict[str, Any]:
        """Of the answer."""
        text = {"type": "string"}
        mail: dict[str, Any] = {"days": {"type": "integer"}, **dict.fromkeys(LONGEST, text)}
        texts = mail["paragraphs"] = {"type": "array", "items": text}
        parts = {"title": text, "mails": {"type": "array", "items": object_of(mail)}}
        parts |= {"subjects": texts, "branch": object_of(mail)}
        return json_schema("draft", {name: parts[name] for name in self.parts})

    @property
    def parts(self) -> tuple[str, ...]:
        """What an outline of it holds."""
        more = ("subjects",) * (self.subjects > 1) + ("branch",) * (self.branch is not None)
        return ("title", "mails", *more)

    def messages(self, fault: str | None) -> list[dict[str, str]]:
        """The conversation; the example is our own frame with the brief's sentences in it."""
        rules = f"{_RULES}{self._more()}\n\nLanguage: {self.language}. Mails: {self.mails}."
        example = frame(
            self.brief,
            self.language,
            self.mails,
            self._fits,
            self.subjects,
            self.branch is not None,
        )
        return conversation(rules, f"The brief:\n{self.brief}", example, fault or self.fault)

    def _more(self) -> str:
        made = ""
        if self.subjects > 1:
            made += (
                f" Beside the mails, 'subjects': {self.subjects - 1} more of them for the first mail,"
                " each another way to begin, of at most 60 characters."
            )
        if self.branch is not None:
            made += (
                " Beside the mails, 'branch': one more mail in the same form, which goes in the place"
                f" of the last one to some readers: {self.reader or self.branch}."
            )
        return made

    def read(self, content: str) -> Reading:
        """An outline, or what is wrong with it; never both."""
        value = read_object(content, self.parts)
        if isinstance(value, str):
            return Reading(None, [value])
        made = outline(value, self.mails, self.subjects - 1)
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
        others = made.get("subjects", [])
        names = {f"subject {n}": said for n, said in enumerate(others, 2)}
        longest = dict.fromkeys(names, LONGEST["subject"])
        found += refused(names, self.brief, self.language, longest) if names else []
        mails = [(f"mail {number}", mail) for number, mail in enumerate(made["mails"], 1)]
        mails += [("the mail of the branch", made["branch"])] if "branch" in made else []
        for called, mail in mails:
            texts = {name: mail[name] for name in LONGEST}
            texts |= {f"paragraph {n}": said for n, said in enumerate(mail["paragraphs"], 1)}
            longest = {name: LONGEST.get(name, LONGEST_PARAGRAPH) for name in texts}
            found += [
                f"{called}: {why}" for why in refused(texts, self.brief, self.language, longest)
            ]
            whole += texts.values()
        subjects = [mail["subject"].casefold() for _, mail in mails]
        subjects += [said.casefold() for said in others]
        if len(set(subjects)) < len(subjects):
            found.append("two mails, or two arms, have the same subject")
        like = checks.likeness(" ".join(whole), self.brief)
        if not found and len(self.brief) >= LEAST_BRIEF and like < checks.LEAST_LIKE:
            found.append(f"the draft is not about the brief (likeness {like:.2f})")
        return found

    def _fits(self, said: str) -> bool:
        """Whether a sentence of the brief can stand in a mail as it is."""
        longest = {"paragraph": LONGEST_PARAGRAPH}
        return not refused({"paragraph": said}, self.brief, self.language, longest)


def outline(value: Mapping[str, Any], mails: int, subjects: int = 0) -> dict[str, Any] | str:
    """An answer as an outline, texts on one line each; or what is wrong with its form, in words.

    Args:
        value: an object with the parts that were asked for.
        mails: how many.
        subjects: how many more the first one has.
    """
    title = line(value["title"])
    if not title:
        return "the title is no text"
    if not isinstance(value["mails"], list) or len(value["mails"]) != mails:
        return f"it does not hold exactly {mails} mails"
    made: dict[str, Any] = {"title": title, "mails": []}
    for number, mail in enumerate(value["mails"], 1):
        read = _mail(f"mail {number}", mail, first=number == 1)
        if isinstance(read, str):
            return read
        made["mails"].append(read)
    if "subjects" in value:
        given = value["subjects"] if isinstance(value["subjects"], list) else []
        made["subjects"] = [said for each in given if (said := line(each))]
        if len(given) != subjects or len(made["subjects"]) != subjects:
            return f"it does not hold exactly {subjects} more subjects"
    if "branch" in value:
        # It goes when the last one would.
        days = made["mails"][-1]["days"]
        asked = value["branch"]
        asked = {**asked, "days": days} if isinstance(asked, dict) and "days" in asked else asked
        read = _mail("the mail of the branch", asked, first=not days)
        if isinstance(read, str):
            return read
        made["branch"] = read
    return made


def _mail(called: str, mail: Any, *, first: bool) -> dict[str, Any] | str:
    if not isinstance(mail, dict) or set(mail) != {*LONGEST, "days", "paragraphs"}:
        return f"{called} does not hold exactly days, {', '.join(LONGEST)}, paragraphs"
    days = mail["days"]
    if not isinstance(days, int) or isinstance(days, bool):
        return f"the days of {called} are no whole number"
    if not (days == 0 if first else 1 <= days <= LATEST):
        what = "0" if first else f"1 to {LATEST}"
        return f"{called} has {days} days, {what} is right"
    paragraphs = mail["paragraphs"]
    if not isinstance(paragraphs, list) or not 1 <= len(paragraphs) <= MOST_PARAGRAPHS:
        return f"{called} has not one to {MOST_PARAGRAPHS} paragraphs"
    texts = {name: line(mail[name]) for name in LONGEST}
    said = [line(each) for each in paragraphs]
    if not all(texts.values()) or not all(said):
        return f"a text of {called} is none, or empty"
    return {"days": days, **texts, "paragraphs": said}
