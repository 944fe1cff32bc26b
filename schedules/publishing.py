"""The ``publish`` section: what becomes of those under way when a sequence is edited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from schedules.reading import Table

Enrolled: TypeAlias = Literal["migrate", "pin", "drain"]
Content: TypeAlias = Literal["follow", "pin"]
DeletedStep: TypeAlias = Literal["finish_wait"]
Finished: TypeAlias = Literal["stay", "reopen"]

KEYS: Final = ("enrolled", "content", "deleted_step", "finished", "max_immediate_sends")
ENROLLED: Final[dict[str, Enrolled]] = {"migrate": "migrate", "pin": "pin", "drain": "drain"}
CONTENT: Final[dict[str, Content]] = {"follow": "follow", "pin": "pin"}
DELETED_STEP: Final[dict[str, DeletedStep]] = {"finish_wait": "finish_wait"}
FINISHED: Final[dict[str, Finished]] = {"stay": "stay", "reopen": "reopen"}
MOST_SENDS: Final = 999_999_999
DEFAULT_SENDS: Final = 5000


@dataclass(frozen=True, slots=True)
class Publish:
    """The rules of an edit; those of the new version hold for everybody who goes by an older one.

    Attributes:
        enrolled: ``migrate``: they go on by the new version, from the step of the same id; ``pin``:
            to the end by theirs; ``drain``: they leave, after the mail that is under way.
        content: ``follow``: a mail takes its newest template when it is first claimed; ``pin``: the
            one of the version that its reader entered with.
        deleted_step: of those who stand in a step that is gone, a wait is finished first.
        finished: of those who have completed, ``stay``: nothing; ``reopen``: they go on where the new
            version has steps behind the one that they ended with.
        max_immediate_sends: more mails that the edit alone makes due at once are not let out without
            a word of the operator (``--yes``).
    """

    enrolled: Enrolled = "migrate"
    content: Content = "follow"
    deleted_step: DeletedStep = "finish_wait"
    max_immediate_sends: int = DEFAULT_SENDS
    finished: Finished = "stay"


def read_publish(top: Table) -> Publish:
    """Read the section; to be used only where the report stays empty."""
    table = top.table("publish")
    if table is None:
        return Publish()
    table.only(KEYS)
    most = table.whole("max_immediate_sends", 0, MOST_SENDS)
    enrolled = table.choice("enrolled", ENROLLED) or "migrate"
    finished = table.choice("finished", FINISHED) or "stay"
    if (enrolled, finished) == ("drain", "reopen"):
        table.report.add_at(
            (*table.path, "finished"),
            f"'finished' of {table.name} lets people in again whom 'enrolled: drain' lets go: expected"
            " 'finished: stay' beside it; correct one of them",
        )
    return Publish(
        enrolled,
        table.choice("content", CONTENT) or "follow",
        table.choice("deleted_step", DELETED_STEP) or "finish_wait",
        DEFAULT_SENDS if most is None else most,
        finished,
    )


def publish_to_json(publish: Publish) -> dict[str, Any] | None:
    """Return the form that `publish_from_json` reads; None where everything is as by default."""
    if publish == Publish():
        return None
    # What was stored before there was such a word must stay the same version.
    left_out = () if publish.finished != "stay" else ("finished",)
    return {key: getattr(publish, key) for key in KEYS if key not in left_out}


def publish_from_json(data: Mapping[str, Any] | None) -> Publish:
    """Read what `publish_to_json` wrote."""
    return Publish() if data is None else Publish(**data)
