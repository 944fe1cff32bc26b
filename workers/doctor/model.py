"""The model's server: whether it answers, what it is, and whether what it costs is known."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from tasks.personalize.settings import ModelSettings
from tasks.wording import OWNED_BY, WordingSettings
from workers.doctor.finding import Finding, error, fine, warning
from workers.logs import redact


def model() -> Iterator[Finding]:
    """Ask the server for its models; nothing is written, and nothing is paid for."""
    try:
        settings, name = ModelSettings(), WordingSettings().model
    except ValidationError:  # said by the check of the settings
        return
    if not settings.url:
        yield fine("model", "no server is named: every mail has its template's own words")
        return
    if settings.price_table.of(name) is None:
        yield error(
            "model prices",
            f"the model {name} has no price, so it is not asked",
            f"name it in DRIPFLEET_MODEL_PRICES, such as {name}=0.25/2.00; 0/0 costs nothing",
        )
    key = settings.key.get_secret_value()
    request = urllib.request.Request(
        f"{settings.url}/models", headers={"authorization": f"Bearer {key}"} if key else {}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            listed: list[Any] = json.load(answer).get("data") or []
    except (OSError, ValueError, AttributeError) as fault:
        said = f"answers {fault.code}" if isinstance(fault, urllib.error.HTTPError) else fault
        yield warning(
            "model",
            f"{settings.url} does not list its models: {redact(str(said))}",
            "start it, or correct DRIPFLEET_MODEL_URL and _KEY; mails go out on time without it",
        )
        return
    found = {str(each.get("id")): each for each in listed if isinstance(each, dict)}
    if name not in found:
        yield warning(
            "model",
            f"{settings.url} has no model {name}",
            f"set DRIPFLEET_MODEL to one of {', '.join(sorted(found)[:5]) or 'its models'}",
        )
    elif found[name].get("owned_by") == OWNED_BY:
        yield fine(
            "model",
            f"{settings.url} is the server that ships, which is not a language model: it answers"
            " from the variants of each prompt",
        )
    else:
        yield fine("model", f"{settings.url} answers, and has the model {name}")
