"""Whether words are written, and what keeps them from it; the mails go out on time either way."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from sqlalchemy import Connection

from tasks.personalize import batch_list, pace, stuck
from tasks.sequence.outlook import span, stamp
from workers.doctor.finding import Finding, fine, warning

NEXT = {
    "budget": "raise DRIPFLEET_MODEL_BUDGET_DAY or _BUDGET_SEQUENCE, or let tomorrow (UTC) come",
    "no_model": "set DRIPFLEET_MODEL_URL for the personalize workers",
    "no_price": "name the model in DRIPFLEET_MODEL_PRICES",
    "model_refuses": "look at DRIPFLEET_MODEL_KEY, DRIPFLEET_MODEL_URL and DRIPFLEET_MODEL",
}
OTHERWISE = "look at the model's server and at the log of the personalize workers"

MORE = (
    "let the mails go; more send workers, or DRIPFLEET_MODEL_YIELD_SHARE of the personalize workers"
)


def says(since: dt.timedelta) -> str:
    """That words stand back, and for how long they have."""
    return (
        f"words have been yielding to sends for {span(since)}: mails that are due wait, so texts are made"
        " in a share of the time, the soonest needed first"
    )


def texts(connection: Connection) -> Iterator[Finding]:
    """Texts that wait, models that fail, prompts whose answers are refused, batches that go wrong."""
    found = False
    if (since := pace.yielding(connection)) is not None:
        found = True
        yield warning("words yield", says(since), MORE)
    for model in stuck.circuits(connection):
        found = True
        yield warning(
            "model faults",
            f"{model.model} {model.why}, {model.faults} times in a row; not asked before"
            f" {stamp(model.open_until)}",
            OTHERWISE,
        )
    for each in stuck.waiting(connection):
        found = True
        why = each.why.replace("_", " ")
        yield warning(
            "words",
            f"{each.texts} texts are wanted for up to {span(each.since)} ({why}); whoever is due"
            " before them gets the template's own words",
            NEXT.get(each.why, OTHERWISE),
        )
    for prompt in stuck.refused(connection):
        found = True
        yield warning(
            "words",
            f"{prompt.texts} texts of the prompt {prompt.prompt} were refused within a day, one"
            f" since {(prompt.fault or 'of its form')[:120]}",
            f"read them with `dripfleet words show {prompt.prompt} --state failed`",
        )
    for batch in batch_list.troubled(connection):
        found = True
        why = f" ({batch.why})" if batch.why else ""
        yield warning(
            "batch of words",
            f"{batch.id}, made {span(batch.since)} ago, is {batch.state}{why}; {batch.returned} of its"
            f" {batch.texts} texts went back to single calls",
            "look at `dripfleet words batches`; DRIPFLEET_MODEL_BATCH_MIN=0 makes no more of them",
        )
    if not found:
        yield fine("words", "no text waits, and none was refused today")
