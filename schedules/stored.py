"""The JSON form of steps and exit rules: plain values, sorted keys, nothing empty."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import time, timedelta
from typing import Any, Literal, cast

from schedules.arms import ExperimentStep, experiment_from_json, experiment_to_json
from schedules.durations import (
    format_duration,
    format_offset,
    parse_clock,
    parse_duration,
    parse_offset,
)
from schedules.expression import Expression, read
from schedules.kinds import (
    BranchStep,
    Case,
    ExitRule,
    ExitStep,
    OnLate,
    Plain,
    SendStep,
    Step,
    UntilDate,
    UntilEvent,
    UpdateStep,
    WaitStep,
    WebhookStep,
)
from schedules.personal import Personalize


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return durations and times as text, keys sorted, and nothing that is None."""
    found: dict[str, Any] = {}
    for key in sorted(values):
        value = values[key]
        if isinstance(value, dict):
            found[key] = plain(value)
        elif isinstance(value, timedelta):
            found[key] = format_duration(value)
        elif isinstance(value, time):
            found[key] = value.strftime("%H:%M")
        elif isinstance(value, Expression):
            found[key] = value.source
        elif value is not None:
            found[key] = value
    return found


def duration(text: str | None) -> timedelta | None:
    """Read what `plain` wrote of a duration."""
    return None if text is None else parse_duration(text)


def step_to_json(step: Step) -> dict[str, Any]:
    """Return the form that `step_from_json` reads."""
    body: dict[str, Any]
    match step:
        case SendStep():
            late = {"max_lateness": step.max_lateness, "on_late": step.on_late}
            words = step.personalize and step.personalize.to_json()
            send = {"template": step.template, "personalize": words}
            body = {"send": send, "on_fail": step.on_fail, **late}
        case WaitStep(until_date=UntilDate() as until):
            offset = format_offset(until.offset) if until.offset else None
            rule = {"attribute": until.attribute, "offset": offset, "at": until.at}
            body = {"wait": {"until_date": {**rule, "missing": until.missing}}}
        case WaitStep(until_event=UntilEvent() as event):
            waited = {
                "until_event": event.event, "of": event.of, "timeout": event.timeout,
                "ignore_bots": event.ignore_bots or None,
            }  # fmt: skip
            body = {"wait": waited, "paths": {"timeout": event.on_timeout}}
        case WaitStep():
            body = {
                "wait": {"delay": step.delay, "calendar_days": step.calendar_days, "at": step.at}
            }
        case BranchStep():
            cases = [plain({"if": case.condition, "next": case.next}) for case in step.cases]
            return plain(
                {"id": step.id, "branch": [*cases, {"else": step.next}], "on_stale": step.on_stale}
            )
        case ExperimentStep():
            return plain({"id": step.id, **experiment_to_json(step)})
        case UpdateStep():
            # As rows: a value may be null, and null is what `plain` leaves out.
            attributes = [
                {"expression": value.source, "name": name}
                if isinstance(value, Expression)
                else {"name": name, "value": value}
                for name, value in step.attributes
            ]
            body = {"update": {"set": attributes or None, "topics": dict(step.topics) or None}}
        case WebhookStep():
            body = {"webhook": {"to": step.to, "fields": list(step.fields) or None}}
        case ExitStep():
            body = {"exit": {"reason": step.reason}}
    return plain({"id": step.id, "next": step.next, **body})


def step_from_json(data: Mapping[str, Any]) -> Step:
    """Read what `step_to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: it never wrote this.
    """
    id_, next_ = data["id"], data.get("next")
    if "send" in data:
        return SendStep(
            id=id_,
            next=next_,
            template=data["send"]["template"],
            on_fail=data["on_fail"],
            max_lateness=duration(data.get("max_lateness")),
            on_late=cast("OnLate | None", data.get("on_late")),
            personalize=Personalize.from_json(data["send"].get("personalize")),
        )
    if "webhook" in data:
        return WebhookStep(
            id_, data["webhook"]["to"], next_, tuple(data["webhook"].get("fields", ()))
        )
    if "until_event" in data.get("wait", {}):
        rule, paths = data["wait"], data.get("paths", {})
        event = UntilEvent(
            rule["until_event"], parse_duration(rule["timeout"]), rule.get("of"),
            rule.get("ignore_bots", False), paths.get("timeout"),
        )  # fmt: skip
        return WaitStep(id_, next_, until_event=event)
    if "wait" in data:
        return _wait(id_, next_, data["wait"])
    if "branch" in data:
        *cases, last = data["branch"]
        return BranchStep(
            id=id_,
            cases=tuple(Case(read(case["if"]), case["next"]) for case in cases),
            next=last["else"],
            on_stale=data.get("on_stale"),
        )
    if "experiment" in data:
        return experiment_from_json(id_, data["experiment"])
    if "update" in data:
        return UpdateStep(
            id=id_,
            next=next_,
            attributes=tuple((row["name"], _value(row)) for row in data["update"].get("set", ())),
            topics=tuple(sorted(data["update"].get("topics", {}).items())),
        )
    return ExitStep(id=id_, reason=data["exit"]["reason"])


def rule_to_json(rule: ExitRule) -> dict[str, Any]:
    """Return the form that `rule_from_json` reads."""
    return plain(
        {"reason": rule.reason, "event": rule.event, "when": rule.when, "after": rule.after}
    )


def rule_from_json(data: Mapping[str, Any]) -> ExitRule:
    """Read what `rule_to_json` wrote; raises as `step_from_json`."""
    when = read(data["when"], scores=False) if "when" in data else None
    return ExitRule(data["reason"], data.get("event"), when, duration(data.get("after")))


def _wait(id_: str, next_: str | None, wait: Mapping[str, Any]) -> WaitStep:
    if "until_date" in wait:
        rule = wait["until_date"]
        until = UntilDate(
            attribute=rule["attribute"],
            at=parse_clock(rule["at"]),
            missing=cast(Literal["skip", "exit"], rule["missing"]),
            offset=parse_offset(rule["offset"]) if "offset" in rule else 0,
        )
        return WaitStep(id=id_, next=next_, until_date=until)
    at = parse_clock(wait["at"]) if "at" in wait else None
    days = wait.get("calendar_days")
    return WaitStep(
        id=id_, next=next_, delay=duration(wait.get("delay")), calendar_days=days, at=at
    )


def _value(row: Mapping[str, Any]) -> Plain | Expression:
    if "expression" in row:
        return read(row["expression"], condition=False, scores=False)
    return cast(Plain, row["value"])
