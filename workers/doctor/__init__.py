"""What `dripfleet doctor` looks at: each finding says what is, and the next move.

Servers (`servers`), what the rows in Postgres tell of the fleet (`standing`), and this machine
(`surroundings`). A server that is down hides nothing of the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from workers.doctor.finding import Finding, Severity

__all__ = ["Finding", "Severity", "examine"]


def examine(database_url: str, redis_url: str, smtp_url: str) -> list[Finding]:
    """Look at everything a fleet stands on.

    Args:
        database_url: libpq URL of Postgres.
        redis_url: of the broker.
        smtp_url: of the relay that streams use which name none of their own.
    """
    from workers.doctor import edge, model, servers, surroundings, template_files

    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        lambda: servers.postgres(database_url),
        lambda: servers.redis(redis_url),
        lambda: servers.smtp(smtp_url),
        model.model,
        edge.edge,
        lambda: surroundings.app_options(redis_url),
        surroundings.settings,
        lambda: surroundings.variables(os.environ),
        surroundings.extras,
        template_files.template_files,
        lambda: surroundings.journals(database_url),
    )
    return [finding for check in checks for finding in check()]
