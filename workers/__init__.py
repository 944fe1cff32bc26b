"""Who runs: the Celery app, its pools, their lives, and the command line.

The rooms of this project have ordinary names, and Celery puts the working directory on the path:
another `tasks` would be taken without a word. So they are looked at here, before anything else.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

ROOMS = ("models", "schedules", "tasks", "templates")


def _guard(house: Path) -> None:
    """Stop, in one sentence, if a room of the project is somebody else's package."""
    for name in ROOMS:
        try:
            found = getattr(import_module(name), "__file__", None)
        except ImportError as fault:
            raise SystemExit(
                f"The package `{name}` of dripfleet cannot be imported: {fault}."
            ) from None
        if found is None or Path(found).resolve().parent.parent != house:
            place = Path(found).parent if found else "a folder without __init__.py"
            raise SystemExit(
                f"The package `{name}` is somebody else's ({place}), not dripfleet's ({house / name});"
                " start dripfleet from another working directory, or take that folder off PYTHONPATH."
            )


def _log_plainly() -> None:
    """Keep structlog from rich: its tracebacks show what variables hold, and those are addresses.

    And it would be five megabytes in each process of a fleet.
    """
    if not {"rich", "structlog"} & sys.modules.keys():
        sys.modules["rich"] = None  # type: ignore[assignment]
        try:
            import_module("structlog")
        finally:
            del sys.modules["rich"]


_guard(Path(__file__).resolve().parent.parent)
_log_plainly()
