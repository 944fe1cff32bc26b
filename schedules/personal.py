"""The ``personalize`` of a send step: which prompt, how long ahead, and for whom one text is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias, cast

from schedules.durations import format_duration, parse_duration

LEAD: Final = timedelta(minutes=30)
"""How long before a mail its words are asked for, where the file does not say."""

Per: TypeAlias = Literal["person", "segment"]
OnFail: TypeAlias = Literal["template"]


@dataclass(frozen=True, slots=True)
class Personalize:
    """Words of a model for the slots of a template.

    Attributes:
        prompt: name of the file below ``templates/_prompts``, such as ``win-back/hello``.
        lead: asked for so long before the mail is due; who enters later waits so long at most.
        on_fail: ``template``: no words at the hand-off, and the template's own are sent.
        per: ``person``: one text for all with the same fields; ``segment``: one a label of `segment`.
        segment: whose label, of its last promoted run.
    """

    prompt: str
    lead: timedelta = LEAD
    on_fail: OnFail = "template"
    per: Per = "person"
    segment: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The form that `from_json` reads; what is as by default is left out."""
        made: dict[str, Any] = {"lead": format_duration(self.lead), "prompt": self.prompt}
        if self.per != "person":
            made |= {"per": self.per, "segment": self.segment}
        return made

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Personalize | None:
        """Read what `to_json` wrote."""
        if data is None:
            return None
        return cls(
            data["prompt"],
            parse_duration(data["lead"]),
            per=cast(Per, data.get("per", "person")),
            segment=data.get("segment"),
        )
