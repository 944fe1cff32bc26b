"""A prompt: what a model is asked for, what it may know of a subscriber, and the slots it fills.

Read from ``templates/_prompts/NAME.yaml`` by ``schedules.prompt_file``, published to Postgres by
the hash of its canonical JSON, and read back with `Prompt.from_json`. A model fills the named slots
of a fixed template, and nothing else of the mail is its own.

A field is never handed over as it stands. A number becomes one of a few bands, a text one of the
choices or a short word of letters, anything else a yes or no: so that many subscribers share one
text, and little that one of them wrote reaches a model.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

from schedules.expression import Expression, Needs, read
from schedules.expression.evaluate import STALE, Known, evaluate
from schedules.locales import choose

SCHEMA: Final = 1
SEGMENT: Final = "segment"
"""The one field of a text that is made ``per: segment``."""
NAMES: Final = ("first_name",)
"""What a text may hold a placeholder for: ``[first_name]``, put in when the mail is made."""
OTHER: Final = "other"

_WORD: Final = re.compile(r"[^\W\d_]+(?:[ '’-][^\W\d_]+){0,3}")


@dataclass(frozen=True, slots=True)
class Field:
    """One thing that a model may know of a subscriber; of the three at most one is set.

    Attributes:
        source: what it is worth.
        bands: ascending bounds of a number: 2, 5 makes "under 2", "2 to 5", "5 or more".
        choices: the texts that are told; any other is "other".
        text: longest text of letters that is told; anything else is unknown.
    """

    source: Expression
    bands: tuple[int, ...] = ()
    choices: tuple[str, ...] = ()
    text: int | None = None

    def told(self, known: Known) -> str | None:
        """What a model is told; None: unknown."""
        value = evaluate(self.source.root, known)
        if value is None or value is STALE:
            return None
        if self.bands:
            number = isinstance(value, int | Decimal) and not isinstance(value, bool)
            return _band(self.bands, value) if number else None
        if self.choices:
            return value if value in self.choices else OTHER
        if self.text is not None:
            fit = isinstance(value, str) and len(value) <= self.text and _WORD.fullmatch(value)
            return value if fit else None
        return "yes" if value is True else "no"


@dataclass(frozen=True)
class Prompt:
    """What a model is asked for.

    Attributes:
        name: such as ``win-back/hello``.
        task: what to write, in words; it never holds a field.
        language: that the text must be in, such as ``en``.
        slots: name → longest text, in characters.
        fields: name → what a model may know.
        names: placeholders that it may use.
        variants: texts of the operator's own for every slot: examples, and what the shipped server
            answers from.
        banned: words that no text may hold.
        keep_days: how long a text is kept after somebody last asked for it; None: as the setting
            says. It changes no text, so it is no part of the JSON and its hash.
        translations: locale → the prompt of those who have it, with the same slots. Each has a hash of
            its own.
    """

    name: str
    task: str
    language: str
    slots: Mapping[str, int]
    fields: Mapping[str, Field] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    variants: tuple[Mapping[str, str], ...] = ()
    banned: tuple[str, ...] = ()
    keep_days: int | None = None
    translations: Mapping[str, Prompt] = field(default_factory=dict)

    @cached_property
    def needs(self) -> Needs:
        """What must be known of a subscriber."""
        found = Needs(subscriber=bool(self.names or self.translations))
        for each in self.fields.values():
            found |= each.source.needs
        for other in self.translations.values():
            found |= other.needs
        return found

    def of(self, locale: Any) -> Prompt:
        """The prompt of a subscriber with this locale, as it stands in the database: perhaps null."""
        found = choose(self.translations, locale)
        return self if found is None else self.translations[found]

    @cached_property
    def sha256(self) -> bytes:
        """32 bytes: the version of the prompt."""
        return hashlib.sha256(self.canonical().encode()).digest()

    def told(self, known: Known) -> dict[str, str | None]:
        """What a model is told of a subscriber, by field; of each name only whether there is one."""
        made = {name: each.told(known) for name, each in self.fields.items()}
        for name in self.names:
            made[name] = f"[{name}]" if name_like(known.subscriber.get(name)) else None
        return made

    def canonical(self) -> str:
        """Its JSON as text: equal for equal prompts."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def to_json(self) -> dict[str, Any]:
        """The form that `from_json` reads."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "task": self.task,
            "language": self.language,
            "slots": dict(self.slots),
            "fields": {
                name: {
                    "from": each.source.source,
                    "bands": list(each.bands),
                    "choices": list(each.choices),
                    "text": each.text,
                }
                for name, each in self.fields.items()
            },
            "names": list(self.names),
            "variants": [dict(each) for each in self.variants],
            "banned": list(self.banned),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Prompt:
        """Read what `to_json` wrote.

        Raises:
            ValueError: another schema.
        """
        if data.get("schema") != SCHEMA:
            raise ValueError(
                f"a stored prompt has schema {data.get('schema')!r}: expected {SCHEMA}; publish its"
                " sequence again"
            )
        return cls(
            data["name"],
            data["task"],
            data["language"],
            data["slots"],
            {
                name: Field(
                    read(each["from"], condition=False),
                    tuple(each["bands"]),
                    tuple(each["choices"]),
                    each["text"],
                )
                for name, each in data["fields"].items()
            },
            tuple(data["names"]),
            tuple(data["variants"]),
            tuple(data["banned"]),
        )


def name_like(value: Any) -> bool:
    """Whether a text can be a person's name: one to four words of letters, 40 characters at most."""
    return (
        isinstance(value, str) and len(value) <= 40 and _WORD.fullmatch(value.strip()) is not None
    )


def put_back(words: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, str]:
    """Put names in the place of their placeholders.

    Returns:
        The slots; empty where a placeholder has no name to go there, so that the template's own
        words stand in all of them.
    """
    made = {}
    for slot, said in words.items():
        for name in NAMES:
            if f"[{name}]" in said:
                if not name_like(values.get(name)):
                    return {}
                said = said.replace(f"[{name}]", str(values[name]).strip())
        made[slot] = said
    return made


def _band(bands: tuple[int, ...], value: int | Decimal) -> str:
    if value < bands[0]:
        return f"under {bands[0]}"
    for low, high in pairwise(bands):
        if value < high:
            return f"{low} to {high}"
    return f"{bands[-1]} or more"
