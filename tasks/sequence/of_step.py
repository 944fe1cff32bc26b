"""Why one step's mail went to somebody, or did not: the answer in a sentence, with the next move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, text

from schedules.definition import Sequence as Definition
from schedules.reading import suggest
from tasks.errors import Permanent
from tasks.sequence.decisions import sentence
from tasks.sequence.edit import reached

VERSIONS = text("""
SELECT version, definition FROM sequence_version WHERE sequence_key = :key ORDER BY version DESC
""")

BECAUSE: Final[Mapping[str, str]] = {
    "opted_out": "they opted out of its topic, and only they can opt in again",
    "not_opted_in": "they never opted in to its topic; `dripfleet subscribers import` with a column"
    " topic:KEY records that they did",
    "unsubscribe": "they unsubscribed",
    "complaint": "they complained about a mail",
    "hard_bounce": "their address does not exist, and is suppressed",
    "operator": "an operator stopped them",
    "erasure": "they asked to be erased",
    "max_lateness": "it was later than max_lateness lets it be; `on_late` and `catch_up` say what then",
    "holdout": "they are held out: they walk the whole way and get no mail, so that the others can be"
    " compared with them",
    "sequence_paused": "the sequence is paused; `dripfleet sequence resume` lets it go on",
    "throttle": "the sequence sends no faster than its throttle says, and this is their turn",
    "spread": "late mails are spread over the time that catch_up names",
    "refused": "the relay refused it for good; `dripfleet message show` has its words",
    "expired": "it was not sent before it expired",
    "poison": "its process died over it again and again; `dripfleet retry --list --reason poison`",
    "step_deleted": "an edit took the step away, and left none behind it",
    "drained": "an edit let those go who were under way (publish: enrolled: drain)",
}
"""What is behind a reason, and what can be done about it; others speak for themselves."""


def why(reason: str | None) -> str:
    """Return a reason in plain words."""
    if reason is None:
        return "no reason was given"
    return BECAUSE.get(reason, reason.replace("_", " "))


def about_step(
    connection: Connection,
    key: str,
    step_id: str,
    enrollment: Any,
    decisions: Sequence[Any],
    messages: Sequence[Any],
) -> str:
    """Return what became of a step for somebody, and why.

    Args:
        connection: inside `Database.snapshot()`.
        key: of the sequence.
        step_id: of the step.
        enrollment: their last one, as `explain` reads it; None: they never entered.
        decisions: the lines of the log about this step, oldest first.
        messages: its messages, oldest first.

    Raises:
        Permanent: no version of the sequence has such a step.
    """
    versions = _versions(connection, key)
    known = {step.id for definition in versions.values() for step in definition.steps}
    if step_id not in known:
        newest = versions[max(versions)] if versions else None
        ids = [step.id for step in newest.steps] if newest else []
        move = suggest(step_id, ids) or f"its steps are {', '.join(ids)}"
        raise Permanent(f"sequence {key!r} has no step {step_id!r}; {move}")
    if enrollment is None:
        return f"{step_id}: never entered the sequence, so no step of it was run"
    if messages:
        return _of_mail(step_id, messages[-1], decisions)
    told = [row for row in decisions if row.kind not in ("zone_fallback",)]
    if told:
        last = told[-1]
        said = sentence(last.kind, last.step_id, last.reason, last.detail)
        if last.kind in ("not_sent", "postponed", "parked", "exited"):
            said += f": {why(last.reason)}" if last.reason in BECAUSE else ""
        return said
    definition = versions.get(enrollment.sequence_version)
    if not enrollment.active:
        ended = why(enrollment.end_reason)
        where = enrollment.step_id or "the start"
        return f"{step_id}: was not come to; the way ended at {where}: {ended}"
    here = enrollment.step_id
    if definition is None or definition.step(step_id) is None:
        return (
            f"{step_id}: version {enrollment.sequence_version}, by which they go, has no such step"
        )
    if here is None or step_id in reached(definition, here) or here == step_id:
        stands = f"they stand at {here}" if here else "they have not begun"
        return f"{step_id}: has not been come to yet; {stands}"
    return f"{step_id}: was not run, and no way from {here}, where they stand, leads to it any more"


def _of_mail(step_id: str, message: Any, decisions: Sequence[Any]) -> str:
    name = f"{step_id}: message {message.id}"
    if message.terminal_at is None:
        return f"{name} is under way; the last line says what it waits for"
    if message.state in ("sent", "sent_assumed"):
        sure = "" if message.state == "sent" else ", as the policy of its stream assumes"
        return f"{name} was sent{sure}"
    late = next((row for row in reversed(decisions) if row.kind == "not_sent"), None)
    reason = message.reason or (late.reason if late is not None else None)
    return f"{name} was not sent ({message.state.replace('_', ' ')}): {why(reason)}"


def _versions(connection: Connection, key: str) -> dict[int, Definition]:
    found = {}
    for row in connection.execute(VERSIONS, {"key": key}):
        try:
            found[row.version] = Definition.from_json(row.definition)
        except ValueError:
            # Of another release: what it says can be told by that alone.
            continue
    return found
