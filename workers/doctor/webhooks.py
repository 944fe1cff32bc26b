"""Whether those who want to be told what happens can be."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection

from tasks.webhooks import book
from tasks.webhooks.target import networks
from workers.doctor.finding import Finding, error, fine, warning

PATIENCE: Final = 900.0
"""Seconds: what is due is told at once, and a first failure is tried again within minutes."""


def endpoints(connection: Connection) -> Iterator[Finding]:
    """Endpoints that are disabled, fail or are paused, and what nobody took."""
    found = book.listed(connection)
    networks(os.environ.get("DRIPFLEET_WEBHOOK_NETWORKS", ""))  # raises where it is none
    for each in found:
        name, check = each["name"], f"webhook {each['name']}"
        waits = f"{each['waiting']} wait"
        since = each["since"] and each["since"].astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
        if each["stands"] == "disabled":
            yield error(
                check,
                f"disabled since {since}: {each['why']}; {waits}, and nothing is kept for it",
                f"mend it, then `dripfleet webhooks test {name}` and `dripfleet webhooks resume {name}`",
            )
        elif each["stands"] == "paused":
            yield warning(
                check,
                f"paused since {since}: {each['why']}; {waits}",
                f"`dripfleet webhooks resume {name}`",
            )
        elif each["stands"] == "failing":
            yield warning(
                check,
                f"nothing gets through since {since}: {each['why'] or 'no answer'}; {waits}",
                f"`dripfleet webhooks test {name}` says what it answers; it is tried again by itself",
            )
        elif (each["oldest"] or 0) > PATIENCE:
            yield error(
                check,
                f"{waits}, the oldest for {each['oldest'] / 60:.0f} min",
                "look whether beat, the sequence and the upkeep pool run: `dripfleet status`",
            )
        if each["dead"]:
            yield warning(
                check,
                f"{each['dead']} dead letters: nobody took them in time",
                f"`dripfleet webhooks dead {name}`, then `dripfleet webhooks replay {name} --dead`",
            )
    if found and all(each["stands"] == "good" for each in found):
        yield fine("webhook endpoints", f"{len(found)} are told what happens")
