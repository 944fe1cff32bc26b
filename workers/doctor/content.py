"""Whether work on content that was asked for is done."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from sqlalchemy import Connection

from tasks.personalize import requests
from tasks.sequence.outlook import span
from workers.doctor.finding import Finding, fine, warning

OLDER = requests.LEASE + 60.0  # seconds: by then a lost worker's lease is over, too


def jobs(connection: Connection) -> Iterator[Finding]:
    """Drafts, subject lines, reviews and comparisons that nobody has done."""
    found = requests.standing(connection, OLDER)
    for each in found:
        yield warning(
            "content",
            f"{each.jobs} jobs of {each.task} wait, for up to {span(dt.timedelta(seconds=each.since))}"
            + (f": {each.said}" if each.said else ""),
            "start a personalize worker, or look at the model's server",
        )
    if not found:
        yield fine("content", "no draft, review or comparison waits")
