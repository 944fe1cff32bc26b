"""Whether readers can leave: mails name an edge, and it answers under the address that they name."""

from __future__ import annotations

import contextlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from tasks.hits import oldest
from workers.doctor.finding import Finding, error, fine, warning

PATIENCE: Final = 5.0
JUDGED_WITHIN: Final = 120.0  # seconds: a hit is judged after fifteen, and upkeep may be busy


def edge(given: str | None = None, home: Path | None = None) -> Iterator[Finding]:
    """Ask the edge whether it is ready, where DRIPFLEET_EDGE_URL or the home says it is."""
    url = (given if given is not None else os.environ.get("DRIPFLEET_EDGE_URL", "")).strip()
    here = home or Path(os.environ.get("DRIPFLEET_HOME") or "var")
    served = ""
    with contextlib.suppress(OSError):
        served = (here / "run" / "edge.url").read_text(encoding="utf-8").strip()
    if not url and not served:
        yield warning(
            "edge",
            "mails name none: no one-click unsubscribe (RFC 8058), which large providers ask of bulk"
            " mail, and nobody hears of clicks and opens",
            "run `dripfleet api` behind TLS, and set DRIPFLEET_EDGE_URL for it and for send workers",
        )
        return
    asked = (url or served).rstrip("/")
    why = _why_not(f"{asked}/readyz")
    if why is None:
        yield fine("edge", f"{asked} answers")
    else:
        yield error(
            "edge",
            f"{asked} is not ready ({why}), so whoever wants to leave cannot",
            "start `dripfleet api`, or mend what leads there; DRIPFLEET_EDGE_URL is what mails name",
        )


def hits(connection: Connection) -> Iterator[Finding]:
    """Clicks and opens that nobody makes events of."""
    age = oldest(connection)
    if age > JUDGED_WITHIN:
        yield error(
            "clicks and opens",
            f"the oldest one waits for {age / 60:.0f} min to become an event",
            "look whether beat, the sequence and the upkeep pool run: `dripfleet status`",
        )


def _why_not(url: str) -> str | None:
    if not url.startswith(("https://", "http://")):
        return "this is no http address"
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE):
            return None
    except urllib.error.HTTPError as fault:
        fault.close()
        return f"status {fault.code}"
    except (OSError, ValueError) as fault:
        return str(getattr(fault, "reason", None) or type(fault).__name__)
